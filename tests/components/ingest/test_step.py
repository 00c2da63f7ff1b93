import gzip
import json
import random
from pathlib import Path
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from calltune import in_order, runtime
from calltune.errors import DataError
from calltune.records import read_jsonl
from components.ingest import jsontext, reading, sources, step
from components.ingest.config import IngestConfig
from components.ingest.step import ingest

HELPDESK = Path(__file__).parents[3] / "examples" / "helpdesk"
TOOLS = [{"name": "find", "description": "Find.", "parameters": {"type": "object", "properties": {"name": {"type": "string"}}}}]


def chat(question, answer="Yes.", **more):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "tools": [], **more}


def call(question, name, tool="find", **more):
    made = {"role": "assistant", "tool_calls": [{"function": {"name": tool, "arguments": {"name": name}}}]}
    return {"messages": [{"role": "user", "content": question}, made], "tools": TOOLS, **more}


def written(tmp_path, name):
    return list(read_jsonl(tmp_path / "out" / f"{name}.jsonl"))


def test_the_helpdesk_data_is_kept_whole(tmp_path):
    result = ingest(IngestConfig(source=str(HELPDESK / "questions.jsonl"), tools=str(HELPDESK / "tools.py")), tmp_path)
    assert (result.read, result.kept, result.dialect) == (2168, 2168, "openai")
    profile = json.loads((tmp_path / "profile.json").read_text())
    assert profile["calls_per_row"]["0"] == 292
    assert sum(profile["calls_per_row"].values()) == 2168
    assert min(profile["rows_per_tool"].values()) > 20


def test_a_kept_row_says_where_it_came_from(take, tmp_path):
    take([call("Who is Ana?", "Ana", id="a1"), "", chat("Hi?")])
    first, second = written(tmp_path, "records")
    assert first["id"] == "a1"
    assert first["source"]["uri"] == str(tmp_path / "rows.jsonl")
    assert first["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "find", "arguments": {"name": "Ana"}}}
    ]
    assert list(first) == ["id", "messages", "tools", "source"]
    assert (second["id"], second["source"]["row"]) == ("3", 3)
    assert len(second["source"]["sha256"]) == 64


def test_ids_are_unique_whatever_the_rows_say(take, tmp_path):
    take([chat("A?", id="2"), chat("B?"), chat("C?", id=7), chat("D?", id=7), chat("E?", id=True), chat("F?", id=" \n")])
    ids = [record["id"] for record in written(tmp_path, "records")]
    assert ids == ["2", f"{tmp_path}/rows.jsonl:2", "7", "4", "5", "6"]


@pytest.mark.parametrize("mode", ["report", "redact"])
def test_a_row_that_is_nested_too_deeply_is_refused_wherever_that_would_be_noticed(take, tmp_path, mode):
    def nested(levels):
        row = call("Who is Ana (ana@example.com)?", "Ana")
        row["tools"] = [{**TOOLS[0], "parameters": {"type": "object", "properties": {"name": {}}}}]
        row["messages"][1]["tool_calls"][0]["function"]["arguments"]["name"] = "?"
        return json.dumps(row).replace('"name": "?"', f'"name": {"[" * levels}1{"]" * levels}')

    # The arguments' object is the seventh level. At some 500 redaction came to Python's limit, at 984 the digests.
    depths = [93, 94, *range(480, 500), *range(970, 985)]
    result = take([nested(levels) for levels in depths], secrets=mode, personal_data=mode, max_quarantined=1)
    assert (result.kept, result.quarantined) == (1, len(depths) - 1)
    assert {entry["rule"] for entry in written(tmp_path, "quarantine")} <= {"too_deep", "not_json"}
    assert written(tmp_path, "quarantine")[0]["message"] == "nested too deeply: at most 100 levels are taken"


def test_half_a_surrogate_pair_in_a_refused_row_stays_an_escape_where_rows_are_redacted(take, tmp_path):
    take([chat("Fine?"), json.dumps(chat("\ud83d ana@example.com"))], personal_data="redact", max_quarantined=1)
    (refused,) = written(tmp_path, "quarantine")
    assert refused["rule"] == "not_unicode"
    assert json.loads(refused["raw"])["messages"][0]["content"] == "\ud83d [EMAIL]"


