"""The reasons to train beside changed data: a champion that has grown old, and questions that have drifted."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from calltune.drift import counted
from calltune.errors import DataError
from components.look import recent
from components.look.config import DriftConfig, LookConfig
from components.look.reason import Reason, reason

PRINT = "f1"


def row(number, tool, words=6):
    """A question whose answer calls a tool, or none."""
    text = " ".join([f"question-{number}", *["word"] * (words - 1)])
    call = {"type": "function", "function": {"name": tool, "arguments": {}}}
    answer = {"role": "assistant", "tool_calls": [call]} if tool else {"role": "assistant", "content": "No."}
    return {"messages": [{"role": "user", "content": text}, answer]}


def rows(find, send, none, words=6):
    """So many questions for each tool, and so many without a call."""
    called = ["find"] * find + ["send"] * send + [""] * none
    return [row(number, tool, words) for number, tool in enumerate(called)]


def entry(days=0, found=PRINT):
    return {
        "n": 3,
        "digest": "d3",
        "fingerprint": found,
        "time": (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds"),
    }


@pytest.fixture
def config(tmp_path):
    tools = [{"name": name, "description": name, "parameters": {"type": "object", "properties": {}}} for name in ("find", "send")]
    (tmp_path / "tools.json").write_text(json.dumps(tools))

    def made(**settings):
        return LookConfig(
            name="shop", source="s", tools=str(tmp_path / "tools.json"), alias="champion", when="changed", **settings
        )

    return made


@pytest.fixture
def drift(store, tmp_path, config):
    """The reason that recent questions give, where the champion has learnt from 600 finds, 300 sends and 100 without a call."""
    store.put_json(f"profiles/{PRINT}.json", counted(rows(600, 300, 100)))

    def asked(asked_lately, **settings):
        (tmp_path / "recent").mkdir(exist_ok=True)
        (tmp_path / "recent" / "day-2.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked_lately))
        found = DriftConfig(questions=str(tmp_path / "recent"), **settings)
        return reason(config(drift=found), PRINT, [entry()])

    return asked


def notes(tmp_path):
    return [json.loads(line).get("message", "") for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def test_an_old_champion_is_a_reason_only_where_an_age_is_set(config):
    assert reason(config(), PRINT, [entry(days=400)]) is None
    assert reason(config(max_age_days=30), PRINT, [entry(days=29)]) is None
    aged = reason(config(max_age_days=30), PRINT, [entry(days=30)])
    assert aged == Reason("age", "the champion is 30 days old, and retrain.max_age_days is 30")


def test_changed_data_comes_first(config):
    assert reason(config(max_age_days=30), "f2", [entry(days=99)]).kind == "changed"
    assert reason(config(max_age_days=30), PRINT, []).kind == "first"


def test_the_same_questions_in_other_numbers_are_no_drift(drift, tmp_path):
    assert drift(rows(120, 60, 20)) is None
    (said,) = notes(tmp_path)
    assert said.startswith("drift: of 200 recent questions the population stability index is 0.0")


def test_other_tools_are_drift_and_so_are_longer_questions(drift):
    tools = drift(rows(60, 120, 20))
    assert tools.kind == "drift"
    # By hand: shares .6/.3/.1 before and .3/.6/.1 now give 2 · .3 · ln 2 = 0.416, the half counts aside.
    assert "0.41 for the called tools, 0.00 for the lengths, and 0.2 is allowed" in tools.text
    assert drift(rows(60, 120, 20), max_index=0.5) is None
    assert "0.00 for the called tools" in drift(rows(120, 60, 20, words=40)).text


def test_a_tool_that_nobody_called_before_counts(drift):
    assert drift(rows(100, 50, 10) + [row(number, "order") for number in range(40)]).kind == "drift"


def test_what_cannot_be_judged_is_said_and_no_reason(drift, config, store, tmp_path):
    assert drift(rows(100, 60, 20)) is None
    assert notes(tmp_path) == ["drift: not known: 180 recent questions, and 200 are needed"]
    found = DriftConfig(questions=str(tmp_path / "recent"))
    assert reason(config(drift=found), "f0", [entry(found="f0")]) is None
    assert "no profile of the data that the champion was trained on" in notes(tmp_path)[-1]


def test_a_line_that_is_half_written_is_left_out(drift, tmp_path):
    drift(rows(120, 60, 20))
    with (tmp_path / "recent" / "day-3.jsonl").open("w") as file:
        file.write(json.dumps(row(0, "find")) + '\n{"messages": [{"role"')
    (tmp_path / "events.jsonl").unlink()
    assert drift(rows(120, 60, 20)) is None
    assert notes(tmp_path)[0].startswith("drift: of 201 recent questions")


def test_a_line_ends_where_json_lines_have_its_end_and_nowhere_else(drift, tmp_path):
    drift(rows(120, 60, 20))
    odd = row(0, "find")
    odd["messages"][0]["content"] = "one\u2028two\x85three"
    (tmp_path / "recent" / "day-3.jsonl").write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "events.jsonl").unlink()
    assert drift(rows(120, 60, 20)) is None
    assert notes(tmp_path)[0].startswith("drift: of 201 recent questions")


def test_only_the_newest_rows_are_read(drift, tmp_path, monkeypatch):
    monkeypatch.setattr(recent, "MAX_ROWS", 200)
    assert drift(rows(0, 300, 0) + rows(120, 60, 20)) is None
    (tmp_path / "recent" / "day-1.jsonl").write_text("not read\n")
    assert drift(rows(120, 60, 20)) is None


def test_recent_questions_that_cannot_be_read_are_a_data_error(drift, config, tmp_path):
    drift(rows(120, 60, 20))
    (tmp_path / "recent" / "day-3.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"retrain\.drift\.questions: .*day-3\.jsonl: not JSON lines"):
        reason(config(drift=DriftConfig(questions=str(tmp_path / "recent"))), PRINT, [entry()])
    with pytest.raises(DataError, match=r"nowhere: there is no \.jsonl there"):
        reason(config(drift=DriftConfig(questions=str(tmp_path / "nowhere"))), PRINT, [entry()])


def test_recent_questions_are_read_from_s3(s3, config):
    s3.put_json(f"profiles/{PRINT}.json", counted(rows(600, 300, 100)))
    s3.put("asked/2026-01.jsonl", "".join(json.dumps(one) + "\n" for one in rows(60, 120, 20)).encode())
    found = reason(config(drift=DriftConfig(questions=f"{s3.uri}/asked")), PRINT, [entry()])
    assert found.kind == "drift"
