import json

import pytest

from calltune.errors import DataError
from calltune.render import Rendered
from components.format.spill import RecordFile, RenderedFile, Some, packed, tokens_sha256


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"id": text}) + "\n" for text in ("a", "ä", "c\n", "d")), encoding="utf-8")
    return path


def test_records_are_read_in_any_order_and_some_of_them_by_their_places(lines):
    with RecordFile(lines) as records:
        assert [record["id"] for record in records] == ["a", "ä", "c\n", "d"]
        some = Some(records, [3, 1])
        assert ([record["id"] for record in some], some[1]["id"], len(some)) == (["d", "ä"], "ä", 2)
        assert [record["id"] for record in Some(some, [1])] == ["ä"]


def test_a_damaged_line_is_named(lines):
    lines.write_bytes(lines.read_bytes().replace(b'{"id": "c', b'{"id": c'))
    with RecordFile(lines) as records, pytest.raises(DataError, match=r"records\.jsonl, line 3: not JSON: "):
        list(records)


def test_no_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl: no such file"):
        RecordFile(tmp_path / "nowhere.jsonl")


def test_rendered_rows_come_back_as_they_were():
    rows = [[Rendered([1, 70_000, 3], [False, True, True])], [Rendered([5], [True]), Rendered([6, 7], [False, True])]]
    with RenderedFile() as file:
        places = [file.add(packed(one, prefix)) for one, prefix in zip(rows, (2, 1), strict=True)]
        found = [file.rows(place) for place in reversed(places)]
    assert [[Rendered(row.input_ids.tolist(), row.loss_mask.tolist()) for row in one] for one in found] == rows[::-1]
    assert [[(row.prefix, row.prefix_sha256) for row in one] for one in found] == [
        [(1, tokens_sha256([5]).hex()), (1, tokens_sha256([6]).hex())],
        [(2, tokens_sha256([1, 70_000]).hex())],
    ]


def test_the_hash_of_tokens_is_of_all_of_them_in_their_order():
    assert len({tokens_sha256(ids) for ids in ([], [1], [2], [1, 2], [2, 1], [258], [1, 70_000])}) == 7