def test_the_profile_counts_what_is_in_the_rows(take, tmp_path):
    take(
        [call("Who is Ana?", "Ana"), call("Who is Bo?", "Bo"), chat("Hi?"), chat("hi? "), call("Who is C?", "C", tool="fnid")],
        max_quarantined=0.2,
    )
    profile = json.loads((tmp_path / "out" / "profile.json").read_text())
    fingerprint = profile.pop("fingerprint")
    assert len(fingerprint) == 64
    assert [(one["weight"], one["read"], one["kept"]) for one in profile.pop("sources")] == [(1, 5, 3)]
    assert profile == {
        "read": 5,
        "kept": 3,
        "quarantined": 1,
        "duplicates": 1,
        "left_out": 0,
        "dialect": "openai",
        "dialect_reason": "5 of the first 5 rows have `messages`",
        "rules": {"unknown_tool": 1},
        "near_duplicates": 0,
        "secrets": {},
        "personal_data": {},
        "tools": {"find": 2},
        "rows_per_tool": {"find": 2},
        "calls_per_row": {"0": 1, "1": 2},
        "roles": {"user": 3, "assistant": 3},
        "classes": {"find": 2, "no call": 1},
        "question_words": {"1": 1, "3": 2},
        "arguments": {"find": {"name": 2}},
        "examples": {"unknown_tool": [f"{tmp_path}/rows.jsonl, row 5: {written(tmp_path, 'quarantine')[0]['message']}"]},
        "lengths": {"8": 2, "3": 1},
    }


def test_lines_cut_off_in_the_middle_are_quarantined_and_the_rest_goes_on(take, tmp_path):
    cut = json.dumps(chat("Cut?"))[:-20]
    result = take([chat("A?"), cut, chat("B?"), '{"messages": [NaN]}', "[1, 2]", chat("C?")], max_quarantined=0.5)
    assert (result.read, result.kept, result.quarantined) == (6, 3, 3)
    refused = written(tmp_path, "quarantine")
    assert [(entry["row"], entry["rule"]) for entry in refused] == [(2, "not_json"), (4, "not_json"), (5, "not_an_object")]
    assert refused[0] == {
        "source": str(tmp_path / "rows.jsonl"),
        "row": 2,
        "rule": "not_json",
        "message": refused[0]["message"],
        "raw": cut,
    }
    assert refused[1]["message"] == "not JSON: NaN is not JSON"


def test_the_same_row_again_is_a_duplicate_whatever_its_case_and_spacing(take, tmp_path):
    swapped = call("Who?", "Ana")
    swapped["messages"][0]["content"] = " who? \n"
    result = take([call("Who?", "Ana"), swapped, chat("Hi?", " Yes.\n"), chat("Hi?", "Yes.")])
    assert (result.kept, result.duplicates, result.quarantined) == (2, 2, 0)
    where = str(tmp_path / "rows.jsonl")
    assert [(entry["row"], entry["repeats"]) for entry in written(tmp_path, "duplicates")] == [
        (2, {"source": where, "row": 1}),
        (4, {"source": where, "row": 3}),
    ]


def test_the_same_question_with_other_tools_or_instructions_is_another_question(take):
    told = chat("Hi?", "No.")
    told["messages"].insert(0, {"role": "system", "content": "Always refuse."})
    assert take([chat("Hi?", "Yes."), {**chat("Hi?", "No."), "tools": TOOLS}, told]).kept == 3


def test_a_conflicting_answer_is_quarantined_and_the_first_kept(take, tmp_path):
    result = take([call("Who?", "Ana"), call("who?", "Bo")], max_quarantined=0.5)
    assert (result.kept, result.quarantined) == (1, 1)
    (refused,) = written(tmp_path, "quarantine")
    assert refused["rule"] == "conflicting_answer"
    assert refused["message"] == "the same question is answered differently in row 1, which is kept"


def test_of_a_conflicting_answer_in_another_file_that_file_is_named(take, tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text(json.dumps(call("Who?", "Ana")))
    (tmp_path / "rows" / "b.jsonl").write_text(json.dumps(call("who?", "Bo")))
    ingest(IngestConfig(source=str(tmp_path / "rows"), max_quarantined=0.5), tmp_path / "out")
    (refused,) = written(tmp_path, "quarantine")
    kept = f"row 1 of {tmp_path}/rows/a.jsonl, which is kept"
    assert refused["message"] == f"the same question is answered differently in {kept}"


def test_a_file_that_is_read_before_its_first_row_is_shows_progress_by_the_clock(take, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "LOCAL_INTERVAL_S", 1e6)
    take([json.dumps([chat(f"{n}?") for n in range(50)])], name="rows.json")
    events = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    size = (tmp_path / "rows.json").stat().st_size
    assert [event["done"] for event in events if event["kind"] == "progress" and event["name"] == "ingest"] == [0, size]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), DataError("damaged")])
