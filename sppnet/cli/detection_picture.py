"""What a detector finds in its first test images, on one sheet (Fig. 6)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sppnet.artifacts import write_atomic

if TYPE_CHECKING:  # import torch
    from sppnet.data.window_labels import DetectionImage
    from sppnet.metrics.detection_ap import Detections

SHEET: Final = "detections.jpg"
_NUM_IMAGES, _COLUMNS, _SIDE = 20, 4, 400  # as many as Fig. 6 has in a column or two; pixels
_SHOW_ABOVE: Final = -0.5  # as `sppnet detect` does


def draw_sheet(
    path: Path,
    images: "Sequence[DetectionImage]",
    found: "Sequence[Detections]",
    *,
    classes: Sequence[str],
    max_pixels: int,
) -> None:
    """Write a picture with boxes and, in dashed lines, the objects that are there."""
    from sppnet.data.images import read_image
    from sppnet.figures.detections import contact_sheet, draw_detections
    from sppnet.metrics.detection_ap import Truth

    drawn = [
        draw_detections(
            read_image(image.image.path, upright=False, max_pixels=max_pixels),
            detections,
            classes,
            show_above=_SHOW_ABOVE,
            truth=Truth(*image.truth),
        )
        for image, detections in list(zip(images, found, strict=True))[:_NUM_IMAGES]
    ]
    sheet = contact_sheet(drawn, columns=_COLUMNS, side=_SIDE)
    write_atomic(path, lambda stream: sheet.save(stream, "JPEG", quality=90))
