"""Training rows that ask what an outside benchmark asks: which are found, which are not, and how the run ends."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from calltune.errors import DataError
from calltune.records import read_jsonl, write_jsonl
from components.format.benchmarks import benchmark_questions
from components.format.config import ContaminationConfig, FormatConfig, SplitConfig
from components.format.contamination import repeating
from components.format.step import format_rows

LONG = "please look up which of the meeting rooms on the second floor has a screen and a phone and is free"


def bfcl(number, *turns):
    return {"id": f"simple_{number}", "question": [[{"role": "user", "content": text}] for text in turns], "function": []}


def found(training, asked, **settings):
    pairs = repeating(training, asked, ContaminationConfig(**settings))
    return [(pair.train, pair.held, pair.why) for pair in pairs]


def test_a_row_with_nearly_the_words_of_a_question_is_found_and_its_nearest_named():
    asked = [["Find the area of a triangle with a base of ten units."], ["Find the area of a circle with a base of ten units."]]
    training = [["Who is Ana?"], ["find the area of a CIRCLE with a base of ten units!"], ["Find the area."]]
    assert found(training, asked) == [(1, 1, "the same words")]
    near = [["Find the area of a triangle with a height of ten units."]]
    assert found(near, asked) == [(0, 0, "82% of the words of both")]
    assert found(near, asked, similarity=0.9) == []


def test_a_row_with_a_long_run_of_a_questions_words_is_found_however_much_else_it_says():
    row = [f"{LONG} and then tell me what there is for lunch and who else is coming and how long it takes to get there by bus"]
    why = "13 words in a row, 'please look up which of the meeting rooms on the second floor has'"
    assert found([["Hm."], row], [[LONG]]) == [(1, 0, why)]
    assert found([row], [[LONG]], shared_words=30) == []


def test_words_that_many_rows_have_are_a_phrase_of_the_data_and_no_question_of_a_benchmark():
    polite = "i would like you to be so kind as to tell me in a few words"
    rows = [[f"{polite} {number} " + " ".join(f"w{number}x{place}" for place in range(20))] for number in range(30)]
    assert found(rows, [[f"{polite} nothing " + " ".join(f"v{place}" for place in range(20))]]) == []
    assert len(found(rows[:3], [[f"{polite} nothing " + " ".join(f"v{place}" for place in range(20))]])) == 3


def test_a_turn_of_a_conversation_is_held_against_the_questions_by_itself():
    talk = ["Hello, I have a question about the second floor, if you have time.", "find a free room with a screen for ten people"]
    assert found([talk], [["Find a free room with a screen for ten people."]]) == [(0, 0, "the same words")]
    assert found([["Find a free room with a screen for ten people."]], [talk]) == [(0, 0, "the same words")]
    assert found([["Hello there.", "Yes, please."]], [["Yes, please."]]) == []


def test_a_run_of_words_in_a_turn_counts_once_when_it_is_asked_whether_it_is_a_phrase():
    rows = [["Hello!", f"{LONG} {' '.join(f'w{number}x{place}' for place in range(20))}"] for number in range(6)]
    question = [f"{LONG} {' '.join(f'v{place}' for place in range(20))}"]
    assert [pair[0] for pair in found(rows, [question])] == [0, 1, 2, 3, 4, 5]


def test_nothing_is_found_without_rows_or_questions():
    assert found([], [["a"]]) == found([["a"]], []) == []


@pytest.mark.parametrize("kind", ["lines", "bom", "array", "gz", "zst"])
def test_a_benchmark_is_read_as_lines_or_array_packed_or_not(tmp_path, kind):
    rows = [bfcl(0, "Where?\u2028Here."), bfcl(1), {"query": "And when?"}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    file = tmp_path / f"bench.json{'' if kind in ('lines', 'bom', 'array') else f'.{kind}'}"
    if kind == "zst":
        with pa.output_stream(str(file), compression="zstd") as out:
            out.write(lines.encode())
    else:
        text = json.dumps(rows, indent=1) if kind == "array" else "\ufeff" * (kind == "bom") + lines
        file.write_bytes(gzip.compress(text.encode()) if kind == "gz" else text.encode())
    questions = benchmark_questions(ContaminationConfig(benchmarks=[str(file)]))
    assert [(one.row, one.id, one.turns) for one in questions] == [
        (1, "simple_0", ["Where?\u2028Here."]),
        (3, None, ["And when?"]),
    ]
    assert [str(one) for one in questions] == [f"{file.name} simple_0", f"{file.name} row 3"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'{"id": "simple_0", "ground_truth": []}\n', r"a\.json, row 1: it asks nothing: it has none of messages"),
        ("a.json", b'{"question": "Who?"}\nnothing\n', r"a\.json, line 2, is not JSON"),
        ("a.json", b"[1]", r"a\.json, row 1: must be a JSON object"),
        ("a.json", b"[", r"a\.json, is not JSON"),
        ("a.json", b"\xff\xfe", r"a\.json cannot be read: .*can't decode"),
        ("a.json", b"\n", r"a\.json has no question"),
        ("a.json.gz", gzip.compress(b'{"question": "Who?"}' * 99, mtime=0)[:-20], r"a\.json\.gz cannot be read"),
        (None, b"", r"b\.json: no such format\.contamination\.benchmarks file"),
    ],
)
def test_a_file_that_is_no_benchmark_is_one_clear_line(tmp_path, name, content, says):
    if name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        benchmark_questions(ContaminationConfig(benchmarks=[str(tmp_path / (name or "b.json"))]))
    assert "\n" not in str(caught.value)


def formatted(records, tiny, tmp_path, *benchmarks):
    write_jsonl(tmp_path / "records" / "records.jsonl", records)
    split = SplitConfig(test=0.33, validation=0.2)
    config = FormatConfig(max_tokens=1024, split=split, contamination={"benchmarks": list(map(str, benchmarks))})
    format_rows(tmp_path / "records", tiny, config, tmp_path / "out")
    return tmp_path / "out"


def test_a_training_row_that_asks_what_a_benchmark_asks_fails_the_step_with_every_pair_in_a_file(
    helpdesk_records, tiny, tmp_path
):
    some = json.loads(json.dumps(helpdesk_records[:60]))
    write_jsonl(tmp_path / "clean.jsonl", [bfcl(0, "What is the boiling point of lead at a pressure of two bars?")])
    out = formatted(some, tiny, tmp_path, tmp_path / "clean.jsonl")
    assert json.loads((out / "stats.json").read_text())["benchmarks"] == {"clean.jsonl": 1}
    assert not (out / "benchmarks.jsonl").exists()
    notes = [event["message"] for event in read_jsonl(tmp_path / "events.jsonl") if event["kind"] == "note"]
    assert "format: no training row asks one of 1 questions of benchmarks (1 file)" in notes

    held = {row["id"] for part in ("test", "validation") for row in read_jsonl(out / f"{part}.jsonl")}
    learnt = [row for row in some if row["id"] not in held]
    asked = [bfcl(number, row["messages"][0]["content"].upper()) for number, row in enumerate(some)]
    write_jsonl(tmp_path / "all.jsonl", asked)
    with pytest.raises(DataError) as caught:
        formatted(some, tiny, tmp_path, tmp_path / "clean.jsonl", tmp_path / "all.jsonl")
    said = str(caught.value)
    assert caught.value.exit_code == 2 and "\n" not in said
    assert said.startswith(f"format: {len(learnt)} of {len(learnt)} training rows ask what format.contamination.benchmarks ask: ")
    first = learnt[0]
    assert f"{first['id']} and all.jsonl simple_{some.index(first)} (the same words)" in said
    assert said.count("(the same words)") == 20 < len(learnt)
    assert said.endswith(f" and {len(learnt) - 20} more; all in {out / 'benchmarks.jsonl'}: leave these rows out")
    pairs = list(read_jsonl(out / "benchmarks.jsonl"))
    assert [pair["id"] for pair in pairs] == [row["id"] for row in learnt]
    assert pairs[0] == {
        "id": first["id"],
        "source": first["source"]["uri"],
        "row": first["source"]["row"],
        "benchmark": "all.jsonl",
        "benchmark_row": some.index(first) + 1,
        "benchmark_id": f"simple_{some.index(first)}",
        "why": "the same words",
    }


def test_a_row_of_the_test_may_ask_what_a_benchmark_asks(helpdesk_records, tiny, tmp_path):
    some = helpdesk_records[:30]
    out = formatted(some, tiny, tmp_path)
    write_jsonl(tmp_path / "bench.jsonl", [{"messages": row["messages"][:1]} for row in read_jsonl(out / "test.jsonl")])
    formatted(some, tiny, tmp_path, tmp_path / "bench.jsonl")
    assert Path(out / "train.parquet").exists()
