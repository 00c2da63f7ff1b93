"""The suite `general` on real models: lm-eval's tasks, and the loss on a text."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from calltune import models, storage
from calltune.errors import ConfigError, DataError
from components.evaluate import measuring
from components.evaluate.config import EvaluateConfig, GeneralConfig
from components.evaluate.served import Served
from components.evaluate.suites.general import suite
from components.evaluate.suites.general.documents import documents
from components.evaluate.suites.general.tasks import BUNDLED, metrics_of
from components.evaluate.suites.general.text import losses, windows

KNOWLEDGE = "general.calltune_knowledge.acc"
TEXT = """A first document of a few words, long enough to say something.

Another one.\t

It is the third one that
goes over two lines.
"""
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
"""
SPELLING = [{"question": f"{letter} comes before", "choices": [" x", " y"], "answer": n % 2} for n, letter in enumerate("abcd")]


def served(folder):
    """A model as evaluate serves it, with what the suite needs of that."""
    return Served(models.ModelFolder(folder), models.tokenizer(folder), "hermes", [2], {"which": "base"})


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "held-out.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


@pytest.fixture
def own(tmp_path):
    """A folder with two tasks of the user's and a group of them, their data beside them."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "spelling.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SPELLING))
    for name in ("letters", "more_letters"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data="spelling.jsonl"))
    (folder / "both.yaml").write_text("group: both_letters\ntask: [letters, more_letters]\n")
    return folder


@pytest.mark.slow
def test_the_real_model_is_measured_on_the_bundled_task_and_a_text_without_a_network(base_folder, text, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = EvaluateConfig(general={"tasks": ["calltune_knowledge"], "text": str(text)})
    found = measuring.measured(served(base_folder), config)
    assert list(found) == [KNOWLEDGE, "general.text_loss"]
    knowledge, loss = found.values()
    assert set(knowledge["items"].values()) == {0.0, 1.0}
    assert knowledge["n"] == 40
    assert knowledge["value"] >= 0.6, "this model knows most of it, and guessing gives a quarter"
    assert list(loss["items"]) == ["1", "2", "3"]
    assert 1 < loss["value"] < 6


def test_a_bundled_question_has_four_choices_of_which_one_is_right_and_none_stands_twice():
    rows = [json.loads(line) for line in (BUNDLED / "calltune_knowledge.jsonl").read_text().splitlines()]
    assert len({row["question"] for row in rows}) == 40
    assert all(len(set(row["choices"])) == 4 and row["answer"] in range(4) for row in rows)
    places = [sum(row["answer"] == place for row in rows) for place in range(4)]
    assert places == [10, 10, 10, 10], "who always says the first is right by chance"


def test_tasks_of_ones_own_are_read_from_their_folder_and_a_group_is_one_measure(tiny_model, own, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = GeneralConfig(tasks=["letters", "both_letters"], tasks_folder=str(own))
    found = suite.measures(served(tiny_model), settings)
    assert list(found) == ["general.letters.acc", "general.both_letters.acc"]
    assert [len(one.items) for one in found.values()] == [4, 8]
    both = found["general.both_letters.acc"].items
    assert {id_: both[id_] for id_ in found["general.letters.acc"].items} == found["general.letters.acc"].items
    first = suite.measures(served(tiny_model), GeneralConfig(tasks=["letters"], tasks_folder=str(own), limit=3))
    assert list(first["general.letters.acc"].items) == ["letters/0", "letters/1", "letters/2"]


def test_another_question_is_another_measure_to_compare_with(tiny_model, own):
    settings = GeneralConfig(tasks=["letters"], tasks_folder=str(own))
    before = suite.measures(served(tiny_model), settings)["general.letters.acc"]
    again = suite.measures(served(tiny_model), settings)["general.letters.acc"]
    assert again.as_dict() == before.as_dict()
    (own / "spelling.jsonl").write_text("".join(json.dumps({**row, "question": "z"}) + "\n" for row in SPELLING))
    after = suite.measures(served(tiny_model), settings)["general.letters.acc"]
    assert after.items.keys() == before.items.keys()
    assert after.as_dict()["sha256"] != before.as_dict()["sha256"]


@pytest.mark.parametrize(
    ("tasks", "metrics"),
    [
        (["gsm8k", "mmlu"], {"gsm8k": "exact_match", "mmlu": "acc"}),
        (["truthfulqa_mc1", "lambada_openai"], {"truthfulqa_mc1": "acc", "lambada_openai": "acc"}),
        (["calltune_knowledge", "ai2_arc"], {"calltune_knowledge": "acc", "ai2_arc": "acc"}),
    ],
)
def test_a_task_is_measured_by_its_first_metric_of_which_more_is_better(tasks, metrics):
    assert metrics_of(GeneralConfig(tasks=tasks)) == metrics


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("gsm8", r"'gsm8' is no task of lm-eval's; the nearest is 'gsm8k'$"),
        ("calltune_knowlege", r"the nearest is 'calltune_knowledge'$"),
        ("wikitext", r"wikitext has no metric of which more is better; for perplexity there is evaluate\.general\.text$"),
        ("squadv2", r"squadv2 is written in Python"),
        ("truthfulqa", r"truthfulqa has parts measured by acc and bleu_max: name them one by one$"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused_by_its_name(task, message):
    with pytest.raises(ConfigError, match=r"^evaluate\.general\.tasks: .*" + message):
        metrics_of(GeneralConfig(tasks=["calltune_knowledge", task]))


def test_a_task_whose_data_is_not_there_is_refused_in_one_line(tiny_model, own):
    (own / "spelling.jsonl").unlink()
    settings = GeneralConfig(tasks=["letters"], tasks_folder=str(own))
    with pytest.raises(
        ConfigError, match=r"^evaluate\.general\.tasks: letters cannot be loaded: FileNotFoundError: .*spelling"
    ) as it:
        suite.measures(served(tiny_model), settings)
    assert "\n" not in str(it.value)


def test_a_metric_that_is_no_number_for_each_question_is_refused(tiny_model, own):
    listed = "metric_list: [{metric: mcc, higher_is_better: true}]\n"
    (own / "letters.yaml").write_text(TASK.format(name="letters", data="spelling.jsonl") + listed)
    with pytest.raises(ConfigError, match=r"letters has no number for each question: its mcc is "):
        suite.measures(served(tiny_model), GeneralConfig(tasks=["letters"], tasks_folder=str(own)))


def test_a_folder_may_be_named_from_here_although_tasks_are_read_from_theirs(tiny_model, own, monkeypatch):
    monkeypatch.chdir(tiny_model.parent)
    (own / "letters.yaml").write_text(TASK.format(name="letters", data="spelling.jsonl"))
    found = suite.measures(served(Path(tiny_model.name)), GeneralConfig(tasks=["letters"], tasks_folder=str(own)))
    assert found["general.letters.acc"].items


# The text


def test_each_document_has_its_loss_whatever_its_windows(tiny_model, text):
    network, tokenizer = models.load(tiny_model, dtype=torch.float32).eval(), models.tokenizer(tiny_model)
    texts = documents(text)
    assert texts == [
        "A first document of a few words, long enough to say something.",
        "Another one.",
        "It is the third one that\ngoes over two lines.",
    ]
    found = losses(network, tokenizer, texts)
    for number, document in enumerate(texts, 1):
        ids = torch.tensor([tokenizer(document, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            expected = network(input_ids=ids, labels=ids).loss.item()
        assert found[str(number)] == pytest.approx(expected, rel=1e-5)


def test_a_tokenizer_that_begins_every_text_with_a_token_begins_each_window_with_it(tiny_model):
    network, tokenizer = models.load(tiny_model, dtype=torch.float32).eval(), models.tokenizer(tiny_model)
    text = "one two three four five six"
    without = tokenizer(text)["input_ids"]
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert tokenizer(text)["input_ids"] == [start, *without]
    with torch.inference_mode():
        logits = network(input_ids=torch.tensor([[start, *without]])).logits[0].float()
    expected = torch.nn.functional.cross_entropy(logits[1:-1], torch.tensor(without[1:])).item()
    assert losses(network, tokenizer, [text])["1"] == pytest.approx(expected, rel=1e-5)


def test_a_document_beyond_the_context_is_predicted_with_half_a_context_before_it(tiny_model):
    network, tokenizer = models.load(tiny_model, dtype=torch.float32).eval(), models.tokenizer(tiny_model)
    document = "one two three four five six seven eight nine ten " * 3
    ids = tokenizer(document.strip(), add_special_tokens=False)["input_ids"]
    network.config.max_position_embeddings = 10
    (found,) = losses(network, tokenizer, [document.strip()]).values()
    with torch.inference_mode():
        total = 0.0
        for position in range(1, len(ids)):
            start = next(start for start, first, last in windows(len(ids), 10) if first <= position < last)
            logits = network(input_ids=torch.tensor([ids[start:position]])).logits[0, -1]
            total -= torch.log_softmax(logits.float(), -1)[ids[position]].item()
    assert found == pytest.approx(total / (len(ids) - 1), rel=1e-4)


@pytest.mark.parametrize("context", [2, 3, 10, 11])
def test_windows_predict_every_token_but_the_first_once(context):
    for length in range(2, 50):
        seen = list(itertools.chain.from_iterable(range(first, end) for _, first, end in windows(length, context)))
        assert seen == list(range(1, length))
        assert all(end - start <= context and start < first for start, first, end in windows(length, context))
        after = list(windows(length, context))[1:]
        assert all(first - start == context // 2 for start, first, _ in after)


@pytest.mark.parametrize(("content", "message"), [(b"\n \n\n", "no text in it"), (b"\xff\xfe", "not a text in UTF-8")])
def test_a_file_without_a_text_is_refused(tmp_path, content, message):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        documents(tmp_path / "t.txt")


def test_documents_of_one_token_have_no_loss(tiny_model):
    network, tokenizer = models.load(tiny_model, dtype=torch.float32).eval(), models.tokenizer(tiny_model)
    with pytest.raises(DataError, match="none of its documents has two tokens"):
        losses(network, tokenizer, ["a", "b"])
    assert list(losses(network, tokenizer, ["a", "b c"])) == ["2"]


def test_a_model_whose_loss_is_no_number_is_refused(tiny_model, text, monkeypatch):
    monkeypatch.setattr(suite, "losses", lambda *_: {"1": math.nan})
    with pytest.raises(DataError, match="item '1' of a suite is nan"):
        measuring.measured(served(tiny_model), EvaluateConfig(general={"text": str(text)}))


# What is kept


def test_results_are_kept_by_what_they_depend_on(tiny_model, text, tmp_path, monkeypatch):
    calls = []
    measures = suite.measures
    monkeypatch.setattr(suite, "measures", lambda *asked: calls.append(asked) or measures(*asked))
    config, model = EvaluateConfig(general={"text": str(text)}), served(tiny_model)
    first = measuring.measured(model, config, "code-1")
    assert measuring.measured(model, config, "code-1") == first
    assert len(calls) == 1
    elsewhere = tmp_path / "copy of the text.txt"
    elsewhere.write_text(TEXT)
    assert measuring.measured(model, EvaluateConfig(general={"text": str(elsewhere)}), "code-1") == first
    assert len(calls) == 1, "the content counts, not its name"
    measuring.measured(model, config, "code-2")
    elsewhere.write_text(TEXT + "\n\nOne more.")
    measuring.measured(model, EvaluateConfig(general={"text": str(elsewhere)}), "code-1")
    assert len(calls) == 3
    assert len(storage.of_run().list("evaluations/suites")) == 3
    measuring.measured(model, config)
    assert len(calls) == 4, "by itself, a step asks no store"


def test_settings_say_what_was_measured_with_and_nothing_of_what_was_not(text):
    usual = {"engine": "auto", "decoding": "free", "max_new_tokens": 160, "arguments": {}, "robustness": []}
    assert measuring.recorded(EvaluateConfig()) == usual
    said = measuring.recorded(EvaluateConfig(general={"tasks": ["calltune_knowledge"], "text": str(text)}))["general"]
    assert said["text"] == models.file_sha256(text)
    assert said["versions"].keys() == {"lm-eval"}


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(measuring, "version", absent)
    with pytest.raises(
        ConfigError, match=r"^evaluate\.general needs the package lm-eval, which is not installed: pip install .*"
    ):
        measuring.recorded(EvaluateConfig(general={"tasks": ["gsm8k"]}))
    assert "versions" not in measuring.recorded(EvaluateConfig(general={"text": __file__}))["general"], "a text needs none"
