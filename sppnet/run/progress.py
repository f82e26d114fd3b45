"""What a run says while it trains: how far it is, to whoever shows it, and metrics.jsonl.

metrics.jsonl has one JSON object a line, flushed as it goes.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, final

from pytorch_lightning import Callback, LightningModule, Trainer

from sppnet.artifacts import append_line, reading, regular, write_atomic
from sppnet.data.records import ImageBatch
from sppnet.errors import ArtifactError
from sppnet.windows.image_batches import PooledBatch


class Step(NamedTuple):
    """How far a cell is."""

    stage: str  # training or testing
    completed: int  # batches
    total: int
    detail: str  # e.g. "epoch 3/30, 144 px"


Report = Callable[[Step], None]
_FEW_EPOCHS = 4  # whose mean losses say less than single steps


def how_it_ended(directory: Path) -> dict[str, float]:
    """Say how training stood at its end, by its metrics.jsonl.

    Returns:
        final_loss: Mean training loss of the last tenth (two epochs or more; without so many, of steps).
        late_fall: By what share that is lower than the mean of the tenth before it.
        And the last held-out errors, as val/<name>.
    """
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_bytes().splitlines()]
    epochs = [row for row in rows if row.get("end_of_epoch")]
    steps = [row for row in rows if not row.get("end_of_epoch")]
    losses = [row["train/loss"] for row in (epochs if len(epochs) >= _FEW_EPOCHS else steps or epochs)]
    # An even number: sizes change from epoch to epoch (§2.3.2), and both parts should have both.
    tenth = max(2, 2 * round(len(losses) / 20))
    last, before = losses[-tenth:], losses[-2 * tenth : -tenth] or losses[:1]
    final_loss = sum(last) / len(last)
    fall = 1 - final_loss / (sum(before) / len(before)) if sum(before) > 0 else 0.0
    held_out = {key: value for key, value in (epochs or [{}])[-1].items() if key.startswith("val/")}
    return {"final_loss": final_loss, "late_fall": fall, **held_out}


@final
class BatchProgress(Callback):
    """Reports every training and every test batch."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch further."""
        num_batches = int(trainer.num_training_batches)
        if "loss" not in (outputs or {}):  # SVMs are solved once all features are there
            stage = "solving" if batch_idx + 1 == num_batches else "reading features"
            self.report(Step(stage, batch_idx + 1, num_batches, ""))
            return
        is_image = isinstance(batch, ImageBatch | PooledBatch)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        loss = f"loss {float(outputs['loss']):.3g}"
        detail = f"{epoch}, {batch.size} px, {loss}" if is_image else f"steps, {loss}"
        self.report(Step("training", trainer.global_step, num_batches * (trainer.max_epochs or 1), detail))

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """One batch further."""
        self.report(Step("testing", batch_idx + 1, int(sum(trainer.num_test_batches)), ""))


@final
class MetricsFile(Callback):
    """Writes the training loss every `every_steps` steps and the epoch's metrics when it ends.

    The number of lines is part of the checkpoint: a resumed run cuts off the lines that were written
    after it, so that none is missing and none is there twice. Must stand before `RunCheckpoint`.
    """

    def __init__(self, *, directory: Path, every_steps: int) -> None:
        self.path = directory / "metrics.jsonl"
        self.every_steps = every_steps
        self.num_lines = 0
        self.loss_sum, self.num_batches = 0.0, 0  # of the epoch so far

    def state_dict(self) -> dict[str, Any]:
        """The lines written so far, and the unfinished epoch's losses."""
        digest = hashlib.sha256(self._written()).hexdigest()
        return {
            "num_lines": self.num_lines,
            "lines": digest,
            "loss_sum": self.loss_sum,
            "num_batches": self.num_batches,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the checkpoint's.

        Raises:
            ArtifactError: The lines are not those that it knows.
        """
        with reading(self.path.parent):
            self.num_lines, lines = state_dict["num_lines"], state_dict["lines"]
            self.loss_sum, self.num_batches = state_dict["loss_sum"], state_dict["num_batches"]
        if hashlib.sha256(self._written()).hexdigest() != lines:
            raise ArtifactError(
                f"{self.path}: its first {self.num_lines} lines are not those that the checkpoint knows; "
                f"restore the file, or remove its directory to train anew"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut off what came after the checkpoint (all of it, in a new run)."""
        if not trainer.is_global_zero:
            return
        written = self._written()
        write_atomic(self.path, lambda stream: stream.write(written))
        # A dashboard's second part takes the place of its first when it is synchronised: it has to be whole.
        for row in map(json.loads, written.splitlines()):
            for logger in trainer.loggers:
                logger.log_metrics({key: float(value) for key, value in row.items()}, step=row["step"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A line with the loss, the learning rate and, of images, the training size."""
        loss = float(outputs["loss"])
        self.loss_sum += loss
        self.num_batches += 1
        if trainer.global_step % self.every_steps == 0:
            size = {"train/size": batch.size} if isinstance(batch, ImageBatch | PooledBatch) else {}
            self._append(trainer, {"train/loss": loss, **size})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A line with the epoch's mean loss and its errors on held-out images."""
        held_out = {
            key: float(trainer.callback_metrics[key])
            for key in sorted(trainer.callback_metrics)
            if key.startswith("val/")
        }
        mean_loss = self.loss_sum / max(1, self.num_batches)
        self._append(trainer, {"end_of_epoch": 1, "train/loss": mean_loss, **held_out})
        self.loss_sum, self.num_batches = 0.0, 0

    def _written(self) -> bytes:
        lines = regular(self.path).read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return b"".join(lines[: self.num_lines])

    def _append(self, trainer: Trainer, metrics: dict[str, float | int]) -> None:
        if not trainer.is_global_zero:
            return
        learning_rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "learning_rate": learning_rate,
            **metrics,
        }
        append_line(self.path, json.dumps(row))  # sure before a checkpoint counts it
        self.num_lines += 1
