"""Train a network as a classifier (paper §3.1).

The training size changes from epoch to epoch (§2.3.2): the batch holds crops of one size and says at
which size the network sees them, so both sizes show the same content.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from sppnet.data.records import ImageBatch, ViewBatch
from sppnet.models.sppnet import SppNet
from sppnet.run.guards import check_finite
from sppnet.tasks.evaluation import accuracies, errors
from sppnet.tasks.schedules import Schedule
from sppnet.windows.image_batches import PooledBatch


@final
class ClassificationTask(LightningModule):
    """The softmax loss, descended to; held-out images are seen as central crops.

    Args:
        net: Any image size in, one score per class out.
        learning_rate: Of the weights at the start.
        bias_rate: Learning rate of the biases over that of the weights (2 in the release).
        optimizer: Makes an optimiser of groups of parameters, each with its `lr`.
        schedule: How the learning rate falls.
        trains: "head": the convolutions stay as they are, and batches are pooled already.
        augmentation: What the network sees of a batch on 0..255. What it draws from torch's global generator,
            a resumed run draws again.
        callbacks: Lightning's, by names.
    """

    def __init__(
        self,
        *,
        net: SppNet,
        learning_rate: float,
        bias_rate: float,
        trains: Literal["head", "all"],
        optimizer: Callable[..., Optimizer],
        schedule: Schedule,
        augmentation: Callable[[ImageBatch], Tensor],
        callbacks: Mapping[str, Callback],
    ) -> None:
        super().__init__()
        self.net = net
        self.learning_rate, self.bias_rate = learning_rate, bias_rate
        self.optimizer, self.schedule = optimizer, schedule
        self.augmentation = augmentation
        self.callbacks = callbacks
        net.backbone.requires_grad_(trains == "all")
        self.val_metrics = accuracies(net.num_classes).clone(prefix="val/")

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Scores of images on the 0..255 scale, before the softmax."""
        scores: Tensor = self.net(images)
        return scores

    def training_step(self, batch: ImageBatch | PooledBatch, batch_idx: int) -> Tensor:
        """Softmax loss at the batch's training size."""
        if isinstance(batch, PooledBatch):
            scores = self.net.head(batch.inputs)
        else:
            scores = self(self.augmentation(batch))
        loss = F.cross_entropy(scores, batch.labels)
        check_finite(
            loss.detach(),
            epoch=self.current_epoch,
            step=self.global_step,
            learning_rate=self.trainer.optimizers[0].param_groups[0]["lr"],
            ids=batch.ids,
        )
        for name, value in (("train/loss", loss), ("train/size", float(batch.size))):
            self.log(name, value, on_step=True, on_epoch=False, batch_size=len(batch.labels))
        return loss

    def validation_step(self, batch: ViewBatch | PooledBatch, batch_idx: int) -> None:
        """Error on images held out of the training split."""
        if isinstance(batch, PooledBatch):
            scores = self.net.head(batch.inputs)
        else:
            scores = self(batch.images[0][:, 0].float())
        self.val_metrics.update(scores, batch.labels)

    def on_validation_epoch_end(self) -> None:
        """Log the held-out errors."""
        self.log_dict(errors(self.val_metrics))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Two groups: biases learn `bias_rate` times as fast."""
        learning = [(name, value) for name, value in self.net.named_parameters() if value.requires_grad]
        groups = [
            {
                "params": [value for name, value in learning if name.endswith("bias") == is_bias],
                "lr": self.learning_rate * (self.bias_rate if is_bias else 1.0),
            }
            for is_bias in (False, True)
        ]
        optimizer = self.optimizer(groups, lr=self.learning_rate)
        return self.schedule.configure(optimizer, self.trainer.max_epochs or 1, "epoch")

    def configure_callbacks(self) -> list[Callback]:
        """Those of the configuration."""
        return list(self.callbacks.values())


@final
class ShiftAndResize:
    """Adds every image's colour shift, and resizes the regions to the size of the batch (§3.1, §2.3.2)."""

    def __call__(self, batch: ImageBatch) -> Float[Tensor, "n 3 h w"]:
        """What the network sees, on 0..255."""
        images = batch.images.float() + batch.colour_shift[:, :, None, None]
        return resize(images, int(batch.height), int(batch.width))


def resize(images: Float[Tensor, "n 3 h w"], height: int, width: int) -> Float[Tensor, "n 3 h2 w2"]:
    """Resize regions, bilinear with antialiasing (§2.3.2); the same tensor at equal size."""
    if images.shape[2:] == (height, width):
        return images
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def training_error(
    net: nn.Module, batches: Iterable[ImageBatch | PooledBatch], *, most: int, device: torch.device
) -> float:
    """Share of training images, as they are shown in training, that a trained network gets wrong; no dropout.

    Args:
        net: Comes back on the CPU, in evaluation mode.
        batches: Of training images.
        most: Images to look at.
        device: Where to.
    """
    net.eval().to(device)
    num_wrong = num_seen = 0
    with torch.no_grad():
        for batch in batches:
            if isinstance(batch, PooledBatch):
                assert isinstance(net, SppNet)
                scores = net.head(batch.inputs.to(device))
            else:
                images = batch.images.to(device).float() + batch.colour_shift.to(device)[:, :, None, None]
                scores = net(resize(images, int(batch.height), int(batch.width)))
            num_wrong += int((scores.argmax(dim=1).cpu() != batch.labels).sum())
            num_seen += len(batch.labels)
            if num_seen >= most:
                break
    net.cpu()
    return num_wrong / max(1, num_seen)
