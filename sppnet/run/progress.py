"""Tells whoever shows it how far a cell is; knows nothing of terminals."""

from collections.abc import Callable
from typing import Any, NamedTuple, final

from pytorch_lightning import Callback, LightningModule, Trainer

from sppnet.data.records import ImageBatch


class Step(NamedTuple):
    """How far a cell is."""

    stage: str  # training or testing
    completed: int  # batches
    total: int
    detail: str  # e.g. "epoch 3/30, 144 px"


Report = Callable[[Step], None]


@final
class BatchProgress(Callback):
    """Reports the batches of features that SVMs are made of and tested on."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch further."""
        total = int(trainer.num_training_batches)
        stage = "solving" if batch_idx + 1 == total else "reading features"
        self.report(Step(stage, batch_idx + 1, total, ""))


@final
class CellProgress(Callback):
    """Reports every training and every test batch."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch further."""
        is_image = isinstance(batch, ImageBatch)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        loss = f"loss {float(outputs['loss']):.3g}"
        detail = f"{epoch}, {batch.size} px, {loss}" if is_image else f"steps, {loss}"
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self.report(Step("training", trainer.global_step, total, detail))

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
