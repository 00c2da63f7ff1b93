import json
import re

import pytest

from components.ingest.page import BUCKETS, buckets, quantile

TOOL = {"name": "find", "parameters": {"type": "object", "properties": {"name": {"type": "string"}, "floor": {"type": "string"}}}}
IDLE = {"name": "idle", "parameters": {"type": "object", "properties": {}}}


def asks(question, *names):
    made = [{"function": {"name": "find", "arguments": {"name": name}}} for name in names]
    answer = {"role": "assistant", "tool_calls": made} if made else {"role": "assistant", "content": "Hi."}
    return {"messages": [{"role": "user", "content": question}, answer], "tools": [TOOL, IDLE]}


def text_of(path):
    """What a reader sees, without the style."""
    page = path.read_text(encoding="utf-8")
    return " ".join(re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_the_page_shows_answers_arguments_and_refusals(take, tmp_path):
    bad = asks("<script>alert(1)</script>")
    bad["messages"][1] = {"role": "assistant", "tool_calls": [{"function": {"name": "<b>find</b>", "arguments": {}}}]}
    take([asks("Who is Ana?", "Ana"), asks("Who are Bo and Cy?", "Bo", "Cy"), asks("Hi"), asks("Hi"), bad], max_quarantined=0.5)
    text = text_of(tmp_path / "out" / "profile.html")
    assert "Read 5" in text and "Kept 3" in text and "Duplicates 1 0 of them nearly the same" in text
    assert "Quarantined 1 20.0% of the rows" in text
    assert "find 1 find + find 1 no call 1" in text
    assert "find 2 3 name 100 % floor 0 %" in text
    assert "On offer and never called: 1, such as idle" in text
    assert "unknown_tool 1" in text and "&lt;b&gt;find&lt;/b&gt;" in text
    page = (tmp_path / "out" / "profile.html").read_text()
    assert "<b>" not in page and "<script" not in page and "http://" not in page and "https://" not in page


def test_the_page_is_written_where_it_is_asked_for(tmp_path):
    from components.ingest.config import IngestConfig
    from components.ingest.step import ingest

    (tmp_path / "rows.jsonl").write_text(json.dumps(asks("Hi")))
    ingest(IngestConfig(source=str(tmp_path / "rows.jsonl")), tmp_path / "out", tmp_path / "else" / "page")
    assert (tmp_path / "else" / "page").read_text().startswith("<!DOCTYPE html>")
    assert not (tmp_path / "out" / "profile.html").exists()


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [({}, {}), ({3: 2, 5: 1}, {"3": 2, "4": 0, "5": 1}), ({1: 1, 30: 2}, {"1 to 2": 1, "29 to 30": 2})],
)
def test_lengths_are_put_into_stretches_of_equal_width(lengths, expected):
    found = buckets(lengths)
    assert {name: rows for name, rows in found.items() if rows or "to" not in name} == expected
    assert len(found) <= BUCKETS and sum(found.values()) == sum(lengths.values())


def test_a_quantile_is_the_length_that_so_many_rows_do_not_exceed():
    lengths = {1: 50, 2: 45, 9: 5}
    assert [quantile(lengths, share) for share in (0.5, 0.51, 0.95, 0.96, 1)] == [1, 2, 2, 9, 9]
    assert quantile({}, 0.5) == 0