def test_what_is_not_whole_is_not_there_and_what_was_there_stays(take, tmp_path, monkeypatch, stop):
    take([chat("Hi?")])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(step, "_take_all", Mock(side_effect=stop))
    with pytest.raises(type(stop)):
        take([chat("Bye?")])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_too_many_bad_rows_fail_the_run_after_the_quarantine_is_written(take, tmp_path):
    bad = [call(f"Who {n}?", "Ana", tool="fnid") for n in range(3)] + ["{", "{"]
    with pytest.raises(
        DataError,
        match=r"5 of 25 rows \(20.0%\) cannot be used, ingest.max_quarantined allows 5.0%; the commonest reasons: "
        r"3 unknown_tool, 2 not_json; first, row 21: .*'fnid'",
    ):
        take([*(chat(f"{n}?") for n in range(20)), *bad])
    assert len(written(tmp_path, "quarantine")) == 5
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["kept"] == 20


@pytest.mark.parametrize("bad", [["{", "{"], ["{"], []], ids=["too many", "all", "no row"])
def test_a_failed_ingest_leaves_no_records_also_not_those_from_before(take, tmp_path, bad):
    take([chat("Hi?")])
    with pytest.raises(DataError):
        take([*([chat("Bye?")] if len(bad) > 1 else []), *bad])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("quarantine.jsonl", "duplicates.jsonl", "profile.json", "profile.html", "sources.json")
    }
    assert len(written(tmp_path, "quarantine")) == len(bad)


def test_a_call_of_an_unknown_tool_names_the_nearest(take, tmp_path):
    with pytest.raises(DataError, match="none of 1 rows can be used"):
        take([call("Who?", "Ana", tool="fnid")])
    assert "there is no tool 'fnid'; did you mean 'find'?" in written(tmp_path, "quarantine")[0]["message"]


def test_rows_without_tools_are_fine_until_they_call(take, tmp_path):
    lonely = call("Who?", "Ana")
    del lonely["tools"]
    assert take([chat("Hi?"), lonely], max_quarantined=0.5).kept == 1
    assert written(tmp_path, "quarantine")[0]["rule"] == "no_tools"


