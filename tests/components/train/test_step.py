"""Training on a real tiny model: what it writes, what it changes, that it can be repeated, and how it ends early."""

import csv
import json
from itertools import pairwise

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calltune import models, runtime
from calltune.errors import DataError
from components.train.best import Follow
from components.train.collator import Collator
from components.train.config import TrainConfig
from components.train.keeper import Diverged
from components.train.method import adapter_config, build, decide
from components.train.step import _arguments, train
from components.train.trainer import TreeTrainer

METHODS = ("full", "lora", "qlora")
RANK = 16


def losses(run):
    with (run.out / "loss.csv").open() as file:
        return list(csv.DictReader(file))


def validation_losses(run):
    return [float(row["validation_loss"]) for row in losses(run) if row["validation_loss"]]


def weights(run):
    (file,) = run.adapter.glob("*.safetensors")
    return load_file(file)


def said(run):
    return [event["message"] for event in run.events if event["kind"] == "note"]


class Gradients(TrainerCallback):
    """Keeps what the optimiser is given at its first step."""

    def __init__(self):
        self.seen = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.seen = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_loss(network, table, backward=False):
    """Mean loss over the supervised tokens, row by row, with nothing of ours; adds up its gradient if asked to."""
    total, rows = 0.0, table.to_pylist()
    supervised = sum(sum(row["loss_mask"][1:]) for row in rows)
    for row in rows:
        labels = torch.tensor([row["input_ids"]]).where(torch.tensor([row["loss_mask"]]), -100)
        with torch.set_grad_enabled(backward):
            logits = network(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
            loss = cross_entropy(logits, labels[0, 1:], reduction="sum") / supervised
        if backward:
            loss.backward()
        total += loss.item()
    return total


@pytest.mark.parametrize("method", METHODS)
def test_it_writes_its_files(trained, method):
    run = trained(method)
    assert json.loads((run.adapter / "method.json").read_text()) == {"method": method}
    kept = {path.name for path in run.adapter.iterdir()}
    assert kept >= (
        {"config.json", "model.safetensors"} if method == "full" else {"adapter_config.json", "adapter_model.safetensors"}
    )
    assert json.loads((run.out / "metrics.json").read_text()) == vars(run.result)
    assert list(losses(run)[0]) == ["step", "epoch", "train_loss", "validation_loss"]
    assert [int(row["step"]) for row in losses(run) if row["train_loss"]] == list(range(1, run.result.steps + 1))
    assert len(validation_losses(run)) == 3
    assert not list(run.out.glob("best*"))


@pytest.mark.parametrize("method", METHODS)
def test_as_many_parameters_are_trained_as_the_method_says(trained, tiny_model, method):
    network = models.load(tiny_model)
    if method == "full":
        expected = sum(p.numel() for p in network.parameters())
    else:
        linear = [m for name, m in network.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
        assert len(linear) == 2 * 7
        expected = sum(RANK * (m.in_features + m.out_features) for m in linear)
    assert trained(method).result.trainable_parameters == expected


@pytest.mark.parametrize("method", METHODS)
def test_every_trained_weight_moved_and_the_loss_fell(trained, tiny_model, method):
    run = trained(method)
    base = load_file(tiny_model / "model.safetensors")
    for name, tensor in weights(run).items():
        if method == "full":
            assert tensor.dtype == torch.bfloat16
            assert not torch.equal(tensor, base[name]), name
        else:
            assert tensor.dtype == torch.float32
            assert tensor.abs().max() > 0, name  # B begins at zero
    trained_losses = [float(row["train_loss"]) for row in losses(run) if row["train_loss"]]
    assert trained_losses[-1] < trained_losses[0] - 0.5
    assert validation_losses(run)[-1] < validation_losses(run)[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(trained, train_tiny, settings_of, method):
    one = trained(method)
    again, other = (weights(train_tiny(**settings_of(method), seed=seed)) for seed in (1, 2))
    assert weights(one).keys() == again.keys() == other.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(one).items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in weights(one).items() if tensor.dim() > 1)


def test_tokens_are_counted_as_computed_and_as_they_would_be_without_packing(trained, dataset):
    result = trained("full").result
    rows = pq.read_table(dataset / "train.parquet").to_pylist()
    assert result.supervised_tokens == 3 * sum(sum(row["loss_mask"]) for row in rows)
    assert result.unpacked_tokens == 3 * sum(len(row["input_ids"]) for row in rows)
    assert result.supervised_tokens < result.tokens < result.unpacked_tokens / 3


def test_one_optimiser_step_is_the_mean_over_its_batch_whatever_its_packs(train_tiny, tiny_model, dataset):
    run = train_tiny(method="full", learning_rate=1e-3, epochs=1, batch_rows=64, precision="fp32")
    (first,) = [row for row in losses(run) if row["train_loss"]]
    network = models.load(tiny_model, dtype=torch.float32).eval()
    assert float(first["train_loss"]) == pytest.approx(plain_loss(network, pq.read_table(dataset / "train.parquet")), abs=1e-4)
    assert run.result.steps == 1


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_optimiser_gets_the_gradient_of_the_unpacked_rows(dataset, tiny_model, tmp_path, method):
    config = TrainConfig(method=method, epochs=1, batch_rows=64, precision="fp32")
    chosen = decide(config, 3_000_000)
    rows = pq.read_table(dataset / "train.parquet").slice(0, 12)
    torch.manual_seed(5)
    trainer = TreeTrainer(
        model=build(tiny_model, chosen),
        args=_arguments(config, chosen, False, tmp_path),
        data_collator=Collator(900),
        train_dataset=Dataset(rows),
        processing_class=models.tokenizer(tiny_model),
        peft_config=adapter_config(chosen, config),
        callbacks=[Gradients()],
    )
    (watch,) = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, Gradients)]
    trainer.train()
    # The learning rate of the first step is zero, so that the weights are still those that the gradient is of.
    plain = trainer.model.eval()
    plain.set_attn_implementation("sdpa")
    plain.zero_grad()
    plain_loss(plain, rows, backward=True)
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert expected.keys() == watch.seen.keys() and len(expected) > 10
    norm = sum(g.norm() ** 2 for g in expected.values()).sqrt()
    clipped = min(1.0, 1.0 / norm.item())  # as the Trainer does at max_grad_norm 1
    difference = sum((watch.seen[name] - clipped * g).norm() ** 2 for name, g in expected.items()).sqrt()
    assert difference <= 1e-4 * clipped * norm


