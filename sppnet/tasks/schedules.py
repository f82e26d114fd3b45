"""How the learning rate falls during training (paper §3.1: divided by 10, twice; §4.1: once)."""

from collections.abc import Sequence
from typing import Literal, Protocol, final, runtime_checkable

from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from sppnet.errors import ConfigError

Interval = Literal["epoch", "step"]


@runtime_checkable
class Schedule(Protocol):
    """Configures an optimiser's learning rate over a training of known length."""

    def configure(self, optimizer: Optimizer, length: int, interval: Interval) -> OptimizerLRScheduler:
        """Return what `LightningModule.configure_optimizers` returns.

        Args:
            optimizer: Its groups have their first rates.
            length: Of the whole training, in intervals.
            interval: After which the rate may change.
        """
        ...


@final
class StepSchedule:
    """Multiplies the learning rate by `factor` after given fractions of the training.

    Args:
        factor: In (0, 1).
        fractions: Rising, each in (0, 1): 0.6 of 10 epochs is after the sixth.
    """

    def __init__(self, *, factor: float, fractions: Sequence[float]) -> None:
        if not all(0 < fraction < 1 for fraction in fractions) or sorted(fractions) != list(fractions):
            raise ConfigError(f"schedule.fractions={list(fractions)}: must rise and lie between 0 and 1")
        self.factor = factor
        self.fractions = tuple(fractions)

    def configure(self, optimizer: Optimizer, length: int, interval: Interval) -> OptimizerLRScheduler:
        """Step at the ends of the chosen epochs, or behind the chosen steps."""
        milestones = [round(fraction * length) for fraction in self.fractions]
        scheduler = MultiStepLR(optimizer, milestones, gamma=self.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


@final
class CosineSchedule:
    """Lowers the learning rate from its first value to none along half a cosine; not in the paper."""

    def configure(self, optimizer: Optimizer, length: int, interval: Interval) -> OptimizerLRScheduler:
        """Lower it after every epoch, or after every step."""
        scheduler = CosineAnnealingLR(optimizer, length)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": interval}}


@final
class PlateauSchedule:
    """Multiplies by `factor`, `drops` times, when the held-out error stands still over `patience` epochs.

    The error is that of images held out of the training split (`data.val_fraction`), never the test split's.
    """

    def __init__(self, *, factor: float, patience: int, drops: int) -> None:
        self.factor = factor
        self.patience = patience
        self.drops = drops

    def configure(self, optimizer: Optimizer, length: int, interval: Interval) -> OptimizerLRScheduler:
        """Watch `val/top1_error`.

        Raises:
            ConfigError: Nothing is held out while windows are learned from.
        """
        if interval == "step":
            raise ConfigError(
                "finetuning.task.schedule: a plateau is one of held-out images, which fine-tuning on windows "
                "does not look at; choose schedule@finetuning.task.schedule=finetuning, or cosine"
            )
        floors = [group["lr"] * self.factor**self.drops for group in optimizer.param_groups]
        scheduler = ReduceLROnPlateau(
            optimizer, mode="min", factor=self.factor, patience=self.patience, min_lr=floors
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "epoch", "monitor": "val/top1_error"},
        }
