"""What `calltune check` says, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from calltune.errors import ConfigError, DataError
from components.ingest.config import IngestConfig
from components.ingest.reading import LOOKED_AT
from components.ingest.step import ingest
from pipelines.check import check
from pipelines.config import load

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "examples" / "helpdesk"
FAR = {"base": "org/model", "revision": "0" * 40}
"""A Hub model that is not on this machine: nothing is loaded, nothing fetched."""


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Check a config of the first rows of the helpdesk, with sections put over it; returns the lines."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path / "cache"))
    rows = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    source = tmp_path / "rows.jsonl"

    def run(lines=rows, **sections):
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        ingest = {"source": str(source), "tools": str(EXAMPLE / "tools.py"), **sections.pop("ingest", {})}
        gate = {"thresholds": {"tool_accuracy": 0.8}}
        whole = {"name": "shop", "model": FAR, "gate": gate, **sections, "ingest": ingest}
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return list(check(load(file)))

    return run


def line(lines, start):
    (found,) = [text for text in lines if text.startswith(start)]
    return found


def warnings(lines):
    return [text for text in lines if text.startswith("warning: ")]


def test_it_says_what_a_run_would_do(checked):
    lines = checked()
    assert line(lines, "config").split()[:3] == ["config", "valid:", "shop,"]
    assert "openai" in line(lines, "dialect") and f"{LOOKED_AT} of the first {LOOKED_AT} rows read well" in line(lines, "dialect")
    assert "search_knowledge_base" in line(lines, "tools") and line(lines, "tools").split()[1] == "5"
    assert "fetched once" in line(lines, "base model")
    assert "about 114 rows to train, 20 to validate, 66 to test, of 200" in line(lines, "split")
    assert "decided when the model is here" in line(lines, "training")
    assert any("32 optimiser steps: 4 epochs of 114 rows, 16 at a time" in text for text in lines)
    assert any("tool_accuracy at least 0.8" in text for text in lines)
    assert "WORKDIR/s3" in line(lines, "store") and "WORKDIR/mlflow.db" in line(lines, "tracking")


def test_the_resolution_of_the_test_set_is_half_the_interval_of_a_paired_difference(checked):
    # 66 questions, a fifth of them decided by one model only: 1.96 * sqrt(0.2 / 66)
    said = "66 questions: a measured difference of two models is uncertain by about ±0.108, if they disagree on 20% of them"
    assert line(checked(), "test set").split(maxsplit=2)[2] == said


def test_going_on_from_the_champion_is_said(checked):
    said = "goes on from the champion's adapter, where there is a champion"
    assert any(said in text for text in checked(train={"method": "qlora", "start_from": "champion"}))
    assert not any(said in text for text in checked())


def test_a_margin_that_the_test_set_cannot_show_is_a_warning(checked):
    against = {"tool_accuracy": {"test": "not_worse", "margin": 0.02}, "call_accuracy": {"test": "better", "margin": 0.01}}
    lines = checked(train={"epochs": 8}, gate={"over_baseline": {"tool_accuracy": 0.3}, "against_champion": against})
    assert any("the smallest difference that such a test set shows in 4 of 5 cases is 0.15" in text for text in lines)
    (told,) = warnings(lines)
    assert "gate.against_champion.tool_accuracy asks for a margin of 0.02, which about 66 questions cannot tell" in told
    assert "or ask for 0.16" in told


def test_few_steps_are_a_warning(checked):
    assert any("fewer than 40 optimiser steps" in text for text in warnings(checked(train={"epochs": 4})))
    assert warnings(checked(train={"epochs": 5})) == []


def test_few_validation_rows_that_may_end_training_are_a_warning(checked):
    def told(share=0.05, **train):
        lines = checked(train={"epochs": 6, **train}, format={"split": {"validation": share}})
        return [text for text in warnings(lines) if "validation row" in text]

    (said,) = told()
    assert "loss of 10 validation rows is mostly chance, and may end training after 24 steps: set train.keep: last" in said
    assert told(share=0.1) == [], "20 rows"
    assert told(share=0) == [] and told(keep="last") == [] and told(patience=5) == []
    assert told(patience=4) != []


def test_a_gate_that_must_refuse_is_a_warning(checked):
    enough = {"epochs": 8}
    assert any("min_questions is 100, and about 66" in t for t in warnings(checked(train=enough, gate={"min_questions": 100})))
    assert any("no condition and will refuse every model" in t for t in warnings(checked(train=enough, gate={})))
    alone = {"against_champion": {"tool_accuracy": {"test": "better"}}}
    assert any("without a champion to compare with" in t for t in warnings(checked(train=enough, gate=alone)))


def test_the_test_of_a_named_source_is_counted_there(checked, tmp_path):
    rows = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:1000]
    (tmp_path / "holdout.jsonl").write_text("\n".join(rows[960:]), encoding="utf-8")
    more = {"more": [{"source": str(tmp_path / "holdout.jsonl")}]}

    def run(**split):
        return checked(rows[:960], ingest=more, format={"split": split}, gate={"min_questions": 50})

    lines = run(test_source="holdout.jsonl")
    assert "about 864 rows to train, 96 to validate, 40 to test, of 1000" in line(lines, "split")
    assert any(
        "min_questions is 50, and about 40 are expected" in text and text.endswith("bring more rows of format.split.test_source")
        for text in warnings(lines)
    )
    assert line(run(test_source="holdout.jsonl", test=0), "split") == line(lines, "split")
    with pytest.raises(DataError, match=r"test_source: no row comes from 'held\.jsonl'; the sources are .*holdout\.jsonl, "):
        run(test_source="held.jsonl")


def test_a_test_source_is_compared_by_absolute_paths_as_in_a_run(checked, tmp_path, monkeypatch):
    rows = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:1000]
    (tmp_path / "holdout.jsonl").write_text("\n".join(rows[960:]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for wanted in (f"{tmp_path}/hold*", f"{tmp_path.name}/hold*", "./holdout.jsonl"):
        split = {"split": {"test_source": wanted}}
        lines = checked(rows[:960], ingest={"more": [{"source": "holdout.jsonl"}]}, format=split)
        assert "40 to test, of 1000" in line(lines, "split")


def test_every_condition_of_the_gate_is_put_into_words(checked):
    against = {"tool_accuracy": {"test": "not_worse", "margin": 0.02}, "call_accuracy": {"test": "point", "margin": 0.1}}
    gate = {"min_questions_per_tool": 3, "maximum": {"max_length_stop_rate": 0.02}, "against_champion": against}
    gate |= {"max_data_age_days": 30}
    text = "\n".join(checked(gate={**gate, "over_baseline": {"tool_accuracy": 0.1}}))
    assert "at least 3 test questions for each tool" in text
    assert "data of which something was changed in the last 30 days" in text
    assert "max_length_stop_rate at most 0.02" in text
    assert "tool_accuracy at least 0.1 above the base model" in text
    assert "not worse than the champion: the 95 % interval of its gain above -0.02" in text
    assert "call_accuracy at least 0.1 above the champion" in text


def test_bad_rows_are_counted_and_the_first_is_explained(checked):
    good = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    lines = checked([*good[:10], '{"messages": [', *good[10:], "7"])
    assert "50 of the first 52 rows read well" in line(lines, "dialect")
    assert any(text.startswith("warning: 2 would be left out, the first for: row 11: not JSON") for text in lines)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"ingest": {"source": "nowhere.jsonl"}}, DataError, r"nowhere\.jsonl: no such file"),
        ({"ingest": {"tools": "nowhere.py"}}, DataError, r"nowhere\.py: no such tools file"),
        ({"ingest": {"tools": ""}}, DataError, r"\d+ no_tools; first, row 1: .* give a tools file \(ingest\.tools\)"),
        ({"ingest": {"source": "s3://bucket/rows"}}, ConfigError, r"cannot be reached from a run with storage\.uri: embedded"),
        ({"model": {"base": "s3://bucket/model"}}, ConfigError, r"model\.base: s3://bucket/model cannot be reached"),
        ({"model": {"base": "bundled:gpt-9"}}, ConfigError, r"'bundled:gpt-9' is not bundled; there is bundled:smollm2-135m"),
        ({"model": {"base": "org/model"}}, ConfigError, r"model\.revision: org/model needs the commit to use, 40 hex digits"),
        ({"model": {"base": "no such model"}}, ConfigError, r"neither a folder, nor bundled:smollm2-135m"),
        ({"format": {"template": "llama9"}}, ConfigError, r"format\.template: 'llama9' is not one of auto, hermes"),
        ({"evaluate": {"arguments": {"create_ticket.no": "ast"}}}, ConfigError, r"'create_ticket\.no' is no tool's argument"),
        (
            {"evaluate": {"arguments": {"create_ticket.summary": "f1>2"}}},
            ConfigError,
            r"must be ast, any, or f1>=x with 0 < x <= 1, not 'f1>2'",
        ),
        (
            {"evaluate": {"arguments": {"create_tickte.summary": "ast"}}},
            ConfigError,
            r"'create_tickte\.summary' is no tool's arg",
        ),
    ],
)
def test_what_a_run_would_stumble_over_is_refused(checked, sections, error, message):
    with pytest.raises(error, match=message):
        checked(**sections)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], r"has no rows; at least one is needed"),
        (['{"a": 1}', '{"b": 2}'], r"no known dialect: they have 'a', 'b'"),
        (["7", "[1]"], r"none of 2 rows is a JSON object; first, row 1"),
        (['{"messages": []}'], r"none of the first 1 rows can be used; first, row 1: messages"),
    ],
)
def test_a_source_without_a_usable_row_is_refused(checked, lines, message):
    with pytest.raises(DataError, match=message):
        checked(lines)


def test_a_single_row_leaves_nothing_to_test_with(checked):
    with pytest.raises(DataError, match="1 row leaves none to test with; more are needed"):
        checked((EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:1])


def test_one_of_a_thing_is_not_spoken_of_as_many(checked):
    rows = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    lines = checked(rows, train={"epochs": 1, "batch_rows": 8}, gate={"min_questions": 1, "min_questions_per_tool": 1})
    text = "\n".join([*lines, *checked(rows, format={"split": {"test": 0.33, "validation": 0.33}})])
    assert "test set     1 question: a measured" in text
    assert "at least 1 test question\n" in text and "at least 1 test question for each tool" in text
    assert "1 optimiser step: 1 epoch of 2 rows" in text and "4 epochs of 1 row," in text and "about 1 row to train" in text
    assert "gate.min_questions is 50, and about 1 is expected" in text
    assert not re.search(r"\b1 (\w+ )?(rows|questions|steps|epochs)\b", text)


ALPACA = [json.dumps({"instruction": f"Question {n}?", "input": "", "output": "Answer."}) for n in range(20)]


def test_rows_without_tools_and_calls_are_taken_as_ingest_takes_them(checked, tmp_path):
    lines = checked(ALPACA, ingest={"tools": ""}, train={"epochs": 40, "batch_rows": 1}, gate={"min_questions": 5})
    assert line(lines, "dialect").startswith("dialect      alpaca") and line(lines, "tools").endswith(": none")
    assert any("only answers without a call are learnt: name a tools file" in text for text in warnings(lines))
    assert ingest(IngestConfig(source=str(tmp_path / "rows.jsonl")), tmp_path / "out").kept == 20


@pytest.mark.parametrize(("bad", "limit"), [(15, 0.7), (5, 0.1), (1, 0.0)])
def test_what_ingest_would_refuse_is_refused(checked, tmp_path, bad, limit):
    calling = {"role": "assistant", "tool_calls": [{"function": {"name": "find", "arguments": {}}}]}
    answers = [calling] * bad + [{"role": "assistant", "content": "Hi."}] * (20 - bad)
    rows = [json.dumps({"messages": [{"role": "user", "content": f"{n}?"}, answer]}) for n, answer in enumerate(answers)]
    settings = {"tools": "", "max_quarantined": limit}
    said = rf"ingest\.max_quarantined allows {limit:.1%}; the commonest reasons: {bad} no_tools"
    with pytest.raises(DataError, match=said):
        checked(rows, ingest=settings)
    with pytest.raises(DataError, match=said):
        ingest(IngestConfig(source=str(tmp_path / "rows.jsonl"), **settings), tmp_path / "out")
    assert checked(rows, ingest={**settings, "max_quarantined": bad / 20})


def test_many_bad_rows_among_the_first_are_a_warning_where_the_others_may_be_good(checked):
    good = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:190]
    lines = checked([*["{"] * 8, *good], train={"epochs": 8})
    (said, *_) = [text for text in warnings(lines) if "max_quarantined" in text]
    assert said.startswith("warning: 8 of the first 108 rows cannot be used, ingest.max_quarantined allows 5.0%; the commonest")


TOOL = {"type": "function", "function": {"name": "own", "description": "Own.", "parameters": {"type": "object"}}}


def test_a_rule_for_a_tool_that_no_row_has_is_a_warning_where_rows_bring_their_own(checked):
    rows = [json.dumps({**json.loads(row), "tools": [TOOL]}) for row in ALPACA]
    lines = checked(rows, evaluate={"arguments": {"other.x": "ast"}})
    assert any("'other.x' names no tool of the first rows" in text for text in warnings(lines))


def test_a_rule_may_be_for_an_argument_that_some_rows_tool_has_and_others_not(checked):
    def row(text, *arguments):
        parameters = {"type": "object", "properties": {key: {"type": "string"} for key in arguments}}
        own = {"type": "function", "function": {"name": "web.own", "description": "Own.", "parameters": parameters}}
        return json.dumps({**json.loads(text), "tools": [own]})

    rows = [row(ALPACA[0], "x", "y"), *(row(text, "x") for text in ALPACA[1:])]
    lines = checked(rows, evaluate={"arguments": {"web.own.y": "ast"}})
    assert not any("web.own" in text for text in warnings(lines))
    with pytest.raises(ConfigError, match=r"'web\.own\.z' is no tool's argument; there is web\.own\.x, web\.own\.y$"):
        checked(rows, evaluate={"arguments": {"web.own.z": "ast"}})


def test_good_rows_behind_many_broken_ones_are_found_as_ingest_finds_them(checked, tmp_path):
    good = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:400]
    settings = {"max_quarantined": 0.5}
    lines = checked([*["{"] * 120, *good], ingest=settings)
    assert "100 of the first 220 rows read well" in line(lines, "dialect")
    assert any("120 of the first 220 rows cannot be used" in text for text in warnings(lines))
    config = IngestConfig(source=str(tmp_path / "rows.jsonl"), tools=str(EXAMPLE / "tools.py"), **settings)
    done = ingest(config, tmp_path / "out")
    assert (done.read, done.quarantined) == (520, 120)


def test_a_row_that_ingest_cannot_write_down_is_counted_as_bad(checked):
    broken = json.dumps({"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "Hi."}]})
    good = (EXAMPLE / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:50]
    assert "50 of the first 51 rows read well" in line(checked([*good, broken]), "dialect")


def test_a_folder_that_is_no_model_is_refused(checked, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"base: no config\.json in it"):
        checked(model={"base": str(folder)})
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no \*\.safetensors in it"):
        checked(model={"base": str(folder)})


def test_a_model_on_this_machine_says_method_rate_and_template(checked, tiny_model):
    lines = checked(model={"base": str(tiny_model)})
    assert "the folder" in line(lines, "base model")
    assert line(lines, "template") == "template     hermes (the model's own template ignores tools)"
    assert "full at learning rate 0.0001" in line(lines, "training")


def test_the_call_syntax_is_said_and_one_that_the_template_has_not_is_refused_before_the_model_is_there(checked):
    assert line(checked(format={"template": "xlam", "call_syntax": "yaml"}), "template") == "template     xlam, calls as yaml"
    with pytest.raises(ConfigError, match=r"'hermes' cannot write calls as yaml; llama3, phi3, xlam, alpaca can"):
        checked(format={"template": "hermes", "call_syntax": "yaml"})


def test_the_call_syntax_stands_beside_the_template_that_was_decided(checked, tiny_model):
    lines = checked(model={"base": str(tiny_model)}, format={"template": "alpaca", "call_syntax": "yaml"})
    assert line(lines, "template") == "template     alpaca (named in the config; calls as yaml)"


def test_a_model_without_the_templates_markers_is_refused(checked, tiny_model, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    text = (folder / "tokenizer.json").read_text(encoding="utf-8").replace("<|im_end|>", "<|other|>")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text().replace("<|im_end|>", "<|other|>"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"'hermes' needs <\|im_end\|> as special tokens"):
        checked(model={"base": str(folder)})


def test_who_is_told_is_named_and_what_that_needs_is_a_warning(checked, monkeypatch):
    monkeypatch.setenv("CALLTUNE_SLACK_URL", "https://hooks.example.com/SECRET")
    monkeypatch.delenv("CALLTUNE_WEBHOOK_URL", raising=False)
    lines = checked(notify={"via": ["slack", "webhook"], "about": ["promoted", "failed"]})
    assert line(lines, "notify") == "notify       slack, webhook, of runs that end as: promoted, failed"
    assert [text for text in warnings(lines) if "notify" in text] == [
        "warning: notify.via: CALLTUNE_WEBHOOK_URL is neither set here nor in cluster.secrets: nothing would be sent there"
    ]
    assert "SECRET" not in str(lines)


def test_a_repository_on_the_hub_is_named_and_a_token_that_nobody_brings_is_a_warning(checked, monkeypatch):
    for name in ("HF_TOKEN", "CALLTUNE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    push = {"push": {"repo": "acme/shop"}}
    lines = checked(promote=push)
    assert line(lines, "push") == "push         each champion to acme/shop on the Hub, branch main"
    assert [text for text in warnings(lines) if "promote.push" in text] == [
        "warning: promote.push: neither CALLTUNE_HUB_TOKEN nor HF_TOKEN is set here or in cluster.secrets: no push"
    ]
    assert not [
        text
        for text in warnings(checked(promote=push, cluster={"secrets": {"hub": {"token": "CALLTUNE_HUB_TOKEN"}}}))
        if "promote.push" in text
    ]
    monkeypatch.setenv("HF_TOKEN", "hf_SECRET")
    lines = checked(promote=push)
    assert not [text for text in lines if "promote.push" in text or "SECRET" in text]


def test_a_model_that_llama_cpp_does_not_know_is_refused_where_a_gguf_file_is_asked_for(checked, tiny_model, tmp_path):
    asked = {"gguf": "q8_0"}
    assert line(checked(export=asked), "gguf") == "gguf         q8_0, if the model turns out to be one that can be converted"
    folder = shutil.copytree(tiny_model, tmp_path / "base")
    here = checked(export=asked, model={"base": str(folder)})
    assert line(here, "gguf") == "gguf         one file for llama.cpp, its weights in q8_0"
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("LlamaForCausalLM", "Gemma3ForCausalLM"))
    with pytest.raises(ConfigError, match=r"export\.gguf: base: Gemma3ForCausalLM is not supported; LlamaForCausalLM \(SmolLM2"):
        checked(export=asked, model={"base": str(folder)})
    assert not [text for text in checked(model={"base": str(folder)}) if text.startswith("gguf")]


def test_several_nodes_are_said_where_a_cluster_can_be_meant_and_refused_where_not(checked):
    several = {"resources": {"train": {"nodes": 2}}}
    assert "on 2 nodes together, on a cluster: calltune submit" in "\n".join(checked(**several, storage={"uri": "s3://bucket"}))
    with pytest.raises(ConfigError, match=r"resources.train.nodes: 2 nodes are there on a cluster only \(calltune submit\)"):
        checked(**several)


def test_another_store_and_tracking_are_named(checked):
    lines = checked(
        storage={"uri": "s3://models/shop", "endpoint_url": "http://minio:9000"}, tracking={"uri": "http://mlflow:5000"}
    )
    assert line(lines, "store") == "store        s3://models/shop at http://minio:9000"
    assert line(lines, "tracking") == "tracking     MLflow at http://mlflow:5000"


def test_it_warns_of_calls_in_a_text_that_no_dialect_reads(checked):
    rows = [json.dumps({"instruction": f"Where is A{n}?", "output": f"[track(number='A{n}')]"}) for n in range(120)]
    (warning,) = [one for one in warnings(checked(rows)) if "a call" in one]
    assert f"an answer of {LOOKED_AT} of the first {LOOKED_AT} rows looks like a call" in warning
    assert warning.endswith("first, row 1: [track(number='A0')]")


def test_it_warns_where_rows_have_tools_and_call_none(checked):
    rows = [json.dumps({"instruction": f"Where is A{n}?", "output": "I do not know."}) for n in range(120)]
    assert [one for one in warnings(checked(rows)) if "none of them calls one" in one]
    assert not [one for one in warnings(checked()) if "none of them calls one" in one]