@pytest.mark.parametrize("method", METHODS)
def test_validation_leaves_the_gradient_of_training_as_it_was(dataset, tiny_model, method):
    """bitsandbytes repacks 4-bit weights at their first use in eval mode on some CPUs, and they then have no gradient."""
    from peft import get_peft_model

    config = TrainConfig(method=method, precision="fp32")
    chosen = decide(config, 3_000_000)
    torch.manual_seed(5)
    network = build(tiny_model, chosen)
    network.set_attn_implementation("sdpa")
    network = network if method == "full" else get_peft_model(network, adapter_config(chosen, config))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # zero at first, so that A would have no gradient to compare
            torch.nn.init.normal_(parameter, std=0.1)
    rows = pq.read_table(dataset / "train.parquet").slice(0, 2)
    seen = []
    for _ in range(2):
        network.train()
        network.zero_grad()
        loss = plain_loss(network, rows, backward=True)
        seen.append((loss, {name: p.grad.clone() for name, p in network.named_parameters() if p.requires_grad}))
        network.eval()
        plain_loss(network, rows)
    (loss, before), (again, after) = seen
    assert again == pytest.approx(loss, abs=1e-5)
    for name, gradient in before.items():
        assert gradient.norm() > 0, name
        assert (after[name] - gradient).norm() <= 1e-4 * gradient.norm(), name


@pytest.fixture(scope="module")
def stopped(train_tiny):
    """A run whose learning rate is so high that validation soon gets worse."""
    return train_tiny(method="lora", learning_rate=0.1, epochs=30, patience=1, batch_rows=8, precision="fp32", seed=1)


def test_training_stops_when_validation_no_longer_improves(stopped):
    seen = validation_losses(stopped)
    assert len(seen) < 30
    assert seen[-1] >= min(seen[:-1]), "the last epoch was worse: that is why it stopped"
    assert all(later < sooner for sooner, later in pairwise(seen[:-1])), "and none before it"
    assert stopped.result.epochs == len(seen)


