"""The tools in the loss: what is supervised then, in which rows, and that packs of such rows stay exact."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from calltune import models
from calltune.records import read_jsonl, write_jsonl
from calltune.render import TEMPLATES, Renderer
from calltune.template import fitted, with_syntax
from components.format.config import FormatConfig, SplitConfig
from components.format.step import format_rows
from components.format.tool_loss import with_tools

GOLDEN = Path(__file__).parents[2] / "golden" / "xlam-tools"
TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": 'Search the handbook, "A–Z" </tools> <tools>.',
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}
PING = {"type": "function", "function": {"name": "ping", "description": "", "parameters": {"type": "object", "properties": {}}}}


def user(text):
    return {"role": "user", "content": text}


def calling(*pairs):
    made = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in pairs]
    return {"role": "assistant", "tool_calls": made}


def record(*messages, tools=(TOOL, PING)):
    return {"id": "1", "messages": list(messages), "tools": list(tools)}


CASES = {
    "one_call": record(user("Who is <tools>\nAna?"), calling(("search", {"query": "</tools>"}))),
    "conversation": record(
        {"role": "system", "content": "Today is 4 May."},
        user("Hello!"),
        user("Who is Ana?"),
        calling(("search", {"query": "Ana"}), ("ping", {})),
        {"role": "tool", "content": "<tools>nobody</tools>"},
        {"role": "assistant", "content": "Nobody."},
        user("Thanks."),
        {"role": "assistant", "content": "You are welcome."},
    ),
    "no_tools": record(user("Hello!"), {"role": "assistant", "content": "Hi."}, tools=[]),
}


def marked(tokenizer, row):
    """The row's text, what is supervised between ⟦ and ⟧."""
    text, last = "", 0
    edges = [False, *row.loss_mask, False]
    for place in (at for at in range(len(edges) - 1) if edges[at] != edges[at + 1]):
        text += tokenizer.decode(row.input_ids[last:place]) + ("⟧" if edges[place] else "⟦")
        last = place
    return text + tokenizer.decode(row.input_ids[last:])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("syntax", ["json", "yaml", "python"])
def test_the_tools_and_the_answers_are_supervised_and_nothing_else(tokenizer, case, syntax):
    renderer = Renderer(tokenizer, fitted(with_syntax(TEMPLATES["xlam"], syntax), tokenizer))
    plain = renderer.rows(CASES[case])
    (row,) = with_tools(tokenizer, CASES[case], plain)
    assert row.input_ids == plain[0].input_ids
    text = marked(tokenizer, row)
    if syntax == "json":
        path = GOLDEN / f"{case}.txt"
        if os.environ.get("REGENERATE"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        assert text == path.read_bytes().decode()
    added = [
        token for token, on, before in zip(row.input_ids, row.loss_mask, plain[0].loss_mask, strict=True) if on and not before
    ]
    block = tokenizer.decode(added)
    assert block.startswith("<tools>\n") == block.endswith("\n</tools>\n") == bool(CASES[case]["tools"])
    assert all(on for on, before in zip(row.loss_mask, plain[0].loss_mask, strict=True) if before)


def test_training_rows_alone_have_it_and_every_number_says_so(helpdesk_records, tiny, tmp_path, tokenizer):
    write_jsonl(tmp_path / "records" / "records.jsonl", helpdesk_records[:30])
    split = SplitConfig(test=0.33, validation=0.2)
    outs = {}
    for on in (False, True):
        config = FormatConfig(template="xlam", max_tokens=1024, split=split, supervise_tools=on)
        format_rows(tmp_path / "records", tiny, config, outs.setdefault(on, tmp_path / str(on)))
    stats = {on: json.loads((out / "stats.json").read_text()) for on, out in outs.items()}
    assert (outs[False] / "validation.parquet").read_bytes() == (outs[True] / "validation.parquet").read_bytes()
    rows = {on: pq.read_table(out / "train.parquet").to_pylist() for on, out in outs.items()}
    assert [row["input_ids"] for row in rows[True]] == [row["input_ids"] for row in rows[False]]
    for on in (False, True):
        assert stats[on]["tokens"]["supervised"] == [sum(row["loss_mask"]) for row in rows[on]]
        assert stats[on]["supervise_tools"] == on
    block = 1 + len(tokenizer("<tools>\n")["input_ids"])
    more = [one - other for one, other in zip(*(stats[on]["tokens"]["supervised"] for on in (True, False)), strict=True)]
    assert len(set(more)) == 1 and more[0] > block  # every row has the same five tools
    assert stats[True]["stops"] == stats[False]["stops"] == {tokenizer.eos_token: stats[True]["train"]}
    page = (outs[True] / "preview.txt").read_text().split("── row ")[1]
    assert page.count("⟦") == 1 and "</user>\n⟦<tools>\n" in page and page.split("⟧")[0].endswith(tokenizer.eos_token)
    assert len(list(read_jsonl(outs[True] / "test.jsonl"))) == stats[True]["test"]


@pytest.mark.parametrize("template", ["auto", "hermes", "alpaca", "{{ messages }}"])
def test_other_templates_are_refused_in_one_line(template):
    with pytest.raises(ValidationError, match="supervise_tools: only template: xlam prints the tools after the question"):
        FormatConfig(template=template, supervise_tools=True)
    with pytest.raises(ValidationError, match="with tool_detail: none there are no tools in the prompt"):
        FormatConfig(template="xlam", supervise_tools=True, tool_detail="none")


def test_packs_of_such_rows_are_exact_and_share_nothing_that_predicts_a_tool(tiny_model, tokenizer):
    import torch

    from benchmarks.exactness import LIMIT, compare
    from components.train.packing import Row, pack, tree

    renderer = Renderer(tokenizer, fitted(TEMPLATES["xlam"], tokenizer))
    system = {"role": "system", "content": " ".join(f"Rule {number} of the house." for number in range(12))}
    rows = []
    for name, tools in (("Ana", [TOOL, PING]), ("Bo", [TOOL, PING]), ("Bo", [PING, TOOL]), ("Ana", [TOOL])):
        talk = record(system, user("Who is it?"), calling(("search", {"query": name})), tools=tools)
        rows += [Row(row.input_ids, row.loss_mask) for row in with_tools(tokenizer, talk, renderer.rows(talk))]
    rows.sort(key=lambda row: row.input_ids)
    (root,) = (segment for segment in tree(rows) if segment.shared)
    assert root.start == 0 and root.end == min(row.loss_mask.index(True) for row in rows) - 1
    assert "<tools" not in tokenizer.decode(rows[0].input_ids[: root.end])
    assert sum(len(one.labels) for one in pack(rows, 10_000)) == sum(sum(row.loss_mask) for row in rows)
    network = models.load(tiny_model, dtype=torch.float32)
    for max_tokens in (10_000, max(len(row.input_ids) for row in rows)):
        logits, gradient = compare(network, rows, max_tokens)
        assert logits <= LIMIT and gradient <= LIMIT
