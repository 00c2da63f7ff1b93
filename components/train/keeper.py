"""When training writes a checkpoint, what is in it, and how training goes on from one.

transformers' Trainer saves and restores optimiser, schedule, random states and its own state, and finds its place in the
sampler's order; that is used as it is. The weights are kept here instead: the trainable ones alone, bit for bit, since PEFT
gives an adapter back in another dtype. What the Trainer does not know of (best weights, early stopping, counts of tokens)
is kept here too. Its own checkpoint at SIGTERM (`enable_jit_checkpoint`) stops before an epoch's evaluation and writes to
the local disk only.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from calltune import runtime
from calltune.errors import DataError, Stopped, UserError
from components.train import account, ranks
from components.train.best import Follow
from components.train.checkpoints import BEST, Checkpoints
from components.train.collator import Collator
from components.train.weights import restore_trainable, save_trainable

WEIGHTS = "weights.safetensors"
PROGRESS = "progress.json"
UPLOAD_TIMEOUT_S = 300
"""How long a training that ends early waits for its last checkpoint to be in the store. A pod has 30 s by default."""


class Diverged(DataError):
    """Loss, gradient or weights are no numbers any more, or the loss has exploded: trained again they would come to the same."""


class Trained(Protocol):
    """The trainer, as far as its keeper knows it."""

    model: torch.nn.Module
    state: TrainerState
    data_collator: Collator
    keeper: "Keeper | None"
    tokens: int
    supervised: int

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        """Train, from a checkpoint where one is given."""

    def evaluate(self) -> Any:
        """Validate."""

    def save_trainer_state(self, folder: Path) -> None:
        """Write what transformers' Trainer would write of itself, without the weights."""


