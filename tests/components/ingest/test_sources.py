import bz2
import csv
import gzip
import json
import os
import tracemalloc
from datetime import date

import pyarrow
import pytest
from pyarrow import parquet

from calltune.errors import DataError
from calltune.records import read_jsonl
from components.ingest import sources
from components.ingest.config import IngestConfig
from components.ingest.step import ingest

TOOLS = json.dumps([{"name": "find", "parameters": {"name": {"type": "str"}}}])
ROWS = [
    {
        "query": f'Who is "Ana", no. {n}?\nä',
        "tools": TOOLS,
        "answers": json.dumps([{"name": "find", "arguments": {"name": "Ana"}}]),
    }
    for n in range(5)
]

OTHER = (
    "; it is read as openai, and has the fields of xlam: rows of another layout belong into a place .* which ingest.more names"
)


def chat(question):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}], "tools": []}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def zstd(data):
    return pyarrow.Codec("zstd").compress(data).to_pybytes()


def write(path, rows=ROWS):
    """Write rows as the name of the file says."""
    path.parent.mkdir(exist_ok=True, parents=True)
    inner = path.name.removesuffix(".gz").removesuffix(".zst")
    if inner.endswith(".parquet"):
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if inner.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        data = path.read_bytes()
    else:
        data = json.dumps(rows, indent=1).encode() if inner.endswith(".json") else lines(rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else zstd(data) if path.suffix == ".zst" else data)
    return path


def take(source, out, **config):
    result = ingest(IngestConfig(source=str(source), **config), out)
    assert result.read == result.kept + result.quarantined + result.duplicates
    return result


