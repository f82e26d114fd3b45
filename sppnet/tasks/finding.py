"""Find the objects in a list of images, and judge what was found (paper §4.1, Tables 9 to 12)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, final

import torch
from jaxtyping import Float64
from torch import Tensor

from sppnet.data.detection_images import DetectionImage
from sppnet.windows.source import Request, rows_ahead
from sppnet.windows.source import WindowSource
from sppnet.metrics.detection_ap import Detections, Truth, VocDetectionAP
from sppnet.tasks.detector import Machines, Regressors, Suppression, find_objects, move_objects


@final
class DetectorParts(NamedTuple):
    """Everything that turns windows into objects."""

    machines: Machines
    regressors: Regressors | None  # None: windows stay where they are
    suppression: Suppression


def detect(
    parts: DetectorParts,
    source: WindowSource,
    pooled: WindowSource,
    images: Sequence[tuple[Tensor, tuple[int, int]]] | Mapping[int, tuple[Tensor, tuple[int, int]]],
    *,
    numbers: Sequence[int],
    workers: int,
) -> Iterator[tuple[int, Detections]]:
    """Yield what was found, image by image.

    Args:
        parts: The detector.
        source: Of the vectors that the machines know.
        pooled: Of the vectors that the regressors know.
        images: The proposals of every image (n x 4), and its height and width in pixels.
        numbers: Which of the images, in which order.
        workers: Images whose vectors are computed at a time.
    """
    requests = (Request(number, images[number][0]) for number in numbers)
    for request, rows in rows_ahead(source, requests, workers=workers):
        found, where = find_objects(request.windows, parts.machines.scores(rows), parts.suppression)
        if parts.regressors is not None:
            kept, place = torch.unique(where, return_inverse=True)
            vectors = pooled.rows(request.index, request.windows[kept])[place]
            size = images[request.index][1]
            found = move_objects(found, vectors, parts.regressors, size, parts.suppression)
        yield request.index, found


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
