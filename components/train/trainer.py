"""TRL's trainer, on packs: one optimiser step is one batch of rows, whatever number of packs it makes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from calltune import runtime
from calltune.errors import Stopped
from components.train import attention, ranks
from components.train.config import FEW_STEPS
from components.train.fitting import Packs, fit
from components.train.keeper import Keeper
from components.train.packing import Row, pack
from components.train.weights import save_trainable

EXPLODED = 2.0
"""A loss this many times that of guessing, or of the first batch if that is larger, will not come down again."""
ROWS_NAMED = 8
"""Of a batch that ends training; a larger one is cut there."""


class Collator:
    """Makes one batch of packs out of rows."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pack this rank's part of the rows, each with `id`, `input_ids` and `loss_mask`.

        Returns:
            The `packs`; the `rows` in them; how many tokens of all the rows are `supervised`; the `ids` of all the rows, to name
            those of a bad batch.
        """
        batch = sorted((Row(row["input_ids"], row["loss_mask"]) for row in rows), key=lambda row: row.input_ids)
        own = ranks.part(batch)
        # A row's first token is predicted by none.
        supervised = sum(sum(row.loss_mask[1:]) for row in batch)
        return {"packs": self.packed(own), "rows": own, "supervised": supervised, "ids": [row["id"] for row in rows]}

    def packed(self, rows: Sequence[Row]) -> Packs:
        """The rows' packs, each as a dict of its fields."""
        return [{field: getattr(p, field) for field in p.__dataclass_fields__} for p in pack(rows, self.max_tokens)]

    def halve(self, rows: Sequence[Row], packs: int) -> None:
        """Halve `max_tokens` until these rows, more than that many, make more than that many packs."""
        while len(pack(rows, self.max_tokens)) <= packs:
            self.max_tokens //= 2


class TreeTrainer(SFTTrainer):
    """Trains on packs: the loss is the mean over the batch's supervised tokens, as if its rows stood alone.

    Attributes:
        tokens: computed so far in training, shared ones once.
        supervised: of these, predicted ones that counted in the loss.
        keeper: of its checkpoints; None where none are kept.
    """

    tokens = 0
    supervised = 0
    keeper: Keeper | None = None
    control: TrainerControl

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One optimiser batch: forward and backward pack by pack. Returns the mean loss, a scalar.

        Raises:
            FloatingPointError: the loss is NaN or infinite or has exploded: nothing after this step would be worth its hours.
            UserError: a row by itself does not fit into memory.
        """
        model.train()
        packs, supervised = self._prepare_inputs(inputs)["packs"], inputs["supervised"]

        def summed(packs: Packs) -> tuple[torch.Tensor, torch.Tensor]:
            model.zero_grad()  # of a try that did not fit
            total = torch.zeros((), device=self.args.device)
            for p in packs:
                loss = self._summed_loss(model, p) / supervised
                self.accelerator.backward(loss)
                total += loss.detach()
            return total, torch.tensor(sum(p["input_ids"].numel() for p in packs), device=self.args.device)

        with ranks.own_dice(self.state.global_step):
            total, tokens = fit(summed, packs, inputs["rows"], self.data_collator, self.args.device)
        told = torch.tensor(float(self.keeper is not None and self.keeper.told), device=self.args.device)
        ranks.add_up([total, tokens, told])
        if self.keeper is not None and told:
            self.keeper.agree_to_stop()
        ranks.add_up_gradients(model)
        self.supervised += supervised
        self.tokens += int(tokens)
        if ranks.is_first():
            self._require_sound(total.item(), inputs["ids"])
        return total

    def _require_sound(self, loss: float, ids: Sequence[str]) -> None:
        first = next((entry["loss"] for entry in self.state.log_history if "loss" in entry), loss)
        limit = EXPLODED * max(first, math.log(self.model.config.get_text_config().vocab_size))
        if not loss <= limit:  # NaN is not
            named = ", ".join(ids[:ROWS_NAMED]) + (f" and {len(ids) - ROWS_NAMED} more" if len(ids) > ROWS_NAMED else "")
            high = f", more than {limit:.1f}" if math.isfinite(loss) else ""
            said = f"the loss is {loss:.6g}{high} at step {self.state.global_step + 1}"
            raise FloatingPointError(f"{said}: lower train.learning_rate, or look at the rows of its batch: {named}")

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A checkpoint may be of the end of training: the Trainer would do one step more before it looks.
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        assert self.keeper is not None  # nobody else sets should_save
        self.keeper.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        assert self.keeper is not None
        self.keeper.restore(Path(resume_from_checkpoint))

    def save_trainer_state(self, folder: Path) -> None:
        """Write what the Trainer restores by itself: optimiser, schedule, scaler and random states."""
        for save in (self._save_optimizer_and_scheduler, self._save_scaler, self._save_rng_state):
            save(str(folder))

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss over all supervised tokens of the validation rows, as `eval_loss`.

        Raises:
            FloatingPointError: it is NaN or infinite: the last optimiser step has ruined the weights.
            Stopped: SIGTERM has come; a checkpoint is written, from which training goes on with this evaluation.
        """
        self.model.eval()
        total, supervised, stopping = 0.0, 0, False
        # The loader draws a random number: what follows must not depend on whether an evaluation was done twice.
        with torch.random.fork_rng(devices=[]):
            for batch in self.get_eval_dataloader():
                if stopping := self.keeper is not None and self.keeper.cutting_off:
                    break
                total += fit(
                    lambda packs: sum(self._summed_loss(self.model, p).item() for p in packs),
                    self._prepare_inputs(batch)["packs"],
                    batch["rows"],
                    self.data_collator,
                    self.args.device,
                )
                supervised += batch["supervised"]
        if stopping and self.keeper is not None:
            self.keeper.save(evaluation_due=True)
            raise Stopped
        summed = torch.tensor(total, dtype=torch.float64, device=self.args.device)
        ranks.add_up([summed])
        total = summed.item()
        metrics = {"eval_loss": total / supervised}
        if ranks.is_first() and not math.isfinite(total):
            after = f"after step {self.state.global_step}"
            raise FloatingPointError(f"the validation loss is {total} {after}: lower train.learning_rate")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _summed_loss(self, model: torch.nn.Module, p: dict[str, Any]) -> torch.Tensor:
        with self.compute_loss_context_manager():
            # Only supervised positions go through the output layer, which is a quarter of a small model's work.
            logits = model(
                input_ids=p["input_ids"],
                position_ids=p["position_ids"],
                **attention.arguments(model, p["branches"]),
                logits_to_keep=p["label_positions"],
                use_cache=False,
            ).logits
        return cross_entropy(logits[0].float(), p["labels"], reduction="sum")


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
        runtime.note(f"epoch {state.epoch:.0f}: validation loss {loss:.4f}{' (best)' if better else ''}")
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
