"""Judge a frozen network by linear SVMs on its features (paper §3.2, §3.3; Tables 6 to 8).

Axes: n images, d numbers a vector, k classes.

The one training epoch collects the vectors; at its end C is chosen on the held-out ones and the machines
are fitted to all. What they are stands in buffers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, Float64, Int8
from pytorch_lightning import Callback, LightningModule
from torch import Tensor

from sppnet.errors import ConfigError, DataError, NonFiniteError
from sppnet.estimators.linear_svm import LinearSvm
from sppnet.features.feature_batches import FeatureBatch
from sppnet.metrics.average_precision import AveragePrecision, best_first, mean_ap
from sppnet.metrics.replicates import class_means, eleven_point_aps, means
from sppnet.run.guards import require_scores

Measure = Literal["average_precision", "accuracy"]


@final
class TransferTask(LightningModule):
    """One-vs-rest linear SVMs on l2-normalised vectors.

    Args:
        classes: Names.
        num_features: Length of the vectors.
        measure: "average_precision", VOC's 11-point mean AP, or "accuracy", the mean over classes.
        machine: Is fitted, with a C of `svm_c` in place of its own.
        svm_c: Values to choose from on held-out training images; a single one is taken as it is.
        patience: So many values of rising C without gain end the search.
        callbacks: Lightning's, by names.

    Attributes:
        coef: Weights of the machines.
        intercept: Their biases.
        chosen_c: The C they were fitted with.
        status: What became of each class (`LinearSvm.status_`).
    """

    coef: Tensor
    intercept: Tensor
    chosen_c: Tensor

    def __init__(
        self,
        *,
        classes: Sequence[str],
        num_features: int,
        measure: Measure,
        machine: LinearSvm,
        svm_c: Sequence[float],
        patience: int,
        callbacks: Mapping[str, Callback],
    ) -> None:
        super().__init__()
        if measure not in ("average_precision", "accuracy"):
            raise ConfigError(f"transfer.measure={measure!r}: expected average_precision or accuracy")
        if not svm_c:
            raise ConfigError("transfer.svm_c is empty: expected one C or more")
        self.automatic_optimization = False  # the machines are solved, not descended to
        self.classes = tuple(classes)
        self.measure = measure
        self.svm_c = sorted(svm_c)
        self.patience = patience
        self.machine = machine
        self.callbacks = callbacks
        self.register_buffer("coef", torch.zeros(len(classes), num_features))
        self.register_buffer("intercept", torch.zeros(len(classes)))
        self.register_buffer("chosen_c", torch.tensor(float("nan"), dtype=torch.float64))
        self.status: list[str] = []
        self._collected: list[FeatureBatch] = []
        self._tested: list[tuple[Tensor, Tensor]] = []
        self.tested: tuple[Tensor, Tensor]  # scores and presence of the last test

    def configure_optimizers(self) -> None:
        """There is nothing to descend."""

    def configure_callbacks(self) -> list[Callback]:
        """Those of the configuration."""
        return list(self.callbacks.values())

    def training_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Keep the vectors."""
        self._collected.append(batch._replace(features=normalise(batch.features)))

    def on_train_epoch_end(self) -> None:
        """Choose C and solve."""
        features, presence, is_held_out = (
            torch.cat([batch[i] for batch in self._collected]) for i in range(3)
        )
        self._collected.clear()
        chosen = self.svm_c[0]
        if len(self.svm_c) > 1:
            chosen, best = self._choose(features, presence, is_held_out)
            self.log("val/score", best)
        fitted = self.machine.set_params(svm_c=chosen).fit(features, presence)
        if not torch.isfinite(fitted.coef_).all():
            raise NonFiniteError(
                f"the SVMs' weights are not finite at svm_c={chosen:g}; lower the largest transfer.svm_c"
            )
        self.status = [str(status) for status in fitted.status_]
        self.coef.copy_(fitted.coef_)
        self.intercept.copy_(fitted.intercept_)
        self.chosen_c.fill_(chosen)
        self.log("svm_c", self.chosen_c)

    def _choose(self, features: Tensor, presence: Tensor, is_held_out: Tensor) -> tuple[float, float]:
        """Return the C that is best on held-out images, of several the smallest, and its measure."""
        if not is_held_out.any():
            raise ConfigError(
                f"no training images are held out to choose among {len(self.svm_c)} values of C; raise "
                f"transfer.val_fraction or transfer.per_class, or give one value: transfer.svm_c=[1.0]"
            )
        if not (presence[is_held_out] > 0).any():
            raise DataError(
                "no held-out training image shows any class, so none can choose C; raise "
                "transfer.val_fraction, or give one value: transfer.svm_c=[1.0]"
            )
        kept = ~is_held_out
        chosen, best, num_without_gain = self.svm_c[0], -1.0, 0
        for fitted in self.machine.fit_path(features[kept], presence[kept], self.svm_c):
            scores = fitted.decision_function(features[is_held_out])
            score = self._measured(scores, presence[is_held_out])["score"]
            num_without_gain += 1
            if score > best:
                chosen, best, num_without_gain = fitted.svm_c, score, 0
            if num_without_gain == self.patience:
                break
        return chosen, best

    def test_step(self, batch: FeatureBatch, batch_idx: int) -> None:
        """Score the vectors."""
        scores = normalise(batch.features) @ self.coef.T + self.intercept
        require_scores(scores, "test images by the SVMs")
        self._tested.append((scores, batch.presence))

    def on_test_epoch_end(self) -> None:
        """Log the measures, as fractions."""
        scores, presence = (torch.cat(parts) for parts in zip(*self._tested, strict=True))
        self._tested.clear()
        self.tested = scores, presence
        for name, value in self._measured(scores, presence).items():
            self.log(f"test/{name}", value)

    def replicates(self, weights: Float64[np.ndarray, "b n"]) -> dict[str, Float64[np.ndarray, " b"]]:
        """The measures over the images tested last, drawn anew (metrics/replicates.py).

        Args:
            weights: How often every image counts in every draw.
        """
        scores, presence = (part.cpu().numpy() for part in self.tested)
        if self.measure == "accuracy":
            labels = presence.argmax(axis=1)
            is_right = (scores.argmax(axis=1) == labels).astype(np.float64)
            return {
                "test/score": class_means(is_right, labels, weights),
                "test/overall": means(is_right, weights),
            }
        aps = []
        for of_class, present in zip(scores.T, presence.T, strict=True):
            order = best_first(of_class)
            aps.append(eleven_point_aps(present[order], order, (present > 0).astype(int), weights))
        return {"test/score": np.nanmean(np.stack(aps), axis=0)}

    def _measured(self, scores: Float[Tensor, "n k"], presence: Int8[Tensor, "n k"]) -> dict[str, float]:
        """Measure by name, "score" being the headline; classes without positives are left out."""
        if self.measure == "average_precision":
            metric = AveragePrecision(num_classes=len(self.classes))
            metric.update(scores, presence)
            per_class = metric.compute()
            mean = mean_ap(per_class)
            measured = {"score": float(mean.value), "num_classes": float(mean.num_counted)}
            prefix = "ap"
        else:
            per_class, overall = _accuracies(scores, presence)
            counted = ~per_class.isnan()
            measured = {
                "score": float(per_class[counted].mean()),
                "overall": overall,
                "num_classes": float(counted.sum()),
            }
            prefix = "class_accuracy"
        values = zip(self.classes, per_class.tolist(), strict=True)
        return measured | {f"{prefix}/{name}": value for name, value in values if not math.isnan(value)}


def normalise(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Divide every vector by its length (§3.2); a vector of zeros stays one."""
    lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    normalised: Tensor = features / lengths.clamp(min=torch.finfo(features.dtype).tiny)
    return normalised


def _accuracies(
    scores: Float[Tensor, "n k"], presence: Int8[Tensor, "n k"]
) -> tuple[Float[Tensor, " k"], float]:
    """Share of images whose best class is theirs: of every class (NaN without images), and of all."""
    if not ((presence > 0).sum(dim=1) == 1).all():
        raise DataError("accuracy is for images of one class each; set transfer.measure=average_precision")
    labels = presence.argmax(dim=1)
    is_right = (scores.argmax(dim=1) == labels).double()
    sums = torch.zeros(scores.shape[1], dtype=torch.float64).index_add_(0, labels.cpu(), is_right.cpu())
    counts = torch.bincount(labels.cpu(), minlength=scores.shape[1])
    return sums / counts, float(is_right.mean())
