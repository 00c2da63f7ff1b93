"""TRL's trainer, on packs: one optimiser step is one batch of rows, whatever number of packs it makes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from calltune import runtime
from components.train.packing import Row, pack


class Collator:
    """Makes one batch of packs out of rows."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pack rows of `input_ids` and `loss_mask`."""
        packs = pack([Row(row["input_ids"], row["loss_mask"]) for row in rows], self.max_tokens)
        return {"packs": [{field: getattr(p, field) for field in p.__dataclass_fields__} for p in packs]}


class TreeTrainer(SFTTrainer):
    """Trains on packs: the loss is the mean over the batch's supervised tokens, as if its rows stood alone.

    Attributes:
        tokens: computed so far in training, shared ones once.
        supervised: of these, predicted ones that counted in the loss.
    """

    tokens = 0
    supervised = 0
    control: TrainerControl

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One optimiser batch: forward and backward pack by pack. Returns the mean loss, a scalar.

        Raises:
            FloatingPointError: the loss is NaN or infinite: nothing after this step would be worth its hours.
        """
        model.train()
        packs = self._prepare_inputs(inputs)["packs"]
        supervised = sum(p["labels"].numel() for p in packs)
        self.supervised += supervised
        self.tokens += sum(p["input_ids"].numel() for p in packs)
        total = torch.zeros((), device=self.args.device)
        for p in packs:
            loss = self._summed_loss(model, p) / supervised
            self.accelerator.backward(loss)
            total += loss.detach()
        _require_finite(total.item(), f"the loss is {total.item()} at step {self.state.global_step + 1}")
        return total

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all supervised tokens of the validation rows, as `eval_loss`.

        Raises:
            FloatingPointError: it is NaN or infinite: the last optimiser step has ruined the weights.
        """
        self.model.eval()
        total, supervised = 0.0, 0
        for batch in self.get_eval_dataloader():
            for p in self._prepare_inputs(batch)["packs"]:
                total += self._summed_loss(self.model, p).item()
                supervised += p["labels"].numel()
        metrics = {"eval_loss": total / supervised}
        _require_finite(metrics["eval_loss"], f"the validation loss is {total} after step {self.state.global_step}")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _summed_loss(self, model: torch.nn.Module, p: dict[str, Any]) -> torch.Tensor:
        with self.compute_loss_context_manager():
            # Only supervised positions go through the output layer, which is a quarter of a small model's work.
            logits = model(
                input_ids=p["input_ids"],
                position_ids=p["position_ids"],
                branches=p["branches"],
                logits_to_keep=p["label_positions"],
                use_cache=False,
            ).logits
        return cross_entropy(logits[0].float(), p["labels"], reduction="sum")


def _require_finite(value: float, said: str) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(f"{said}: lower train.learning_rate")


class Follow(TrainerCallback):
    """Reports progress; keeps the best weights on disk and stops when validation no longer improves, or keeps the last.

    Attributes:
        best_loss: validation loss of the epoch whose weights are kept.
        best_epoch: that epoch; 0 where nothing was validated.
    """

    def __init__(self, best: Path, patience: int, keep: str) -> None:
        self.best, self.patience, self.keep = best, patience, keep
        self.best_loss, self.best_epoch, self.worse = float("inf"), 0.0, 0
        self.progress: runtime.Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the progress bar."""
        self.progress = runtime.Progress("train", state.max_steps, "steps")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        """Move the progress bar."""
        if self.progress is not None and logs and "loss" in logs:
            self.progress.update(state.global_step, f"loss {logs['loss']:.3f}")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Keep the weights if they are the best so far; stop after `patience` epochs that were not better."""
        loss = given["metrics"]["eval_loss"]
        better = loss < self.best_loss
        if better or self.keep == "last":
            self.best_loss, self.best_epoch, self.worse = loss, round(state.epoch or 0, 2), 0
            if self.keep == "best":
                save_trainable(given["model"], self.best)
        else:
            self.worse += 1
            control.should_training_stop = self.worse >= self.patience
        runtime.note(f"epoch {state.epoch:.0f}: validation loss {loss:.4f}{' (best)' if better else ''}")


def save_trainable(model: torch.nn.Module, path: Path) -> None:
    """Write the trainable weights, by name, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: p.detach().contiguous().cpu() for name, p in model.named_parameters() if p.requires_grad}, path)


def restore_trainable(model: torch.nn.Module, path: Path) -> None:
    """Read back what :func:`save_trainable` wrote, into the same model."""
    saved = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name])
