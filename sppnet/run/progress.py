"""One bar for the cell, one for the sweep; plain lines where there is no terminal."""

import logging
import time
from typing import Any, final

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY_SECONDS = 20.0
log = logging.getLogger(__name__)


@final
class CellProgress(Callback):
    """Shows how far a cell is, and how far the sweep is in which it stands.

    Args:
        label: What the cell is called, e.g. "no SPP · ZF-5".
        position: The cell's place in the sweep, from 1.
        total: Cells in the sweep.
    """

    def __init__(self, *, label: str, position: int, total: int) -> None:
        self.label = label
        self.position = position
        self.total = total
        self._bars: Progress | None = None
        self._sweep: TaskID | None = None
        self._cell: TaskID | None = None
        self._said_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bars, from where a resumed run goes on."""
        self._open(trainer, "training", trainer.num_training_batches * (trainer.max_epochs or 1))
        self._advance(trainer.global_step, "")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One batch further."""
        detail = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs} size {batch.size}"
        if self._shows_now():
            detail += f" loss {float(outputs['loss']):.3f}"
            log.info("[%d/%d] %s: %s", self.position, self.total, self.label, detail)
        self._advance(trainer.global_step, detail)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bars down."""
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bars for the test images."""
        self._open(trainer, "testing", int(sum(trainer.num_test_batches)))

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
        self._advance(batch_idx + 1, "")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bars down."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bars down, so that the message stands alone."""
        self._close()

    def _open(self, trainer: Trainer, what: str, steps: int) -> None:
        self._close()
        if not trainer.is_global_zero:
            return
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            transient=True,
        )
        self._bars.start()
        if self.total > 1:
            done = self.position - 1
            self._sweep = self._bars.add_task("sweep", total=self.total, completed=done, detail="cells")
        self._cell = self._bars.add_task(f"{self.label} {what}", total=steps, detail="")

    def _advance(self, completed: int, detail: str) -> None:
        if self._bars is not None and self._cell is not None:
            self._bars.update(self._cell, completed=completed, detail=detail)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._sweep = self._cell = None

    def _shows_now(self) -> bool:
        """Whether a plain line is due: every twenty seconds, and only without a terminal."""
        silent = self._bars is None or self._bars.console.is_terminal
        if silent or time.monotonic() - self._said_at < _LINE_EVERY_SECONDS:
            return False
        self._said_at = time.monotonic()
        return True
