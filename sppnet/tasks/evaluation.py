"""Test a trained network as a classifier, in any view, or several as one (paper §3.1.3-3.1.6; Tables 2 to 5).

The paper does not say how its eleven models were joined (§3.1.6); a plain mean of their softmax scores is
what it does with views.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from pytorch_lightning import LightningModule
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from sppnet.data.records import ViewBatch
from sppnet.errors import ArtifactError, ConfigError
from sppnet.metrics.replicates import means
from sppnet.models.sppnet import SppNet
from sppnet.models.views import View
from sppnet.models.weights import read_tensors
from sppnet.run.guards import require_scores


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
        require_scores(scores, f"test images {batch.ids.tolist()[:8]}")
        self.metrics.update(scores, batch.labels)
        self._seen.append((batch.ids.cpu(), scores.float().cpu(), batch.labels.cpu()))

    def on_test_epoch_end(self) -> None:
        """Log the errors as fractions."""
        self.log_dict(errors(self.metrics))

    def scores(self) -> "Scores":
        """Of all images tested, in the order of their set."""
        ids, scores, labels = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        order = ids.argsort()
        return Scores(scores[order], labels[order])


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1, top-5 and mean-per-class accuracy; of fewer than five classes all are in the top 5."""
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, top_k=1, average="micro"),
            "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro"),
            "mean_class": MulticlassAccuracy(num_classes, top_k=1, average="macro"),
        },
        # Groups are made of metrics that agree on the first batch, and top-1 and top-5 may.
        compute_groups=False,
    )


def errors(metrics: MetricCollection) -> dict[str, Tensor]:
    """`stage/top1_error` and so on, as fractions; the metrics start anew."""
    rates = {f"{name}_error": 1.0 - value for name, value in metrics.compute().items()}
    metrics.reset()
    return rates


class Scores(NamedTuple):
    """What one run, or an ensemble, says of the test images."""

    scores: Float[Tensor, "n classes"]  # mean softmax over the views
    labels: Int[Tensor, " n"]


def read_scores(run: Path) -> Scores:
    """Read the scores that an evaluation left in its directory.

    Raises:
        ArtifactError: There are none, or the file is damaged.
    """
    file = run / "scores.safetensors"
    tensors = read_tensors(file)
    if set(tensors) != {"scores", "labels"} or len(tensors["scores"]) != len(tensors["labels"]):
        raise ArtifactError(f"{file}: not a file of scores and labels; remove the run and run it again")
    require_scores(tensors["scores"], str(run))
    return Scores(tensors["scores"], tensors["labels"])


def average_scores(members: Sequence[Scores]) -> Scores:
    """Average the scores of networks that were tested on the same images.

    Raises:
        ConfigError: There are none, or their test images or classes differ.
    """
    if not members:
        raise ConfigError("an ensemble needs one network or more")
    first = members[0]
    for position, member in enumerate(members):
        if member.scores.shape != first.scores.shape or not torch.equal(member.labels, first.labels):
            raise ConfigError(
                f"member {position + 1} was tested on {tuple(member.scores.shape)} images and classes with "
                f"other labels than member 1 ({tuple(first.scores.shape)}): an ensemble needs runs on one "
                f"test set (same data, data.test_per_class and data.split_seed)"
            )
    mean = torch.stack([member.scores.double() for member in members]).mean(dim=0)
    return Scores(mean.float(), first.labels)


def error_rates(tested: Scores) -> dict[str, float]:
    """Top-1, top-5 and mean-per-class error, as fractions."""
    metrics = accuracies(tested.scores.shape[1])
    metrics.update(tested.scores, tested.labels)
    return {name: float(value) for name, value in errors(metrics).items()}


def of_images(
    tested: Scores, weights: Float64[np.ndarray, "b n"]
) -> tuple[dict[str, Float64[np.ndarray, " b"]], dict[str, list[bool]]]:
    """The errors over the images drawn anew, and which images they are made of (metrics/replicates.py).

    Args:
        tested: Scores of the images.
        weights: How often every image counts in every draw.

    Returns:
        Draws of top-1 and top-5 error, and the images that are wrong, both by metric.
    """
    num_top = min(5, tested.scores.shape[1])
    best = tested.scores.topk(num_top, dim=1).indices
    is_found = best == tested.labels[:, None]
    wrong = {"test/top1_error": ~is_found[:, 0], "test/top5_error": ~is_found.any(dim=1)}
    drawn = {key: means(flags.double().numpy(), weights) for key, flags in wrong.items()}
    return drawn, {key: flags.tolist() for key, flags in wrong.items()}
