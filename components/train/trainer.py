"""TRL's trainer, on packs: one optimiser step is one batch of rows, whatever number of packs it makes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import TrainerControl
from trl import SFTTrainer

from calltune.errors import Stopped
from components.train import attention, ranks
from components.train.collator import Packs
from components.train.fitting import fit
from components.train.keeper import Diverged, Keeper

EXPLODED = 2.0
"""A loss this many times that of guessing, or of the first batch if that is larger, will not come down again."""
ROWS_NAMED = 8
"""Of a batch that ends training; a larger one is cut there."""


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
    _ids: Sequence[str] = ()

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """One optimiser batch: forward and backward pack by pack. Returns the mean loss, a scalar.

        Raises:
            Diverged: the loss is NaN or infinite or has exploded: nothing after this step would be worth its hours.
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
        self._ids = inputs["ids"]
        if ranks.is_first():
            self._require_sound(total.item())
        return total

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        norm: torch.Tensor = super()._clip_grad_norm(model)
        # Of a loss that is finite, too: the optimiser would ruin the weights, and the rows of the next batch get the blame.
        if ranks.is_first() and not math.isfinite(norm):
            raise self._diverged(f"the gradient's norm is {norm:.6g}")
        return norm

    def _require_sound(self, loss: float) -> None:
        first = next((entry["loss"] for entry in self.state.log_history if "loss" in entry), loss)
        limit = EXPLODED * max(first, math.log(self.model.config.get_text_config().vocab_size))
        if not loss <= limit:  # NaN is not
            high = f", more than {limit:.1f}" if math.isfinite(loss) else ""
            raise self._diverged(f"the loss is {loss:.6g}{high}")

    def _diverged(self, found: str) -> Diverged:
        ids, step = self._ids, self.state.global_step + 1
        named = ", ".join(ids[:ROWS_NAMED]) + (f" and {len(ids) - ROWS_NAMED} more" if len(ids) > ROWS_NAMED else "")
        return Diverged(f"{found} at step {step}: lower train.learning_rate, or look at the rows of its batch: {named}")

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
            Diverged: it is NaN or infinite: the last optimiser step has ruined the weights.
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
            raise Diverged(f"the validation loss is {total} {after}: lower train.learning_rate")
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