NAMES = ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.jsonl.zst", "a.csv.zst"]


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_gives_the_same_records(tmp_path, name):
    plain = take(write(tmp_path / "plain.jsonl"), tmp_path / "plain")
    result = take(write(tmp_path / name), tmp_path / "out")
    assert (result.kept, result.dialect) == (5, "xlam")
    assert result.fingerprint == plain.fingerprint
    assert [(r["source"]["uri"], r["source"]["row"]) for r in read_jsonl(tmp_path / "out" / "records.jsonl")] == [
        (str(tmp_path / name), n) for n in range(1, 6)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_progress_ends_where_the_file_does(tmp_path, name):
    path = write(tmp_path / name)
    assert list(sources.find(str(path)).rows())[-1].done == path.stat().st_size


def test_all_of_a_folder_is_read_in_order_and_what_is_not_is_said(tmp_path):
    write(tmp_path / "in" / "b.csv", ROWS[:2])
    write(tmp_path / "in" / "deep" / "a.jsonl.gz", ROWS[1:3])
    write(tmp_path / "in" / ".hidden.jsonl")
    (tmp_path / "in" / "readme.txt").write_text("no rows")
    result = take(tmp_path / "in", tmp_path / "out")
    assert (result.read, result.kept, result.duplicates) == (4, 3, 1)
    recorded = json.loads((tmp_path / "out" / "sources.json").read_text())
    assert [part["uri"] for part in recorded["parts"]] == [f"{tmp_path}/in/b.csv", f"{tmp_path}/in/deep/a.jsonl.gz"]
    assert "1 of 3 files are not read" in (tmp_path / "events.jsonl").read_text()


def test_a_folder_of_two_dialects_names_the_file_of_the_first_refused_row(tmp_path):
    write(tmp_path / "in" / "a.jsonl", [chat(f"{n}?") for n in range(9)])
    write(tmp_path / "in" / "b.jsonl")
    with pytest.raises(DataError, match=r"5 of 14 rows .*; first, row 1 of .*/in/b\.jsonl: messages: must be a list.*" + OTHER):
        take(tmp_path / "in", tmp_path / "out")


def test_a_folder_without_rows_says_what_would_be_read(tmp_path):
    (tmp_path / "readme.txt").write_text("no rows")
    with pytest.raises(DataError, match=r"no \.jsonl, \.ndjson, \.json, \.csv, \.parquet file in this folder"):
        sources.find(str(tmp_path))


def test_a_file_name_that_no_record_can_hold_is_one_clear_line(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text(json.dumps(chat("Hi?")) + "\n")
    with pytest.raises(DataError, match=r"the name of a file in it is not in UTF-8: b'.*caf\\xe9.jsonl'$"):
        sources.find(str(tmp_path))


def test_what_is_said_of_files_that_are_not_read_can_be_shown_whatever_their_names(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sources.runtime, "note", said.append)
    write(tmp_path / "in" / "a.jsonl")
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.txt")).write_text("no rows")
    sources.find(str(tmp_path / "in"))
    assert said[0].encode().endswith(b": caf\\udce9.txt")


def test_a_linked_folder_is_not_left_out_in_silence(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sources.runtime, "note", said.append)
    write(tmp_path / "in" / "a.jsonl")
    write(tmp_path / "more" / "b.jsonl")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "more")
    (tmp_path / "in" / "c.jsonl").symlink_to(tmp_path / "more" / "b.jsonl")
    assert [path.name for path in sources.find(str(tmp_path / "in")).parts] == ["a.jsonl", "c.jsonl"]
    assert said == [f"ingest.source: {tmp_path}/in: the linked folder linked is not read"]


@pytest.mark.parametrize("name", ["tools.json", "more/tools.json"])
def test_the_tools_file_in_the_folder_of_rows_holds_no_rows(tmp_path, monkeypatch, name):
    said = []
    monkeypatch.setattr(sources.runtime, "note", said.append)
    write(tmp_path / "in" / "a.jsonl", [chat("A?")])
    (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_text('[{"name": "find", "description": "Find.", "parameters": {}}]')
    monkeypatch.chdir(tmp_path)
    result = ingest(IngestConfig(source=f"{tmp_path}/in", tools=f"in/{name}"), tmp_path / "out")
    assert (result.read, result.kept) == (1, 1)
    assert f"ingest.source: {tmp_path}/in: {name} is not read as rows, since ingest.tools names it" in said


def test_the_tools_file_below_the_prefix_of_rows_holds_no_rows(s3):
    s3.put("rows/a.jsonl", json.dumps(chat("A?")).encode())
    s3.put("rows/tools.json", b"[]")
    (key,) = sources.find(f"{s3.uri}/rows", f"{s3.uri}/rows/tools.json").keys
    assert key.endswith("/rows/a.jsonl")


def test_a_folder_with_nothing_but_a_linked_one_says_that_it_is_not_read(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(sources.runtime, "note", said.append)
    write(tmp_path / "more" / "b.jsonl")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "more")
    with pytest.raises(DataError, match=r"no .* file in this folder"):
        sources.find(str(tmp_path / "in"))
    assert said == [f"ingest.source: {tmp_path}/in: the linked folder linked is not read"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "https://acme.org/rows.jsonl",
            "nothing is read from such an address: download it, and name the file, or have it at s3://",
        ),
        ("gs://acme/rows", r"gs://acme/rows: nothing is read from such an address: download it.* at s3://bucket/prefix or hf://"),
        ("hf://acme/calls", "hf://acme/calls: is no address that is read: hf://datasets/acme/calls would be right$"),
        ("https://huggingface.co/datasets/acme/calls", "is no address that is read: hf://datasets/acme/calls would be right$"),
        ("hf://calls", "is no address that is read: hf://datasets/OWNER/NAME would be right$"),
        ("~/rows.jsonl", r"~/rows\.jsonl: ~ and \$ are not expanded here: write the whole path, /home/ann/rows\.jsonl$"),
        ("$HOME/rows.jsonl", r"~ and \$ are not expanded here: write the whole path, /home/ann/rows\.jsonl$"),
        ("$SECRET/rows.jsonl", r"~ and \$ are not expanded here: write the whole path$"),
        ("data/*.jsonl", "no such file, and patterns are not read: name a folder, of which every data file is, such as data$"),
        ("nowhere.jsonl", "no such file in /.*, from where paths count$"),
    ],
)
def test_a_source_that_is_no_path_says_what_would_be_right(source, message, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("SECRET", "hunter2")
    with pytest.raises(DataError, match=message):
        sources.find(source)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", gzip.compress(lines(ROWS))[:-6], "a.jsonl.gz: the gzip file ends too early: it was cut off"),
        ("a.jsonl.zst", zstd(lines(ROWS))[:-6], "a.jsonl.zst: the zstd file ends too early: it was cut off"),
        ("a.jsonl.gz", lines(ROWS), "a.jsonl.gz: the gzip file is damaged or not packed so: .*incorrect header"),
        ("a.parquet", lines(ROWS), "a.parquet: not a Parquet file that can be read: "),
        ("a.csv", b"query;answers\nx;y\n", "a.csv: its header 'query;answers' has no comma"),
        ("a.csv", b"query,query\nx,y\n", "a.csv: two columns have one name"),
        ("a.csv", b'query,answers\nx,"y\n', "a.csv, line 2: not CSV: unexpected end of data"),
        ("a.csv", b"query,answers\nx,\xe9\n", "first, row 1: byte 16 of the file: not UTF-8 .0xe9.; CSV in UTF-8 would"),
        ("a.csv", b"query,\xe9\nx,y\n", "a.csv: its header has byte 6 of the file: not UTF-8 .0xe9.; CSV in UTF-8 would"),
        ("a.csv", "query,answers\n".encode("utf-16"), "a.csv: is no text in UTF-8, but looks like UTF-16: save the rows as"),
        ("a.xlsx", b"PK\x03\x04\x14\x00", "a.xlsx: is no text in UTF-8, but looks like a zip archive, as .xlsx is one: save"),
        ("a.jsonl", gzip.compress(lines(ROWS)), "looks like gzip: the name of such a file must end in .gz"),
        ("a.jsonl", bz2.compress(lines(ROWS)), "looks like bzip2: unpack it"),
        ("a.jsonl", zstd(lines(ROWS)), "looks like zstd: the name of such a file must end in .zst"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_one_clear_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as refused:
        take(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_a_csv_row_with_a_cell_too_few_is_quarantined_alone(tmp_path):
    path = write(tmp_path / "a.csv")
    path.write_text(path.read_text() + "only one\n")
    assert take(path, tmp_path / "out", max_quarantined=0.5).kept == 5
    (refused,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert (refused["row"], refused["rule"]) == (6, "csv_cells")
    assert refused["message"] == "the row has 1 cells, the header 3"


def test_parquet_with_real_lists_and_structs_reads_like_json_lines(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "Yes."}], "tools": []},
        {
            "messages": [
                {"role": "user", "content": "B?"},
                {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": '{"name": "B"}'}}]},
            ],
            "tools": [{"name": "find", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}],
        },
    ]
    result = take(write(tmp_path / "a.parquet", rows), tmp_path / "out")
    assert result.fingerprint == take(write(tmp_path / "a.jsonl", rows), tmp_path / "out").fingerprint


def test_a_column_of_bytes_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", [{**ROWS[0], "image": {"bytes": b"\x89PNG", "path": None}}])
    with pytest.raises(DataError, match=r"row 1: image: holds bytes, which no JSON has; leave the column out"):
        take(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv"])
def test_memory_does_not_grow_with_the_rows(tmp_path, name):
    def peak(count):
        path = write(tmp_path / name, [{"query": f"{n} {'x' * 20_000}", "answers": "[]"} for n in range(count)])
        tracemalloc.start()
        read = sum(1 for _ in sources.find(str(path)).rows())
        assert read == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(200), peak(600)  # 8 MB more
    assert many < few + 1_000_000


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (lambda: pyarrow.array([[("k", 1)], [("k", 1), ("k", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())), "duplicate"),
        (lambda: pyarrow.array([1, 2**30], pyarrow.int32()).cast(pyarrow.date32()), "must have magnitude"),
        (
            lambda: pyarrow.StringArray.from_buffers(
                2, pyarrow.array([0, 1, 3], pyarrow.int32()).buffers()[1], pyarrow.py_buffer(b"a\xff\xfe")
            ),
            "can't decode byte 0xff",
        ),
    ],
    ids=["map", "date", "string"],
)
def test_a_parquet_value_that_python_cannot_hold_costs_its_row_alone(tmp_path, cells, message):
    parquet.write_table(pyarrow.table({"query": ["a", "b"], "more": cells()}), tmp_path / "rows.parquet")
    good, bad = sources.find(str(tmp_path / "rows.parquet")).rows()
    assert good.problem is None and json.loads(good.text)["query"] == "a"
    assert bad.problem[0] == "not_json" and message in bad.problem[1] and json.loads(bad.text) == {"query": "b"}


def test_the_keys_of_a_parquet_map_may_be_dates(tmp_path):
    day = pyarrow.array([[(date(2026, 1, 2), 1)]], pyarrow.map_(pyarrow.date32(), pyarrow.int64()))
    parquet.write_table(pyarrow.table({"days": day}), tmp_path / "rows.parquet")
    (row,) = sources.find(str(tmp_path / "rows.parquet")).rows()
    assert json.loads(row.text) == {"days": {"2026-01-02": 1}}


def test_several_sources_are_read_one_after_the_other_each_in_its_dialect(tmp_path, take):
    (tmp_path / "more.jsonl").write_text(json.dumps({"instruction": "Who?", "output": "Ana."}) + "\n" + json.dumps(chat("A?")))
    more = [{"source": str(tmp_path / "more.jsonl"), "dialect": "alpaca"}]
    result = take([chat("A?"), chat("B?")], more=more, max_quarantined=0.5)
    assert (result.read, result.kept, result.quarantined, result.dialect) == (4, 3, 1, "openai, alpaca")
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert [(one["dialect"], one["read"], one["kept"]) for one in profile["sources"]] == [("openai", 2, 2), ("alpaca", 2, 1)]
    parts = json.loads((tmp_path / "out" / "sources.json").read_text())["parts"]
    assert [part["uri"] for part in parts] == [str(tmp_path / "rows.jsonl"), str(tmp_path / "more.jsonl")]
    assert "more.jsonl" in (tmp_path / "out" / "profile.html").read_text()


def test_a_weight_takes_its_share_of_the_rows_and_always_the_same_ones(tmp_path, take):
    rows = [chat(f"{n}?") for n in range(200)]

    def kept(rows):
        count = take(rows, weight=0.25).read
        found = {record["messages"][0]["content"] for record in read_jsonl(tmp_path / "out" / "records.jsonl")}
        assert len(found) == count
        return found

    first = kept(rows)
    assert 30 < len(first) < 70
    assert kept(rows[::-1]) == first
    assert first < kept([*rows, *(chat(f"{n}?") for n in range(200, 300))])


def test_the_rows_that_a_weight_leaves_out_are_counted(tmp_path, take, monkeypatch):
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))
    (tmp_path / "more.jsonl").write_text(json.dumps(chat("More?")))
    result = take([chat(f"{n}?") for n in range(200)], weight=0.25, more=[{"source": str(tmp_path / "more.jsonl")}])
    taken = result.read - 1
    assert result.left_out == 200 - taken
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert profile["left_out"] == result.left_out
    assert [(one["read"], one["left_out"]) for one in profile["sources"]] == [(taken, 200 - taken), (1, 0)]
    assert f"{taken} of its 200 rows are taken (0.25)" in (tmp_path / "events.jsonl").read_text()


def test_a_weight_that_leaves_nothing_says_so(take):
    with pytest.raises(DataError, match=r"rows.jsonl: none of 3 rows is taken: a larger ingest.weight would be right"):
        take([chat(f"{n}?") for n in range(3)], weight=1e-9)


def test_a_second_source_that_is_not_there_is_told_before_the_first_is_read(tmp_path, take):
    with pytest.raises(DataError, match="nowhere: no such file"):
        take([chat("A?")], more=[{"source": str(tmp_path / "nowhere")}])
    assert not (tmp_path / "out").exists()
