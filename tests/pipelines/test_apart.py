"""No command writes over what it reads, or where a source's folder is read as rows."""

import json
import os
from pathlib import Path

import pytest

ROW = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."}]}
CONFIG = """
name: shop
model: {base: "bundled:smollm2-135m"}
ingest: {source: rows.jsonl}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a config, rows, and what steps might have written; the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    for name in (
        *(
            "rows.jsonl",
            "mine/quarantine.jsonl",
            "mine/records.jsonl.part",
            "mine/tools.json",
            "mine/sources.json",
            "bench/test.jsonl",
        ),
        *(
            "mine/rows/all.jsonl",
            "records/records.jsonl",
            "records/quarantine.jsonl",
            "dataset/train.parquet",
            "base/config.json",
        ),
        *("trained/adapter/method.json", "exported/model/calltune.json", "exported/model.json", "decision.json"),
        *("measured/metrics.json", "measured/predictions.jsonl"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(json.dumps(ROW) + "\n")
    Path("exported/model.json").write_text('{"uri": "", "digest": "", "files": {}}')
    Path("trained/inputs.json").write_text('{"dataset": "dataset"}')
    return tmp_path


def contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "ingest -o mine --set ingest.source=mine/quarantine.jsonl",
            "--out mine: ingest would write over mine/quarantine.jsonl, which it reads as ingest.source: name another folder",
        ),
        ("ingest -o mine --set ingest.source=mine/records.jsonl.part", "would write over mine/records.jsonl.part"),
        ('ingest -o mine --set ingest.more=[{"source":"mine/quarantine.jsonl"}]', "which it reads as ingest.more.0.source"),
        ("ingest -o mine --set ingest.tools=mine/sources.json", "which it reads as ingest.tools"),
        (
            "ingest -o mine --set ingest.source=mine",
            "--out mine: is mine, of which ingest.source reads every file, so the next time these results too: name a place",
        ),
        ("ingest -o mine/new/er --set ingest.source=mine", "--out mine/new/er: is in mine, of which ingest.source reads"),
        ("ingest -o ./new --set ingest.source=.", "--out new: is in ., of which ingest.source reads"),
        ("format --records records -o mine/dataset --set ingest.source=mine", "--out mine/dataset: is in mine"),
        ("run --workdir mine/run --set ingest.source=mine", "--workdir mine/run: is in mine"),
        (
            "format --records records -o records",
            "--out records: is also --records, and what format writes would mix with what it",
        ),
        ("format --records records -o ./records/../records", "is also --records"),
        (
            "format --records records -o bench --set format.contamination.benchmarks=[bench/test.jsonl]",
            "format would write over bench/test.jsonl, which it reads as format.contamination.benchmarks",
        ),
        ("train --dataset dataset -o dataset", "--out dataset: is also --dataset"),
        ("train --dataset dataset -o base --set model.base=base", "--out base: is also model.base"),
        ("export --adapter trained -o trained", "--out trained: is also --adapter"),
        ("export --adapter trained/adapter -o dataset", "--out dataset: is also --dataset"),
        ("export --adapter trained -o exported --set model.base=exported/model", "export would write over exported/model, which"),
        ("evaluate --model exported --dataset dataset -o exported", "--out exported: is also --model"),
        ("evaluate --model exported --dataset dataset -o exported/model", "--out exported/model: is also its model"),
        ("evaluate --model base --dataset dataset -o dataset", "--out dataset: is also --dataset"),
        ("gate --candidate measured/metrics.json -o measured/metrics.json", "which it reads as --candidate: name another file"),
        ("gate --candidate measured/metrics.json -o measured/predictions.jsonl", "which it reads as --predictions"),
        ("gate --candidate measured/metrics.json -o run.yaml", "gate would write over run.yaml, which it reads as -c"),
        ("promote --model exported --decision decision.json -o decision.json", "which it reads as --decision"),
        ("promote --model exported --decision decision.json -o exported/model.json", "which it reads as --model"),
        ("compile -o run.yaml", "compile would write over run.yaml, which it reads as -c"),
    ],
)
def test_what_a_command_reads_is_not_written_over(words, said, place, command):
    before = contents()
    name, *rest = words.split()
    code, _, err = command(name, "-c", "run.yaml", *rest)
    assert code == 2
    (line,) = err.strip().splitlines()
    assert said in line
    assert contents() == before


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_hide_nothing(link, place, command):
    link(place / "mine" / "quarantine.jsonl", "other.jsonl")
    Path("folder").mkdir()
    os.symlink(place / "mine" / "quarantine.jsonl", "folder/rows.jsonl")
    os.symlink("mine", "theirs")
    for source, out in (("other.jsonl", "mine"), ("folder", "mine"), ("mine/quarantine.jsonl", "theirs"), ("mine", "theirs/new")):
        code, _, err = command("ingest", "-c", "run.yaml", "-o", out, "--set", f"ingest.source={source}")
        assert (code, f"--out {out}: " in err) == (2, True)


@pytest.mark.parametrize(
    "words",
    ["mine --set ingest.source=mine/rows", ".", "mine --set ingest.tools=mine/tools.json", "mine/_new --set ingest.source=mine"],
)
def test_what_is_never_read_again_or_written_over_is_left(words, place, command):
    Path("mine/tools.json").write_text('[{"name": "find", "parameters": {"type": "object", "properties": {}}}]')
    before = contents()
    for _ in range(2):
        code, _, err = command("ingest", "-c", "run.yaml", "--set", "ingest.max_quarantined=1", "-o", *words.split())
        assert code == 0, err
    after = contents()
    assert all(
        after.get(path) == data for path, data in before.items() if path.parent != Path("mine") or path.name == "tools.json"
    )
