"""The weights that training keeps, and when it ends early."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from calltune import runtime
from components.train import ranks
from components.train.config import FEW_STEPS
from components.train.weights import save_trainable


class Follow(TrainerCallback):
    """Reports progress; keeps the best weights on disk and stops when validation no longer improves, or keeps the last.

    Attributes:
        best_loss: validation loss of the epoch whose weights are kept.
        best_epoch: that epoch; 0 where nothing was validated.
        validated: how many rows validation has, to be said.
    """

    def __init__(self, best: Path, patience: int, keep: str, validated: int) -> None:
        self.best, self.patience, self.keep, self.validated = best, patience, keep, validated
        self.best_loss, self.best_epoch, self.worse = float("inf"), 0.0, 0
        self.progress: runtime.Progress | None = None

    @property
    def ended(self) -> bool:
        """Whether validation no longer improves."""
        return self.worse >= self.patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the progress bar."""
        self.progress = runtime.Progress("train", state.max_steps, "steps", already=state.global_step)

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
            if self.keep == "best" and ranks.is_first():
                save_trainable(given["model"], self.best)
        else:
            self.worse += 1
            control.should_training_stop = self.ended
        runtime.note(f"epoch {state.epoch:.0f}: validation loss {loss:.4f}{' (best)' if better and self.keep == 'best' else ''}")
        if control.should_training_stop and state.global_step < state.max_steps:
            self._say_stopped_early(state)

    def _say_stopped_early(self, state: TrainerState) -> None:
        assert state.epoch  # one has just ended
        rows = f"{self.validated} row{'' if self.validated == 1 else 's'}"
        since = "the last epoch" if self.patience == 1 else f"{self.patience} epochs"
        runtime.note(
            f"train: stopped early after epoch {state.epoch:.0f} of {state.num_train_epochs}: the validation loss (of {rows}) "
            f"has not improved for {since}; kept epoch {self.best_epoch:.0f}"
        )
        kept = round(state.global_step * self.best_epoch / state.epoch)
        if kept < FEW_STEPS:
            runtime.note(
                f"train: the kept weights have had {kept} optimiser steps, which are few: train.keep: last does all of them"
            )