def test_the_tools_file_serves_rows_without_tools(take, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    row = {"user_content": "Who?", "tool_name": "find", "tool_arguments": '{"name": "Ana"}'}
    assert take([row], tools=str(tmp_path / "tools.json")).dialect == "tool_choice"
    assert written(tmp_path, "records")[0]["tools"][0]["function"]["name"] == "find"


def test_a_missing_tools_file_is_named(take):
    with pytest.raises(DataError, match=r"nowhere\.py: no such tools file"):
        take([chat("Hi?")], tools="nowhere.py")


def test_a_named_dialect_is_used_for_every_row(take, tmp_path):
    rows = [{"instruction": "Hi", "output": "Hello"}, chat("Hi?")]
    assert take(rows, dialect="alpaca", max_quarantined=0.5).dialect == "alpaca"
    assert written(tmp_path, "quarantine")[0]["rule"] == "missing_field"


def test_no_such_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.jsonl: no such file"):
        ingest(IngestConfig(source=str(tmp_path / "nowhere.jsonl")), tmp_path / "out")


def test_what_is_no_file_is_not_said_to_be_absent(take, tmp_path):
    with pytest.raises(DataError, match=r"^/dev/null: is neither a file nor a folder; name a file$"):
        ingest(IngestConfig(source="/dev/null"), tmp_path / "out")
    with pytest.raises(DataError, match=r": is a folder; name the tools file$"):
        take([chat("Hi?")], tools=str(tmp_path))


@pytest.mark.parametrize(("name", "text"), [("rows.json", "[ ]"), ("rows.csv", "prompt,completion\n"), ("rows.jsonl", "")])
def test_a_file_without_rows(take, name, text):
    with pytest.raises(DataError, match=rf"{name}: has no rows; at least one is needed"):
        take([text], name=name)


def test_rows_of_no_known_dialect_are_told_what_is_known(take):
    with pytest.raises(DataError, match=r"rows.jsonl: the rows have the fields of no known dialect: they have 'a'"):
        take([{"a": 1}])


def test_a_file_that_is_not_utf8_names_line_and_byte(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(chat("A?")).encode() + b'\n{"q": "caf\xe9"}\n')
    start = path.read_bytes().index(b"\xe9")
    with pytest.raises(DataError, match=rf"first, row 2: byte {start} of the file: not UTF-8 \(0xe9\); JSON lines or"):
        ingest(IngestConfig(source=str(path)), tmp_path / "out")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_a_row_that_is_not_utf8_costs_itself_alone(tmp_path, name):
    path = tmp_path / name
    good = [b'{"instruction": "%d?", "output": "Yes."}' % n for n in range(2)]
    bad = b'{"instruction": "Jos\xe9?", "output": "Yes."}'
    if name == "rows.csv":
        good, bad = [b"%d?,Yes." % n for n in range(2)], b'"Jos\xe9\n?",Yes.'
    path.write_bytes((b"instruction,output\n" if name == "rows.csv" else b"") + b"\n".join([good[0], bad, good[1]]))
    result = ingest(IngestConfig(source=str(path), max_quarantined=0.4), tmp_path / "out")
    assert (result.read, result.kept, result.quarantined) == (3, 2, 1)
    (row,) = written(tmp_path, "quarantine")
    assert (row["row"], row["rule"]) == (2, "not_utf8")
    assert row["message"].startswith(f"byte {path.read_bytes().index(0xE9)} of the file: not UTF-8 (0xe9)")
    assert "Jos\\xe9" in row["raw"].replace("\\\\", "\\")


@pytest.mark.parametrize("before", [0, 3])
def test_an_array_that_is_not_utf8_names_the_byte(tmp_path, monkeypatch, before):
    monkeypatch.setattr(jsontext, "CHUNK_BYTES", 7)
    path = tmp_path / "latin.json"
    path.write_bytes(b'[{"q": "\xc3\xa4' + b"\xc3\xa4" * before + b'\xe9"}]')
    with pytest.raises(DataError, match=rf"latin.json: byte {path.read_bytes().index(0xE9)} of the file: not UTF-8"):
        ingest(IngestConfig(source=str(path)), tmp_path / "out")


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    for name, text in (("a.jsonl", json.dumps(chat("A?"))), ("b.json", json.dumps([chat("A?")]))):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert ingest(IngestConfig(source=str(tmp_path / name)), tmp_path / "out").kept == 1


@pytest.mark.parametrize("chunk", [1, 5, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_reads_like_lines_wherever_its_chunks_end(tmp_path, monkeypatch, chunk, indent):
    monkeypatch.setattr(jsontext, "CHUNK_BYTES", chunk)
    rows = [chat('Ä "quoted" [?]'), 12, -1.5e-7, None, chat("\\ud83d 😀"), "text", [], chat("Last?", score=1234567.25)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=indent is None), encoding="utf-8")
    read = list(sources.find(str(path)).rows())
    assert [json.loads(row.text) for row in read] == rows
    assert [row.row for row in read] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert read[-1].done == path.stat().st_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"b": }]', "line 2, character 7: not JSON: Expecting value;"),
        ('[{"a": 1}\n{"b": 2}]', "line 2, character 1: a comma or the end of the array should follow"),
        ('[{"a": 1},\n\n{"b": "cut', "line 3, character 7: not JSON: Unterminated string"),
        ('[{"a": 1}', "line 1, character 10: a comma or the end of the array should follow, and the file ends there;"),
        ('[{"a": 1},', "line 1, character 11: not JSON: Expecting value, and the file ends there;"),
        ('[{"a": 1}]\n{"b": 2}', "line 2, character 1: something follows the end of the array"),
        ("[" * 100_000, "line 1, character 2: not JSON: "),
    ],
)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_broken_array_is_refused_as_a_whole(take, monkeypatch, chunk, text, message):
    monkeypatch.setattr(jsontext, "CHUNK_BYTES", chunk)
    with pytest.raises(DataError, match=f"rows.json, {message}.*a JSON array is read whole or not at all"):
        take([text], name="rows.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            json.dumps([chat("A?")]),
            "not_an_object.*row 1: a row must be a JSON object, not a list: one a line, or a JSON array in",
        ),
        (
            json.dumps([chat("A?")], indent=1),
            "row 1: a row must be .* a JSON array in a file whose name ends in .json would be right",
        ),
        (json.dumps(chat("A?"), indent=1), "row 1: the row is an object over several lines: one a line, or a JSON array in"),
    ],
)
def test_a_jsonl_file_that_holds_no_lines_is_told_what_it_holds(take, text, message):
    with pytest.raises(DataError, match=message):
        take([text], name="rows.jsonl")


