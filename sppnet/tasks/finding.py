"""Find the objects in a list of images, and judge what was found (paper §4.1, Tables 9 to 12)."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sppnet.data.window_labels import DetectionImage
from sppnet.metrics.detection_ap import Detections, Truth, VocDetectionAP
from sppnet.run.guards import require_scores
from sppnet.tasks.detector import Machines, Regressors, Suppression, find_objects, move_objects
from sppnet.windows.source import WindowSource, rows_ahead


@final
class DetectorParts(NamedTuple):
    """Everything that turns windows into objects."""

    machines: Machines
    regressors: Regressors | None  # None: windows stay where they are
    suppression: Suppression


@final
class Picture(NamedTuple):
    """An image to find objects in."""

    image: Path
    windows: Float[Tensor, "n 4"]  # its proposals
    size: tuple[int, int]  # height and width, pixels


def detect(
    parts: DetectorParts,
    source: WindowSource,
    pooled: WindowSource,
    pictures: Iterable[Picture],
    *,
    workers: int,
) -> Iterator[Detections]:
    """Yield what was found, picture by picture.

    Args:
        parts: The detector.
        source: Of the vectors that the machines know.
        pooled: Of the vectors that the regressors know.
        pictures: Taken as they are needed.
        workers: Pictures whose vectors are computed at a time.
    """
    for picture, rows in rows_ahead(source, pictures, workers=workers):
        scores = parts.machines.scores(rows)
        require_scores(scores, f"windows of {picture.image}")
        found, where = find_objects(picture.windows, scores, parts.suppression)
        if parts.regressors is not None:
            kept, place = torch.unique(where, return_inverse=True)
            vectors = pooled.rows(picture.image, picture.windows[kept])[place]
            found = move_objects(found, vectors, parts.regressors, picture.size, parts.suppression)
        yield found


def average_precision(
    images: Sequence[DetectionImage], found: Sequence[Detections], *, num_classes: int
) -> Float64[Tensor, " k"]:
    """Eleven-point AP of every class (VOC 2007), a fraction; NaN for a class without objects."""
    metric = VocDetectionAP(num_classes=num_classes, min_overlap=0.5, interpolation="11point")
    for number, (image, detections) in enumerate(zip(images, found, strict=True)):
        metric.update(number, detections, Truth(*image.truth))
    return metric.compute()


def pack(found: Sequence[Detections]) -> dict[str, Tensor]:
    """Detections of many images as tensors to be written to a file."""
    boxes, scores, labels = (torch.cat(part) for part in zip(*found, strict=True))
    counts = torch.tensor([len(one.scores) for one in found])
    return {"counts": counts, "boxes_xyxy": boxes, "scores": scores, "labels": labels.to(torch.int32)}


def unpack(tensors: dict[str, Tensor]) -> list[Detections]:
    """The inverse of `pack`."""
    counts = tensors["counts"].tolist()
    columns = (tensors["boxes_xyxy"], tensors["scores"], tensors["labels"].long())
    return [
        Detections(*one) for one in zip(*(torch.split(column, counts) for column in columns), strict=True)
    ]
