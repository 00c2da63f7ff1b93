"""Fine-tuning on the formatted rows, with loss on what the assistant wrote and on nothing else."""

import csv
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import SFTConfig

from calltune import models, onednn, runtime, storage
from calltune.attention import require_within_window
from calltune.errors import DataError
from calltune.records import sha256
from calltune.settings import ModelConfig
from components.train import account, ranks
from components.train.best import Follow
from components.train.checkpoints import Checkpoints
from components.train.collator import Collator
from components.train.config import FEW_STEPS, TrainConfig
from components.train.exchange import Work
from components.train.keeper import Keeper
from components.train.memory import checkpointing, keep_freed_memory
from components.train.method import Method, adapter_config, build, decide, require_trained_as_said
from components.train.nodes import train_there
from components.train.start import champions_adapter, go_on_from, record_ancestors
from components.train.trainer import TreeTrainer
from components.train.trainjob import WORKERS
from components.train.weights import restore_trainable

PACK_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Longest pack by kind of device: 16 rows of ordinary length, on a CPU behind a tool list of 600 tokens, on a GPU behind one of
several thousand. A GPU whose memory does not suffice for that gets smaller ones (fitting.py); a CPU would swap instead."""


@dataclass(frozen=True)
class Trained(account.Cost):
    """What training came to and what it cost: written to `metrics.json`.

    Attributes:
        started_from: the base model, or the champion whose adapter was gone on from.
        unpacked_tokens: those of the rows one by one.
        pack_tokens: of the longest pack allowed; less than at first where memory did not suffice.
    """

    method: str
    reason: str
    learning_rate: float
    started_from: str
    trainable_parameters: int
    steps: int
    epochs: float
    best_epoch: float
    train_loss: float
    validation_loss: float | None
    unpacked_tokens: int
    pack_tokens: int


def train(
    dataset: Path,
    model: ModelConfig,
    config: TrainConfig,
    adapter: Path,
    out: Path,
    code: str = "",
    champion: str = "",
    processes: int = 0,
) -> Trained:
    """Train, and keep the weights of the best epoch, or of the last; go on where an earlier try was cut off.

    On several nodes, by a TrainJob, where `CALLTUNE_TRAIN_WORKERS` tells of them.

    Args:
        dataset: what format wrote; `train.parquet` and `validation.parquet`.
        model: the base model.
        config: the step's settings.
        adapter: folder that gets the trained weights.
        out: folder that gets `metrics.json` and `loss.csv`.
        code: what the step's code is: checkpoints of another code do not count.
        champion: JSON of the champion to go on from, as look found it; empty to start from the base model.
        processes: that train together, each on a part of every batch; 0 for one a GPU.

    Raises:
        DataError: no rows to train on.
        ConfigError: the base model's attention is not one that training computes, or the champion's adapter is of another shape.
        Stopped: by SIGTERM; the same call goes on where this one was.
        Diverged: loss, gradient or weights are NaN or infinite, or the loss has exploded.
    """
    told = os.environ.get(WORKERS)
    if told is not None:
        train_there(told, dataset, Work(model, config, code, champion), adapter, out)
        return Trained(**runtime.read_json(out / "metrics.json"))
    result = train_part(dataset, model, config, adapter, out, code, champion, processes)
    assert result is not None  # the first rank's
    return result


def train_part(
    dataset: Path,
    model: ModelConfig,
    config: TrainConfig,
    adapter: Path,
    out: Path,
    code: str,
    champion: str,
    processes: int,
    machine: ranks.Machine = ranks.ALONE,
) -> Trained | None:
    """This machine's part of :func:`train`; only the first machine has a result, in its folders and as what is returned."""
    base = models.fetch(model)
    method = decide(config, models.parameter_count(base.path))
    # Here and not in each rank: it is fetched once.
    before = champions_adapter(champion, model, method, config)
    here = processes or max(1, torch.cuda.device_count())
    together = here * machine.count
    if together == 1:
        return _train(dataset, base, before, method, config, adapter, out, code)
    on = f" on {machine.count} machines" if machine.count > 1 else ""
    runtime.note(f"train: {together} processes{on} together, each on a part of every batch")
    return ranks.run(here, _train, (dataset, base, before, method, config, adapter, out, code), machine)


