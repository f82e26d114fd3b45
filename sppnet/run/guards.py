"""What makes a training run repeatable: its randomness and its floating-point checks."""

from typing import Any, final

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from sppnet.artifacts import stable_seed
from sppnet.errors import NonFiniteError
from sppnet.run.interrupts import Interruption


@final
class StepSeed(Callback):
    """Seeds torch before every training batch from (seed, rank, step).

    Dropout is then a function of the step alone: a resumed run draws what an undisturbed one draws.
    """

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators of all devices."""
        torch.manual_seed(stable_seed("step", self.seed, trainer.global_rank, trainer.global_step))


@final
class StopBetweenBatches(Callback):
    """Stops between two batches that nothing is learned from; RunCheckpoint between the others."""

    def __init__(self, interruption: Interruption) -> None:
        self.interruption = interruption

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hear the signals."""
        # Lightning's own SIGTERM handler ends with exit code 0 and no checkpoint (Lightning #20542).
        self.interruption.take_over()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hear the signals while testing as well."""
        self.interruption.take_over()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """While held-out images are looked at: the last checkpoint is a minute old."""
        self.interruption.raise_if_requested()

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """While images or vectors are scored."""
        self.interruption.raise_if_requested()


def require_scores(scores: Tensor, whose: str) -> None:
    """Refuse scores that are no result; minus infinity is one: of a class that nothing was learned of.

    Raises:
        NonFiniteError: A score is NaN or plus infinity.
    """
    if not (scores < torch.inf).all():
        raise NonFiniteError(
            f"scores of {whose} are NaN or infinite: the network has diverged, or its weights are damaged; "
            f"train it again with a lower training.learning_rate"
        )


def check_finite(loss: Tensor, *, epoch: int, step: int, learning_rate: float, ids: Tensor) -> None:
    """Stop before the optimiser's step when a loss is not a number.

    Raises:
        NonFiniteError: Names the step and the images of the batch.
    """
    if not torch.isfinite(loss):
        images = ", ".join(str(index) for index in ids[:8].tolist())
        raise NonFiniteError(
            f"loss is {loss.item()} in epoch {epoch}, step {step} at learning rate {learning_rate:g} "
            f"(images {images}{', ...' if len(ids) > 8 else ''} of the training set); "
            f"lower training.learning_rate or look at these images. The last checkpoint is from before"
        )