def test_the_weights_of_the_best_epoch_are_kept(stopped, tiny_model, dataset):
    from peft import PeftModel

    seen = validation_losses(stopped)
    assert stopped.result.best_epoch == seen.index(min(seen)) + 1 < len(seen)
    assert stopped.result.validation_loss == min(seen)
    network = PeftModel.from_pretrained(models.load(tiny_model, dtype=torch.float32), stopped.adapter).eval()
    loss = plain_loss(network, pq.read_table(dataset / "validation.parquet"))
    assert loss == pytest.approx(min(seen), abs=1e-4)
    assert abs(loss - seen[-1]) > 1e-3


def test_the_last_epochs_weights_are_kept_if_asked_for_and_validation_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))
    follow = Follow(tmp_path / "best.safetensors", patience=1, keep="last", validated=4)
    for epoch, loss in ((1, 0.5), (2, 0.95), (3, 0.9)):
        control = TrainerControl()
        given = {"metrics": {"eval_loss": loss}, "model": torch.nn.Linear(2, 2)}
        follow.on_evaluate(TrainingArguments(str(tmp_path)), TrainerState(epoch=epoch), control, **given)
        assert not control.should_training_stop
    assert (follow.best_epoch, follow.best_loss) == (3, 0.9)
    assert not follow.best.exists(), "nothing that would be put back in place of the last weights"
    assert "(best)" not in (tmp_path / "events.jsonl").read_text(), "of what is not kept, and here the first was"


