"""A small formatted data set and what training makes of it, once for the session."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from calltune import models, storage
from calltune.records import prompt_of, read_jsonl, write_jsonl
from calltune.settings import ModelConfig

ROWS = 60
NEW_TOKENS = 24
PLAIN = """
import importlib.abc, json, sys

class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("calltune", "components", "pipelines"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Wall())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, limit = sys.argv[1], int(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
for question in json.load(sys.stdin):
    prompt = tokenizer.apply_chat_template(**question, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    new = model.generate(**ids, max_new_tokens=limit)[0, ids["input_ids"].shape[1] :]
    print(json.dumps({"prompt": prompt, "text": tokenizer.decode(new)}))
"""


@dataclass(frozen=True)
class TrainedRun:
    """One training run on the tiny model: its folders, and what it returned."""

    adapter: Path
    out: Path
    result: object
    events: list[dict]


@dataclass(frozen=True)
class ExportedRun:
    """One export: `model.json`, what the step returned, the folder in the local cache, and the store that has it."""

    json: Path
    result: object
    folder: Path
    store: Path


@pytest.fixture(scope="session")
def tiny(tiny_model):
    """The tiny model as the config names it."""
    return ModelConfig(base=str(tiny_model))


@pytest.fixture(scope="session")
def small_records(helpdesk_records, tmp_path_factory):
    """Folder of ingest with the first rows of the bundled data set."""
    folder = tmp_path_factory.mktemp("small-records")
    write_jsonl(folder / "records.jsonl", helpdesk_records[:ROWS])
    return folder


@pytest.fixture(scope="session")
def dataset(small_records, tiny, tmp_path_factory):
    """Folder of format: training, validation and test rows for the tiny model."""
    from components.format.config import FormatConfig, SplitConfig
    from components.format.step import format_rows

    out = tmp_path_factory.mktemp("dataset")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLTUNE_EVENTS", str(out / "events.jsonl"))
        format_rows(small_records, tiny, FormatConfig(max_tokens=1024, split=SplitConfig(test=0.33, validation=0.2)), out)
    return out


@pytest.fixture(scope="session")
def train_tiny(dataset, tiny, tmp_path_factory):
    """A function that trains the tiny model with the given settings."""
    from components.train.config import TrainConfig
    from components.train.step import train

    def run(**settings):
        out = tmp_path_factory.mktemp("train")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CALLTUNE_EVENTS", str(out / "events.jsonl"))
            result = train(dataset, tiny, TrainConfig(**settings), out / "adapter", out)
        events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
        return TrainedRun(out / "adapter", out, result, events)

    return run


@pytest.fixture(scope="session")
def settings_of():
    """A function from a method's name to settings that teach the tiny model enough to be sure of its answers."""
    rates = {"full": 2e-3, "lora": 1e-2, "qlora": 1e-2}
    return lambda method: dict(method=method, learning_rate=rates[method], epochs=3, batch_rows=8, precision="fp32")


@pytest.fixture(scope="session")
def trained(train_tiny, settings_of):
    """A function from a method's name to its one training run of the session."""
    done = {}

    def run(method):
        if method not in done:
            done[method] = train_tiny(**settings_of(method), seed=1)
        return done[method]

    return run


@pytest.fixture(scope="session")
def exported(trained, dataset, tiny, tmp_path_factory):
    """A function from a method's name to the one export of its training run, into a store of its own."""
    from components.export.config import ExportConfig
    from components.export.step import export

    done = {}

    def run(method):
        if method not in done:
            place = tmp_path_factory.mktemp("export")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("CALLTUNE_EVENTS", str(place / "events.jsonl"))
                patch.setenv("CALLTUNE_STORAGE", str(place / "store"))
                patch.setenv("CALLTUNE_CACHE", str(place / "cache"))
                patch.setenv("CALLTUNE_RUN_ID", f"export-{method}")
                storage.open_store.cache_clear()
                result = export(trained(method).adapter, dataset, tiny, ExportConfig(), place / "model.json")
                folder = models.cache_dir() / "models" / result.digest
            storage.open_store.cache_clear()
            done[method] = ExportedRun(place / "model.json", result, folder, place / "store")
        return done[method]

    return run


@pytest.fixture(scope="session")
def questions(dataset):
    """The test questions of the small data set, twenty records."""
    return list(read_jsonl(dataset / "test.jsonl"))


@pytest.fixture(scope="session")
def plain_answers(exported, questions):
    """Greedy answers of the exported folder from transformers alone, in a process that cannot import Calltune."""
    asked = json.dumps([{"conversation": prompt_of(record), "tools": record["tools"]} for record in questions])
    command = [sys.executable, "-I", "-c", PLAIN, str(exported("full").folder), str(NEW_TOKENS)]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
