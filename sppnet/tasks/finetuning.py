"""Fine-tune a network on windows, for detection (paper §4.1; for R-CNN, Tables 9 to 11).

Axes: n windows, d numbers of an input, k classes and the background.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from sppnet.artifacts import stable_seed
from sppnet.data.window_labels import DetectionImage
from sppnet.errors import ConfigError
from sppnet.models.sppnet import SppNet
from sppnet.run.guards import check_finite
from sppnet.tasks.mining import random_rows
from sppnet.tasks.schedules import Schedule
from sppnet.windows.batches import WindowBatch
from sppnet.windows.source import WindowSource

_NUM_IMAGES: Final = 150  # whose windows make first weights
_NUM_WINDOWS: Final = 20  # of each of them


@final
class WindowFineTuningTask(LightningModule):
    """The softmax loss over the classes and the background, which is class 0, descended to.

    Args:
        net: Its fc8 has one output for the background and one per class.
        learning_rate: Of the weights at the start.
        bias_rate: Learning rate of the biases over that of the weights (2 in the release).
        fc8_rate: Learning rate of the new layer, fc8, over that of the others (1 in §4.1, 10 in R-CNN).
        fc6_rate: Learning rate of fc6's weights over that of the others (1, but for vectors of another size).
        num_steps: Of the whole training, as the data module has it.
        optimizer: Makes an optimiser of groups of parameters, each with its `lr`.
        schedule: How the learning rate falls, step by step: there is one epoch.
        augmentation: Alters a batch's inputs; None leaves them.
        callbacks: Lightning's, by names.
        trains: "head": the convolutions are fixed, and inputs are pooled windows (SPP). "all": inputs are
            warped windows on 0..255, the three colour planes of a square one after the other (R-CNN).

    Raises:
        ConfigError: `trains` is none of these.
    """

    def __init__(  # noqa: PLR0913 - each is one key of conf/task, or an object
        self,
        *,
        net: SppNet,
        learning_rate: float,
        bias_rate: float,
        fc8_rate: float,
        fc6_rate: float,
        num_steps: int,
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        augmentation: Callable[[Tensor], Tensor] | None,
        callbacks: Mapping[str, Callback],
        trains: Literal["head", "all"],
    ) -> None:
        super().__init__()
        if trains not in ("head", "all"):
            raise ConfigError(f"finetuning.trains={trains!r}: expected head or all")
        self.net = net
        self.learning_rate = learning_rate
        self.bias_rate, self.fc8_rate, self.fc6_rate = bias_rate, fc8_rate, fc6_rate
        # Lightning's own count, asked for while optimisers are made, sets the loader up before a checkpoint's
        # state is there to be loaded into it: a resumed run would begin with the first batch again.
        self.num_steps = num_steps
        self.optimizer, self.schedule = optimizer, schedule
        self.augmentation = augmentation
        self.callbacks = callbacks
        self.trains = trains
        net.backbone.requires_grad_(trains == "all")

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Scores of windows, before the softmax."""
        if self.trains == "head":
            return self.net.head(inputs)
        side = math.isqrt(inputs.shape[1] // 3)
        scores: Tensor = self.net(inputs.view(-1, 3, side, side))
        return scores

    def on_train_batch_start(self, batch: WindowBatch, batch_idx: int) -> None:
        """Switch dropout on; a fixed trunk keeps still, batch normalisation included."""
        # Before every batch: a source of windows puts the net into evaluation mode when it computes some.
        self.net.train()
        self.net.backbone.train(self.trains == "all")

    def training_step(self, batch: WindowBatch, batch_idx: int) -> Tensor:
        """Softmax loss of a batch."""
        inputs = batch.inputs if self.augmentation is None else self.augmentation(batch.inputs)
        scores = self(inputs)
        loss = F.cross_entropy(scores, batch.labels)
        check_finite(
            loss.detach(),
            epoch=self.current_epoch,
            step=self.global_step,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            ids=batch.ids,
        )
        is_right, is_positive = scores.argmax(dim=1) == batch.labels, batch.labels > 0
        measured = {
            "train/loss": loss.detach(),
            "train/accuracy": is_right.float().mean(),
            "train/positive_accuracy": is_right[is_positive].float().mean(),
            "train/positive_share": is_positive.float().mean(),
        }
        self.log_dict(measured, on_step=True, on_epoch=False, batch_size=len(batch.labels))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """A group for every parameter, with its own rate."""
        groups = [
            {"params": [parameter], "lr": self.learning_rate * self._rate(name)}
            for name, parameter in self.net.named_parameters()
            if parameter.requires_grad
        ]
        optimizer = self.optimizer(groups, lr=self.learning_rate)
        return self.schedule.configure(optimizer, self.num_steps, "step")

    def configure_callbacks(self) -> list[Callback]:
        """Those of the configuration."""
        return list(self.callbacks.values())

    def _rate(self, name: str) -> float:
        """Learning rate of a parameter over `learning_rate`."""
        of_bias = self.bias_rate if name.endswith("bias") else 1.0
        if name == "fc6.weight":
            return self.fc6_rate
        return of_bias * (self.fc8_rate if name.startswith("fc8.") else 1.0)


def sample_windows(
    images: Sequence[DetectionImage], source: WindowSource, *, seed: int
) -> Float[Tensor, "n d"]:
    """Compute the vectors of some random windows of some random images."""
    generator = torch.Generator().manual_seed(stable_seed(seed, "first weights"))
    some = random_rows(images, source, num_images=_NUM_IMAGES, num_windows=_NUM_WINDOWS, generator=generator)
    return torch.cat([torch.empty(0, source.dim), *some])


@torch.no_grad()
def begin_with_directions(
    fc6: nn.Linear, fc7: nn.Linear, rows: Float[Tensor, "n d"], *, scale: float
) -> None:
    """Give fc6 and fc7 first weights made of the vectors they will see, for a trunk that comes without.

    The paper fine-tunes pre-trained ones (§4.1). Here fc6 begins with the directions in which pooled windows
    differ most (as Krahenbuhl et al., "Data-dependent initializations of convolutional neural networks", ICLR
    2016, begin layers), each once as it is and once with its sign turned, so that the two ReLUs lose nothing
    of it; outputs without a direction of their own begin at 0. fc7 begins by handing on what it gets.

    Args:
        fc6: From pooled vectors.
        fc7: From fc6.
        rows: Pooled vectors, more than half as many as fc6 has outputs.
        scale: What fc6 multiplies centred vectors by.
    """
    mean = rows.mean(dim=0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    num = min(fc6.out_features // 2, len(rows) - 1)
    longest = (vectors[:, -num:] / values[-num:].clamp(min=values[-1] * 1e-9).sqrt()).float()
    directions = scale * (centred.T @ longest).T
    fc6.weight.zero_()
    fc6.weight[:num], fc6.weight[num : 2 * num] = directions, -directions
    fc6.bias.copy_(-(fc6.weight @ mean))
    nn.init.eye_(fc7.weight)
    fc7.bias.zero_()