@pytest.mark.parametrize(
    ("steps_an_epoch", "few"),
    [(6, ["train: the kept weights have had 18 optimiser steps, which are few: train.keep: last does all of them"]), (20, [])],
)
def test_an_early_stop_is_told_with_what_is_kept(tmp_path, monkeypatch, steps_an_epoch, few):
    monkeypatch.setenv("CALLTUNE_EVENTS", str(tmp_path / "events.jsonl"))
    follow, control = Follow(tmp_path / "best.safetensors", patience=2, keep="best", validated=4), TrainerControl()
    for epoch, loss in ((1, 0.48), (2, 0.38), (3, 0.37), (4, 0.46), (5, 0.41)):
        state = TrainerState(epoch=epoch, global_step=epoch * steps_an_epoch, max_steps=10 * steps_an_epoch, num_train_epochs=10)
        given = {"metrics": {"eval_loss": loss}, "model": torch.nn.Linear(2, 2)}
        follow.on_evaluate(TrainingArguments(str(tmp_path)), state, control, **given)
    assert control.should_training_stop
    messages = [json.loads(line)["message"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert messages[4:] == [
        "epoch 5: validation loss 0.4100",
        "train: stopped early after epoch 5 of 10: the validation loss (of 4 rows) has not improved for 2 epochs; kept epoch 3",
        *few,
    ]


def test_a_loss_that_is_no_number_ends_training_with_what_to_do(train_tiny):
    with pytest.raises(Diverged, match=r"the loss is nan at step \d+: lower train.learning_rate"):
        train_tiny(method="full", learning_rate=1e12, epochs=2, batch_rows=8, precision="fp32")


def test_weights_ruined_by_the_last_step_are_noticed_too(train_tiny):
    with pytest.raises(Diverged, match=r"the validation loss is nan after step 2: lower train.learning_rate"):
        train_tiny(method="full", learning_rate=1e12, epochs=1, batch_rows=16, precision="fp32")


def test_a_gradient_that_is_no_number_names_its_own_batch_although_the_loss_is_finite(train_tiny, monkeypatch, dataset):
    def ruined(model):
        next(p for p in model.parameters() if p.requires_grad).grad[0] = torch.nan

    monkeypatch.setattr("components.train.trainer.ranks.add_up_gradients", ruined)
    with pytest.raises(Diverged, match=r"the gradient's norm is nan at step 1: .*look at the rows of its batch: \S+, ") as raised:
        train_tiny(method="full", epochs=1, batch_rows=8, precision="fp32")
    assert runtime.failure_of("train", raised.value)["code"] == 2, "one line, and nobody tries the same again"


def test_weights_ruined_by_the_last_step_are_noticed_without_validation_too(dataset, tiny, tmp_path, monkeypatch):
    pq.write_table(pq.read_table(dataset / "train.parquet").slice(0, 8), tmp_path / "train.parquet")
    pq.write_table(pq.read_table(dataset / "validation.parquet").slice(0, 0), tmp_path / "validation.parquet")
    real = torch.optim.AdamW.step

    def ruins(self, *given, **more):
        real(self, *given, **more)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(torch.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", ruins)
    with pytest.raises(Diverged, match=r"lora_A.* is not finite after step 1: lower train.learning_rate"):
        train(tmp_path, tiny, TrainConfig(method="lora", epochs=1, batch_rows=8), tmp_path / "adapter", tmp_path / "out")


def test_too_few_steps_are_said_and_the_method_with_its_reason(trained):
    assert any("12 optimiser steps are few" in message for message in said(trained("full")))
    assert any("qlora at learning rate 0.01 in fp32 arithmetic" in message for message in said(trained("qlora")))


def test_nothing_to_train_on_is_a_data_error(dataset, tiny, tmp_path):
    for name in ("train", "validation"):
        pq.write_table(pq.read_table(dataset / f"{name}.parquet").slice(0, 0), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"train.parquet: no rows to train on"):
        train(tmp_path, tiny, TrainConfig(), tmp_path / "adapter", tmp_path / "out")


def test_without_validation_rows_the_last_weights_are_kept(dataset, tiny, tmp_path):
    pq.write_table(pq.read_table(dataset / "train.parquet").slice(0, 8), tmp_path / "train.parquet")
    pq.write_table(pq.read_table(dataset / "validation.parquet").slice(0, 0), tmp_path / "validation.parquet")
    config = TrainConfig(method="lora", learning_rate=1e-3, epochs=2, batch_rows=8)
    result = train(tmp_path, tiny, config, tmp_path / "adapter", tmp_path / "out")
    assert result.validation_loss is None and result.best_epoch == 2
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("settings", "parameters", "name", "rate"),
    [
        ({}, 135_000_000, "full", 1e-4),
        ({}, 8_000_000_000, "qlora", 2e-4),
        ({"method": "lora"}, 135_000_000, "lora", 3e-4),
        ({"method": "full"}, 8_000_000_000, "full", 1e-5),
        ({"method": "qlora", "learning_rate": 3e-4}, 135_000_000, "qlora", 3e-4),
    ],
)
def test_what_auto_means(settings, parameters, name, rate):
    method = decide(TrainConfig(**settings), parameters)
    assert (method.name, method.learning_rate) == (name, rate)
    assert f"{name} at learning rate {rate:g}" in method.reason and f"{parameters / 1e6:.0f} M parameters" in method.reason


def test_qlora_is_nf4_with_double_quantisation(tiny_model):
    config = TrainConfig(method="qlora", precision="fp32")
    method = decide(config, 3_000_000)
    network = build(tiny_model, method)
    assert adapter_config(method, config).lora_alpha == 2 * config.rank
    state = network.model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.quant_type == "nf4" and state.nested


@pytest.mark.parametrize(
    ("settings", "method", "expected"),
    [
        ({}, "full", ("adamw_torch_fused", "linear", 0.05, -1)),
        ({}, "qlora", ("paged_adamw_8bit", "linear", 0.05, -1)),
        (
            {"optimiser": "adamw_8bit", "schedule": "constant", "warmup": 3, "max_steps": 7},
            "qlora",
            ("adamw_8bit", "constant_with_warmup", 3, 7),
        ),
        ({"schedule": "cosine"}, "lora", ("adamw_torch_fused", "cosine", 0.05, -1)),
    ],
)
def test_optimiser_schedule_and_steps_reach_the_trainer(tmp_path, settings, method, expected):
    config = TrainConfig(method=method, **settings)
    args = _arguments(config, decide(config, 3_000_000), False, tmp_path)
    assert (str(args.optim.value), str(args.lr_scheduler_type.value), args.warmup_steps, args.max_steps) == expected


def test_alpha_and_dropout_reach_the_adapter():
    config = TrainConfig(method="lora", rank=8, lora_alpha=8, dropout=0.05)
    adapter = adapter_config(decide(config, 3_000_000), config)
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (8, 8, 0.05)


@pytest.mark.parametrize(("settings", "steps"), [({}, 28), ({"max_steps": 5}, 5), ({"max_steps": 1000}, 28)])
def test_the_fewer_steps_of_epochs_and_max_steps_are_done(settings, steps):
    assert TrainConfig(epochs=4, batch_rows=16, **settings).steps(100) == steps