def test_a_json_file_may_hold_lines(take):
    assert take([chat("A?"), chat("B?")], name="rows.json").kept == 2


@pytest.mark.parametrize("name", ["records.jsonl", "quarantine.jsonl", "duplicates.jsonl"])
@pytest.mark.parametrize("count", [1, 2000])
def test_a_disk_without_room_is_named(take, tmp_path, name, count):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=rf"out/{name}: no room left on this disk"):
        take([line for n in range(count) for line in (chat(f"{n}?"), "{", chat(f"{n} ?"))], max_quarantined=1.0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(chat("A?")))
    with pytest.raises(DataError, match=r"rows.jsonl/out: cannot be written: Not a directory"):
        ingest(IngestConfig(source=str(tmp_path / "rows.jsonl")), tmp_path / "rows.jsonl" / "out")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ('{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "x"}]}', "not_unicode"),
        ('{"messages": [{"role": "\\ud83d", "content": "a"}]}', "unknown_role"),
        ('{"messages": ' + "[" * 100_000 + "}", "not_json"),
        ('{"messages": 1' + "0" * 5000 + "}", "not_json"),
        ('{"messages": [], "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}', "not_json"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}], "expected": 1e999}',
            "invalid_expected",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "f", '
            '"arguments": {"x": 1e999}}]}], "tools": [{"name": "f", "parameters": {"properties": {"x": {}}}}]}',
            "invalid_arguments",
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], '
            '"tools": [{"name": "f", "parameters": {"properties": {"x": {"default": 1e999}}}}]}',
            "not_finite",
        ),
    ],
)
def test_what_json_cannot_carry_is_quarantined_whole(take, tmp_path, row, rule):
    take([chat("A?"), row], max_quarantined=0.5)
    (refused,) = written(tmp_path, "quarantine")
    assert (refused["rule"], refused["raw"]) == (rule, row)


def test_the_fingerprint_is_of_the_content_whatever_its_order_and_layout(take):
    rows = [*(call(f"Who {n}?", f"A{n}") for n in range(20)), call("Who 3?", "another"), call("who 4?", "A4")]
    one = take(rows, max_quarantined=0.1).fingerprint
    random.Random(1).shuffle(rows)
    assert take(rows, max_quarantined=0.1).fingerprint == one
    assert take([json.dumps(rows, indent=1)], name="rows.json", max_quarantined=0.1).fingerprint == one
    rows[0]["messages"][0]["content"] += "!"
    assert take(rows, max_quarantined=0.1).fingerprint != one


def test_the_config_refuses_what_it_does_not_know():
    with pytest.raises(ValidationError, match="dialect"):
        IngestConfig(source="x", dialect="csv")
    with pytest.raises(ValidationError, match="max_quarantined"):
        IngestConfig(source="x", max_quarantined=1.5)
    with pytest.raises(ValidationError, match="sauce"):
        IngestConfig(source="x", sauce="y")


def test_other_processes_that_help_change_nothing(tmp_path, monkeypatch):
    """Duplicates, conflicting answers, bad rows, ids that several have, and what is redacted, in several batches."""
    rows = [call(f"Who is number {n % 150}?", f"Ana {n % 75 + n // 300}", id=n % 90) for n in range(400)]
    rows += [chat(f"Write to ana{n}@example.org, please, and say that it is about {n}.") for n in range(60)]
    lines = [json.dumps(row) for row in rows]
    lines[::40] = [line[:-9] for line in lines[::40]]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    config = IngestConfig(source=str(tmp_path / "rows.jsonl"), personal_data="redact", max_quarantined=0.9)
    results = []
    monkeypatch.setattr(step, "ALONE", 1)
    for processes in (1, 3):
        monkeypatch.setattr(in_order, "cpus", lambda processes=processes: processes)
        result = ingest(config, tmp_path / str(processes))
        results.append((result, {path.name: path.read_bytes() for path in (tmp_path / str(processes)).iterdir()}))
    assert results[0] == results[1]
    assert results[0][0].kept > 100 < results[0][0].duplicates and results[0][0].quarantined > 50


