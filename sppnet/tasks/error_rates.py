"""Top-1, top-5 and mean-per-class error, for training, testing and ensembles alike."""

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy


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
