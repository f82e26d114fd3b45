"""How the learning rate falls during training (paper §3.1: divided by 10, twice)."""

from collections.abc import Sequence
from typing import Protocol, final, runtime_checkable

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from sppnet.errors import ConfigError


@runtime_checkable
class Schedule(Protocol):
    """Configures an optimiser's learning rate over a training of known length."""

    def configure(self, optimizer: Optimizer, epochs: int) -> OptimizerLRScheduler:
        """Return what `LightningModule.configure_optimizers` returns."""
        ...


@final
class StepSchedule:
    """Multiplies the learning rate by `factor` after given fractions of the epochs.

    Args:
        factor: In (0, 1).
        fractions: Rising, each in (0, 1): 0.6 of 10 epochs is after the sixth.
    """

    def __init__(self, *, factor: float, fractions: Sequence[float]) -> None:
        if not all(0 < fraction < 1 for fraction in fractions) or sorted(fractions) != list(fractions):
            raise ConfigError(f"schedule.fractions={list(fractions)}: must rise and lie between 0 and 1")
        self.factor = factor
        self.fractions = tuple(fractions)

    def configure(self, optimizer: Optimizer, epochs: int) -> OptimizerLRScheduler:
        """Step at the ends of the chosen epochs."""
        milestones = [round(fraction * epochs) for fraction in self.fractions]
        scheduler = MultiStepLR(optimizer, milestones, gamma=self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}


@final
class PlateauSchedule:
    """Multiplies by `factor`, `drops` times, when the held-out error stands still over `patience` epochs.

    The error is that of images held out of the training split (`data.val_fraction`), never the test split's.
    """

    def __init__(self, *, factor: float, patience: int, drops: int) -> None:
        self.factor = factor
        self.patience = patience
        self.drops = drops

    def configure(self, optimizer: Optimizer, epochs: int) -> OptimizerLRScheduler:
        """Watch `val/top1_error`."""
        floors = [group["lr"] * self.factor**self.drops for group in optimizer.param_groups]
        scheduler = ReduceLROnPlateau(
            optimizer, mode="min", factor=self.factor, patience=self.patience, min_lr=floors
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "monitor": "val/top1_error"},
        }
