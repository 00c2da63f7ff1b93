"""Every recipe: `check` finds nothing wrong with it, and a step of its training runs on a random model of its architecture."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3Config

from calltune import models
from calltune.records import write_jsonl
from calltune.settings import ModelConfig
from calltune.template import TEMPLATES
from components.format.step import format_rows
from components.ingest.step import ingest
from components.train.step import train
from pipelines.check import check
from pipelines.config import load

REPO = Path(__file__).parents[2]
FOLDER = REPO / "pipelines" / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ROWS = 24
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.1,
}
LLAMA = (LlamaConfig, {"tie_word_embeddings": True})
ARCHITECTURES = {
    "functiongemma_270m": (Gemma3TextConfig, {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}),
    "helpdesk": LLAMA,
    "helpdesk_qlora": LLAMA,
    "instruct_alpaca": LLAMA,
    "llama3_8b_xlam": (
        LlamaConfig,
        {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "qwen3_8b": (Qwen3Config, {"tie_word_embeddings": False}),
    "smollm2_135m": LLAMA,
}
"""The two layers that stand in for the recipe's base model."""
ENDS = {"llama3_8b_xlam": "<|end_of_text|>"}
"""The end that a base model has learnt, where it is not SmolLM2's."""
EXPECTED_WARNINGS = {"instruct_alpaca": ["the rows have no tools"]}


@pytest.fixture
def small(tokenizer, tmp_path):
    """A function that makes the folder of a recipe's small model, with SmolLM2's tokenizer and the template's markers."""

    def make(name, template):
        kind, more = ARCHITECTURES[name]
        if template in TEMPLATES:
            markers = [token for token in dict.fromkeys((*TEMPLATES[template].markers, *TEMPLATES[template].stops)) if token]
            tokenizer.add_special_tokens({"additional_special_tokens": markers})
            tokenizer.bos_token = "<bos>" if "<bos>" in markers else tokenizer.bos_token
        if name in ENDS:
            tokenizer.add_special_tokens({"eos_token": ENDS[name]})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            config = kind(**TINY, **more, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
            AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return ModelConfig(base=str(tmp_path / "base"))

    return make


@pytest.mark.parametrize("name", RECIPES)
def test_check_finds_nothing_wrong(name, monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("CALLTUNE_CACHE", str(tmp_path))
    warnings = [line for line in check(load(FOLDER / f"{name}.yaml")) if line.startswith("warning: ")]
    expected = EXPECTED_WARNINGS.get(name, [])
    assert len(warnings) == len(expected) and all(words in line for words, line in zip(expected, warnings, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_its_training_runs_on_a_small_model_of_its_architecture(name, small, monkeypatch, tmp_path):
    monkeypatch.chdir(REPO)
    config = load(FOLDER / f"{name}.yaml")
    lines = Path(config.ingest.source).read_text(encoding="utf-8").splitlines()[:ROWS]
    write_jsonl(tmp_path / "rows.jsonl", map(json.loads, lines))
    base = small(name, config.format.template)
    ingest(config.ingest.model_copy(update={"source": str(tmp_path / "rows.jsonl")}), tmp_path)
    done = format_rows(tmp_path, base, config.format, tmp_path / "dataset")
    assert done.quarantined == 0, "every row fits, with its tools, into max_tokens"
    settings = config.train.model_copy(update={"max_steps": 1, "precision": "fp32"})
    result = train(tmp_path / "dataset", base, settings, tmp_path / "adapter", tmp_path)
    assert result.steps == 1 and 0 < result.train_loss < 100
    assert (result.method, result.started_from) == ("full" if settings.method == "auto" else settings.method, "the base model")
    stats = json.loads((tmp_path / "dataset" / "stats.json").read_text())
    known = models.tokenizer(Path(base.base))
    assert all(token in known.all_special_ids or token in known.added_tokens_decoder for token in stats["stop_ids"])
    if name in ENDS:
        assert known.convert_ids_to_tokens(stats["stop_ids"]) == [ENDS[name]]


def test_the_recipes_that_are_promised_are_there():
    assert set(RECIPES) == set(ARCHITECTURES)


def test_the_instructions_are_what_their_program_writes():
    made = runpy.run_path(str(REPO / "examples" / "instructions" / "make.py"))["rows"]()
    written = (REPO / "examples" / "instructions" / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == made and len(made) == 1100


def test_the_articles_settings_are_in_their_recipes():
    gemma, llama = (load(FOLDER / f"{name}.yaml") for name in ("functiongemma_270m", "llama3_8b_xlam"))
    assert gemma.train.model_dump(include={"method", "epochs", "batch_rows", "learning_rate", "schedule", "warmup"}) == {
        "method": "full",
        "epochs": 8,
        "batch_rows": 4,
        "learning_rate": 5e-5,
        "schedule": "constant",
        "warmup": 0,
    }
    asked = {
        "method",
        "rank",
        "lora_alpha",
        "dropout",
        "optimiser",
        "learning_rate",
        "schedule",
        "warmup",
        "epochs",
        "batch_rows",
    }
    assert tuple(llama.train.model_dump(include=asked).values()) == (
        *("qlora", 16, 16, 0.05, "adamw_8bit"),
        *(1e-4, "linear", 0.1, 1, 32),
    )
    assert llama.format.max_tokens == 1024