def _train(
    dataset: Path,
    base: models.ModelFolder,
    before: Path | None,
    method: Method,
    config: TrainConfig,
    adapter: Path,
    out: Path,
    code: str,
) -> Trained | None:
    """Train in this process, alone or as one rank of several, of which the first writes the results."""
    folder = base.path
    out.mkdir(parents=True, exist_ok=True)
    rows, validation = (Dataset(pq.read_table(dataset / f"{name}.parquet")) for name in ("train", "validation"))
    if not len(rows):
        raise DataError(f"{dataset / 'train.parquet'}: no rows to train on")
    _warn_of_few_steps(len(rows), config)
    keep_freed_memory()
    onednn.prefer()

    runtime.note(f"train: {method.reason}")
    # Before the model is built: an adapter's first weights are random.
    torch.manual_seed(config.seed)
    rate = account.matmul_rate(account.device(), method.bf16)
    network = build(folder, method)
    longest = max(len(ids) for table in (rows, validation) for ids in table["input_ids"])
    require_within_window(network.config, longest)
    follow = Follow(out / "best.safetensors", config.patience, config.keep, len(validation))
    keeper = Keeper(
        _checkpoints(base, dataset, config, method, out, [code, before.name if before else None]),
        follow,
        config.checkpoint_minutes,
    )
    # The Trainer's own `max_steps` may also be more than the epochs' steps.
    limited = config.model_copy(update={"max_steps": config.max_steps and config.steps(len(rows))})
    trainer = TreeTrainer(
        model=network,
        args=_arguments(limited, method, bool(len(validation)), out),
        data_collator=Collator(PACK_TOKENS[account.device().type]),
        train_dataset=rows,
        eval_dataset=validation if len(validation) else None,
        processing_class=models.tokenizer(folder),
        peft_config=adapter_config(method, config),
        callbacks=[follow, keeper],
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # PEFT starts an adapter in bf16 on a 4-bit base; its sums need fp32
            parameter.data = parameter.data.float()
    if before:
        go_on_from(before, trainer.model)
    trainable = require_trained_as_said(trainer.model, method)
    outcome = keeper.train(trainer)
    seconds, joules = keeper.seconds, account.of_all(keeper.joules)
    if not ranks.is_first():
        keeper.checkpoints.close()
        return None
    if follow.best.exists():
        restore_trainable(trainer.model, follow.best)
        follow.best.unlink()

    save_adapter(trainer.model, method, adapter)
    if before:
        record_ancestors(before, adapter)
    history = trainer.state.log_history
    _write_losses(history, out / "loss.csv")
    trained = [entry["loss"] for entry in history if "loss" in entry]
    result = Trained(
        method=method.name,
        reason=method.reason,
        learning_rate=method.learning_rate,
        started_from=f"the champion {before.name}" if before else "the base model",
        trainable_parameters=trainable,
        steps=outcome.global_step,
        epochs=round(trainer.state.epoch or 0, 2),
        best_epoch=follow.best_epoch or round(trainer.state.epoch or 0, 2),
        train_loss=sum(trained) / len(trained),
        validation_loss=follow.best_loss if len(validation) else None,
        unpacked_tokens=round(sum(map(len, rows["input_ids"])) * (trainer.state.epoch or 0)),
        pack_tokens=trainer.data_collator.max_tokens,
        **vars(account.cost(trainer.model, trainer.tokens, trainer.supervised, seconds, rate, joules, config.price_per_hour)),
    )
    runtime.write_json(out / "metrics.json", asdict(result))
    keeper.checkpoints.finish()
    return result


def _checkpoints(
    base: models.ModelFolder, dataset: Path, config: TrainConfig, method: Method, out: Path, origin: list[str | None]
) -> Checkpoints:
    """The checkpoints of trainings that would come to the same weights as this one; `origin` says of which code, from where."""
    data = [models.file_sha256(dataset / f"{name}.parquet") for name in ("train", "validation")]
    # The decided method, too: on another device `auto` may mean another precision.
    decided = [method.name, method.learning_rate, method.bf16]
    key = sha256([base.digest, data, config.result_settings(), decided, origin])
    # Ranks behind the first of a machine write none, and must not clear away what that one writes.
    local = out / (".checkpoints" if ranks.is_first_here() else ".no-checkpoints")
    return Checkpoints(storage.of_run(), key[:32], local, config.checkpoints_kept)


def save_adapter(network: PreTrainedModel, method: Method, folder: Path) -> None:
    """Write what was trained: a PEFT adapter in float32, or for `full` the whole model in bfloat16."""
    if method.name == "full":
        network.to(torch.bfloat16).save_pretrained(folder)
    else:
        network.save_pretrained(folder)
    runtime.write_json(folder / "method.json", {"method": method.name})


def _arguments(config: TrainConfig, method: Method, validated: bool, out: Path) -> SFTConfig:
    return SFTConfig(
        output_dir=str(out / ".trainer"),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_rows,
        per_device_eval_batch_size=config.batch_rows,
        learning_rate=method.learning_rate,
        max_steps=config.max_steps or -1,
        # The Trainer's `constant` has no warm-up.
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=config.warmup,
        optim=_optimiser(config, method),
        weight_decay=0.0,
        bf16=method.bf16,
        # Layers are computed twice, at least what is cheap of them: one pack can then hold the whole batch, and its shared prefix
        # stands once.
        activation_checkpointing=True,
        activation_checkpointing_kwargs=checkpointing(account.device()),
        use_cpu=not torch.cuda.is_available(),
        seed=config.seed,
        logging_steps=1,
        eval_strategy="epoch" if validated else "no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _optimiser(config: TrainConfig, method: Method) -> str:
    if config.optimiser != "auto":
        return config.optimiser
    return "paged_adamw_8bit" if method.name == "qlora" else "adamw_torch_fused"


def _warn_of_few_steps(rows: int, config: TrainConfig) -> None:
    steps = config.steps(rows)
    if steps < FEW_STEPS:
        more = (
            "train.max_steps ends it there"
            if steps == config.max_steps
            else "more train.epochs or fewer train.batch_rows would be better"
        )
        runtime.note(f"train: {steps} optimiser steps are few: {more}")


def _write_losses(history: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["step", "epoch", "train_loss", "validation_loss"])
        for entry in history:
            if "loss" in entry or "eval_loss" in entry:
                table.writerow([entry["step"], round(entry["epoch"], 3), entry.get("loss", ""), entry.get("eval_loss", "")])
