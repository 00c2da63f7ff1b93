"""The rows that the training benchmark compares on; its contenders are tried in test_gpu.py."""

import pyarrow.parquet as pq
import pytest

from benchmarks import train


@pytest.mark.slow
def test_rows_of_the_example_have_a_tool_list_as_long_as_asked(tmp_path):
    shortest = {}
    for tokens in (0, 1000):
        (tmp_path / str(tokens)).mkdir()
        dataset = train.prepare(str(train.EXAMPLES / "questions.jsonl"), tokens, tmp_path / str(tokens))
        lengths = [len(row) for row in pq.read_table(dataset / "train.parquet")["input_ids"].to_pylist()]
        assert len(lengths) > 10 * train.BATCH_ROWS
        shortest[tokens] = min(lengths)
    assert shortest[1000] > 1000 > shortest[0]
