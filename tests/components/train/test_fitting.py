"""Memory that does not suffice: smaller packs, the same batch. A forward pass that raises stands in for a full GPU."""

import json
from functools import wraps

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from calltune.errors import ConfigError, UserError
from components.train import fitting
from components.train.collator import Collator
from components.train.config import TrainConfig
from components.train.method import adapter_config, build, decide, require_trained_as_said
from components.train.packing import Row

SETTINGS = dict(method="lora", learning_rate=1e-2, epochs=1, batch_rows=8, precision="fp32", seed=1)


@pytest.fixture
def memory(monkeypatch):
    """A function that has every forward pass of more tokens than these run out of memory; returns how many did."""
    real = LlamaForCausalLM.forward

    def limit(tokens):
        failed = []

        @wraps(real)
        def forward(self, input_ids=None, **given):
            if input_ids.numel() > tokens:
                failed.append(input_ids.numel())
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return real(self, input_ids=input_ids, **given)

        monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
        return failed

    return limit


def losses(run):
    return [line.split(",") for line in (run.out / "loss.csv").read_text().splitlines()[1:]]


def test_a_batch_that_does_not_fit_is_the_same_batch_in_smaller_packs(train_tiny, memory):
    whole = train_tiny(**SETTINGS)
    failed = memory(800)
    cut = train_tiny(**SETTINGS)
    assert failed and len(failed) <= 3, "what was learnt at the first batch holds for the later ones"
    assert cut.result.pack_tokens < whole.result.pack_tokens
    assert (cut.result.steps, cut.result.supervised_tokens) == (whole.result.steps, whole.result.supervised_tokens)
    assert cut.result.tokens > whole.result.tokens, "the shared prefix stands in each pack, and a failed try counts for nothing"
    for one, other in zip(losses(whole), losses(cut), strict=True):
        assert one[:2] == other[:2]
        assert [float(x) for x in one[2:] if x] == pytest.approx([float(x) for x in other[2:] if x], abs=2e-3)
    weights = [load_file(run.adapter / "adapter_model.safetensors") for run in (whole, cut)]
    moved = sum((weights[0][name] - weights[1][name]).norm() ** 2 for name in weights[0]).sqrt()
    assert moved <= 2e-2 * sum(tensor.norm() ** 2 for tensor in weights[0].values()).sqrt()
    *_, told = [event["message"] for event in cut.events if "out of memory" in event.get("message", "")]
    assert f"packs of at most {cut.result.pack_tokens:,} tokens" in told


def test_a_row_that_does_not_fit_by_itself_ends_training_with_what_to_do(train_tiny, memory):
    memory(300)
    with pytest.raises(UserError, match=r"not enough memory for one row of \d+ tokens by itself: lower format.max_tokens"):
        train_tiny(**SETTINGS)


def test_an_optimiser_that_does_not_fit_ends_training_with_what_to_do(train_tiny, monkeypatch):
    def step(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(UserError, match=r"memory for the optimiser's state at step 1: take train\.optimiser: adamw_8bit"):
        train_tiny(**SETTINGS)


def test_a_failed_try_leaves_nothing_in_the_gradient(tmp_path):
    rows = [Row([number] * 40, [False] * 30 + [True] * 10) for number in range(4)]
    collator = Collator(160)
    weight = torch.ones((), requires_grad=True)

    def compute(packs):
        weight.grad = None
        for pack in packs:
            (weight * pack["labels"].numel()).backward()
            if len(packs) < 3:
                raise torch.OutOfMemoryError
        return len(packs)

    assert fitting.fit(compute, collator.packed(rows), rows, collator, torch.device("cpu")) == 4
    assert weight.grad == 40
    assert collator.max_tokens == 40
    notes = [json.loads(line)["message"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(notes) == 2 and all("the batch stays the same" in note for note in notes)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_what_is_trained_is_what_the_method_says_or_training_does_not_begin(tiny_model, method):
    from peft import get_peft_model

    config = TrainConfig(method=method, precision="fp32")
    chosen = decide(config, 1)
    network, adapter = build(tiny_model, chosen), adapter_config(chosen, config)
    network = get_peft_model(network, adapter) if adapter else network
    assert require_trained_as_said(network, chosen) > 0
    name, parameter = next((n, p) for n, p in network.named_parameters() if "norm" in n)
    parameter.requires_grad = method != "full"
    with pytest.raises(ConfigError, match=rf"train\.method: {method} does not do .*: {name} is (not )?trained"):
        require_trained_as_said(network, chosen)


def test_a_linear_layer_without_an_adapter_is_noticed(tiny_model):
    from peft import LoraConfig, get_peft_model

    chosen = decide(TrainConfig(method="lora"), 1)
    network = get_peft_model(build(tiny_model, chosen), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match=r"k_proj has no adapter, and 11 more"):
        require_trained_as_said(network, chosen)