def test_a_file_that_is_cut_off_is_told_by_helpers_too_and_no_file_looks_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "ALONE", 0)
    monkeypatch.setattr(in_order, "cpus", lambda: 2)
    lines = [json.dumps(chat(f"{n}?")).encode() for n in range(100)]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"\n".join(lines))[:-6])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: the gzip file ends too early"):
        ingest(IngestConfig(source=str(tmp_path / "rows.jsonl.gz")), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


GOOD = json.dumps(chat("A?"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "rows.jsonl",
            f"{GOOD},\n{GOOD},",
            "not JSON: Extra data at character .*: one object a line, without a comma behind it, would",
        ),
        (
            "rows.jsonl",
            repr(chat("A?")),
            "row 1: not JSON: .*: it looks like Python; JSON, as json.dumps writes it, has double quotes",
        ),
        (
            "rows.jsonl",
            '{"a": None}',
            "row 1: not JSON: Expecting value at character 7: it looks like Python; .* and null, true and",
        ),
        (
            "rows.json",
            repr([chat("A?")]),
            "line 1, character 3: not JSON: .*: it looks like Python; .* a JSON array is read whole",
        ),
        (
            "rows.json",
            f'{{"data": [{GOOD}]}}',
            "json: the rows seem to be in the list 'data': that list by itself, in a .json file, ",
        ),
        (
            "rows.json",
            f'{{\n"data": [\n{GOOD}]}}',
            "over several lines: .*; where the object holds the rows in a list, that list by",
        ),
        (
            "rows.tsv",
            "instruction\toutput\nA?\tB",
            "rows.tsv: cells separated by tabs are not read: CSV, with commas and a name that",
        ),
    ],
)
def test_a_file_that_is_nearly_right_says_what_would_be(take, name, text, message):
    with pytest.raises(DataError, match=message):
        take([text], name=name)


@pytest.mark.parametrize("dialect", ["auto", "openai"])
def test_a_file_with_nothing_readable_for_long_is_not_kept_in_memory(take, monkeypatch, dialect):
    monkeypatch.setattr(reading, "MOST_UNREADABLE", 20)
    held = []
    monkeypatch.setattr(step, "first_rows", lambda rows: held.append(reading.first_rows(rows)) or held[0])
    says = (
        "none of the first 20 rows is a JSON object; first, row 1: not JSON"
        if dialect == "auto"
        else "none of 50 rows can be used"
    )
    with pytest.raises(DataError, match=says):
        take(['"broken'] * 50, dialect=dialect)
    assert len(held[0]) == 20


def notes(take, monkeypatch, rows, **config):
    said = []
    monkeypatch.setattr(runtime, "note", said.append)
    take(rows, **config)
    return [one for one in said if "looks like a call" in one or "none of them calls" in one]


def test_calls_in_a_text_that_no_dialect_reads_are_told_of_and_kept(take, monkeypatch):
    toolace = [
        {"conversations": [{"from": "human", "value": f"Where is A{n}?"}, {"from": "gpt", "value": f"[track(number='A{n}')]"}]}
        for n in range(3)
    ]
    plain = {"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hello."}]}
    (note,) = notes(take, monkeypatch, [plain, *toolace])
    assert note.startswith("ingest.dialect: an answer of 3 of 4 kept rows looks like a call in a text that no dialect reads")
    assert note.endswith("first, row 2: [track(number='A0')]")


def test_a_note_of_a_call_in_a_text_shows_no_key(take, monkeypatch):
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    said = json.dumps({"name": "find", "arguments": {"name": "It is " + key}})
    (note,) = notes(take, monkeypatch, [{"instruction": "?", "output": said}])
    assert "looks like a call" in note and key not in note


def test_rows_with_tools_of_which_none_calls_any_are_told_of(take, monkeypatch):
    assert len(notes(take, monkeypatch, [chat("Hi?", tools=TOOLS)])) == 1
    assert not notes(take, monkeypatch, [chat("Hi?", tools=TOOLS), call("Who is Ana?", "Ana")])
    assert not notes(take, monkeypatch, [chat("Hi?")])


def test_conversations_contradict_each_other_only_where_all_that_is_asked_is_the_same(take):
    question = [{"role": "user", "content": "Where is Ana?"}]
    asked = call("Where is Ana?", "Ana")["messages"][1:]
    found = [*question, *asked, {"role": "tool", "content": "B1"}]
    rows = [
        {"messages": [*found, {"role": "assistant", "content": "In B1."}], "tools": TOOLS},
        {"messages": [*question, {"role": "assistant", "content": "No idea."}], "tools": TOOLS},
        {"messages": [*found, {"role": "assistant", "content": "In B2."}], "tools": TOOLS},
    ]
    result = take(rows, max_quarantined=0.5)
    assert (result.kept, result.quarantined) == (2, 1)