class Keeper(TrainerCallback):
    """Writes a checkpoint at the first optimiser step after every `minutes`, and at SIGTERM, which ends training.

    Attributes:
        told: SIGTERM has come to this process.
    """

    def __init__(self, checkpoints: Checkpoints, follow: Follow, minutes: float) -> None:
        self.checkpoints, self.follow, self.interval_s = checkpoints, follow, 60 * minutes
        self.told = self._agreed = False
        self.trainer: Trained
        self._begun = self._saved = time.monotonic()
        self._ended: float | None = None
        self._seconds_before = 0.0
        self._joules_before: float | None = 0.0
        self._joules_begun: float | str = ""
        self._evaluation_due = False

    @property
    def stopping(self) -> bool:
        """Whether training ends: SIGTERM has come, of several ranks to one, as all of them know since the last optimiser step."""
        return self._agreed or (self.told and ranks.count() == 1)

    @property
    def cutting_off(self) -> bool:
        """Whether an evaluation ends: no rank waits for another in one, so that the first need not wait for a step of all."""
        return self._agreed or (self.told and ranks.is_first())

    def agree_to_stop(self) -> None:
        """All ranks know that SIGTERM has come to one of them, and end at the same optimiser step."""
        self._agreed = True

    @property
    def seconds(self) -> float:
        """Of training so far, also in the processes before this one up to the checkpoint that this one began with."""
        return self._seconds_before + (self._ended or time.monotonic()) - self._begun

    @property
    def joules(self) -> float | str:
        """What the GPU has used so far, like :attr:`seconds`; or in words why that is not known."""
        now = account.gpu_joules()
        if isinstance(now, str) or isinstance(self._joules_begun, str):
            return now if isinstance(now, str) else str(self._joules_begun)
        if self._joules_before is None:
            return "not measured in the process before this one"
        return self._joules_before + now - self._joules_begun

    @contextmanager
    def heeding_sigterm(self) -> Iterator[None]:
        """While the block runs SIGTERM ends training at its next optimiser step, instead of the process at once."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may set a handler
            yield
            return
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _stop(self, *_: object) -> None:
        self.told = True

    def train(self, trainer: Trained) -> Any:
        """Train, from the newest whole checkpoint where there is one; returns the Trainer's output.

        Raises:
            Stopped: by SIGTERM; the last checkpoint is in the store, or the error says that it is not.
            Diverged: see :class:`components.train.trainer.TreeTrainer`; or the last step has ruined the weights.
            UserError: the store cannot be reached at the beginning, or the optimiser's state does not fit into memory.
        """
        self.trainer, trainer.keeper = trainer, self
        self.follow.best.unlink(missing_ok=True)  # an earlier process may have left one
        found = self._newest()
        if ranks.is_first():
            self.checkpoints.remove_finished()
        self._joules_begun = account.gpu_joules()
        self._begun = self._saved = time.monotonic()
        try:
            with self.heeding_sigterm():
                outcome = trainer.train(resume_from_checkpoint=None if found is None else str(found))
            if ranks.is_first():
                self._require_finite()
        except Exception as error:
            uploaded = self.checkpoints.flush(UPLOAD_TIMEOUT_S)
            self.checkpoints.close()
            self._explain(error, uploaded)
            raise
        self._ended = time.monotonic()
        return outcome

    def _newest(self) -> Path | None:
        """The folder of the newest whole checkpoint, on each machine; None where there is none."""
        found = ranks.from_first(self.checkpoints.newest)
        if found is None:
            return None
        return ranks.from_first_here(lambda: found if ranks.is_first() else self.checkpoints.fetch(found.name))

    def _explain(self, error: Exception, uploaded: bool) -> None:
        """Raise what ended training again with where it can go on, if that is of use."""
        kept, state = self.checkpoints.uploaded, self.trainer.state
        where = f"the checkpoint of step {kept} is in {self.checkpoints.store.uri}/{self.checkpoints.place}"
        if isinstance(error, Diverged) and kept is not None:
            raise Diverged(f"{error}; {where}") from None
        if isinstance(error, torch.OutOfMemoryError):
            # Of what `fit` computes it has smaller packs: what is left is the optimiser, which no pack makes smaller.
            what = f"not enough memory for the optimiser's state at step {state.global_step + 1}"
            instead = "take train.optimiser: adamw_8bit or paged_adamw_8bit, train.method: qlora or a GPU with more memory"
            raise UserError(f"{what}: {instead}") from None
        if isinstance(error, Stopped):
            said = f"stopped by SIGTERM at step {state.global_step} of {state.max_steps}"
            if not ranks.is_first():
                raise Stopped(f"{said}: the first process writes the checkpoint") from None
            missing = "" if uploaded else f"the last checkpoint could not be uploaded within {UPLOAD_TIMEOUT_S} s; "
            go_on = "nothing to go on from" if kept is None else f"{where}, and the same step started again goes on from there"
            raise Stopped(f"{said}: {missing}{go_on}") from None

    def save(self, evaluation_due: bool = False) -> None:
        """Write a checkpoint of the trainer as it is now, between two optimiser steps.

        Args:
            evaluation_due: the epoch has ended, and its evaluation was cut off: it comes first when training goes on. Cut
                off again there, nothing is written: the checkpoint that training began with says the same, with the random
                states, which the Trainer restores later.

        Raises:
            Diverged: a weight is NaN or infinite: such a checkpoint must not take the place of a good one.
        """
        if self._evaluation_due or not ranks.is_first():
            return
        self._require_finite()
        trainer, state, follow = self.trainer, self.trainer.state, self.follow
        with self.checkpoints.writing(state.global_step) as folder:
            save_trainable(trainer.model, folder / WEIGHTS)
            trainer.save_trainer_state(folder)
            state.save_to_json(str(folder / TRAINER_STATE_NAME))
            if follow.best.exists():
                os.link(follow.best, folder / BEST)  # which is replaced, never written to
            joules = self.joules
            progress = {
                "tokens": trainer.tokens,
                "supervised": trainer.supervised,
                "seconds": self.seconds,
                "joules": None if isinstance(joules, str) else joules,
                # Other packs of the same rows add up in another order.
                "pack_tokens": trainer.data_collator.max_tokens,
            }
            best = {"loss": follow.best_loss, "epoch": follow.best_epoch, "worse": follow.worse} if follow.best_epoch else None
            runtime.write_json(folder / PROGRESS, {**progress, "best": best, "evaluation_due": evaluation_due})
        self._saved = time.monotonic()

    def _require_finite(self) -> None:
        for name, parameter in self.trainer.model.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                step = self.trainer.state.global_step
                raise Diverged(f"{name} is not finite after step {step}: lower train.learning_rate")

    def restore(self, folder: Path) -> None:
        """Give the trainer's model its weights back, and what the Trainer knows nothing of."""
        trainer, follow, progress = self.trainer, self.follow, runtime.read_json(folder / PROGRESS)
        restore_trainable(trainer.model, folder / WEIGHTS)
        trainer.tokens, trainer.supervised = progress["tokens"], progress["supervised"]
        trainer.data_collator.max_tokens = progress["pack_tokens"]
        self._seconds_before, self._joules_before = progress["seconds"], progress["joules"]
        self._evaluation_due = progress["evaluation_due"]
        if (best := progress["best"]) is not None:
            if (folder / BEST).exists():  # not where the last epoch is to be kept
                shutil.copyfile(folder / BEST, follow.best)
            follow.best_loss, follow.best_epoch, follow.worse = best["loss"], best["epoch"], best["worse"]
        runtime.note(f"train: goes on from the checkpoint of step {self.checkpoints.uploaded}")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After a restart: the evaluation that was cut off; and no step more where training had ended already."""
        if self._evaluation_due:
            self.trainer.evaluate()
            self._evaluation_due = False
        control.should_training_stop = control.should_training_stop or self.follow.ended or state.global_step >= state.max_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save if it is time; at an epoch's last step after the evaluation, which belongs to the epoch."""
        last = control.should_training_stop or state.epoch == int(state.epoch)
        control.should_save = self._due and not last

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save if it is time."""
        control.should_save = self._due

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop if SIGTERM has come."""
        if self.stopping:
            raise Stopped

    @property
    def _due(self) -> bool:
        return self.stopping or time.monotonic() - self._saved >= self.interval_s
