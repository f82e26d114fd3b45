"""Test a trained network as a classifier, in any view (paper §3.1.3-3.1.6; Tables 2 to 5)."""

from typing import final

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningModule
from torch import Tensor

from sppnet.data.records import ViewBatch
from sppnet.models.sppnet import SppNet
from sppnet.models.views import View
from sppnet.tasks.error_rates import accuracies, errors


@final
class EvaluationTask(LightningModule):
    """Errors of the mean softmax over the views of each image (§3.1, footnote 1).

    Args:
        net: Trained.
        view: How it is shown an image.
    """

    def __init__(self, *, net: SppNet, view: View) -> None:
        super().__init__()
        self.net = net
        self.view = view
        self.metrics = accuracies(net.num_classes).clone(prefix="test/")
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def test_step(self, batch: ViewBatch, batch_idx: int) -> None:
        """Score the images of one batch."""
        scores = self.view.softmax(self.net, batch.images).mean(dim=1)
        self.metrics.update(scores, batch.labels)
        self._seen.append((batch.ids.cpu(), scores.float().cpu(), batch.labels.cpu()))

    def on_test_epoch_end(self) -> None:
        """Log the errors as fractions."""
        self.log_dict(errors(self.metrics))

    def scores(self) -> tuple[Float[Tensor, "n classes"], Int[Tensor, " n"]]:
        """Mean softmax scores and labels of all images tested, in the order of their set."""
        ids, scores, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        order = ids.argsort()
        return scores[order], labels[order]
