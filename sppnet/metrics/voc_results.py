"""Detections in the result files of the VOC devkit, for its own evaluation and for other people's.

`comp4_det_<set>_<class>.txt` has a line `image_id score x1 y1 x2 y2` for every detection. The files count
pixels from 1; here pixels count from 0. "comp4": trained on more than VOC's images (ImageNet's).
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import torch

from sppnet.artifacts import write_text
from sppnet.metrics.detection_ap import Detections

_LONGEST_NAME: Final = 180  # bytes; file systems have 255


def write_results(
    folder: Path,
    *,
    image_set: str,
    image_ids: Sequence[str],
    classes: Sequence[str],
    detections: Sequence[Detections],
) -> list[Path]:
    """Write a file for every class, also for one that was never found; what is read again is the same.

    Args:
        folder: The devkit's `results/VOC2007/Main`, or any other.
        image_set: test, for the numbers of the paper.
        image_ids: The images, such as 000001; spaces in them are written %20.
        classes: Names of the labels; in names of files / is written %2F, and long ones end in a digest.
        detections: Those of every image.

    Returns:
        The files.

    Raises:
        ResourceError: A file cannot be written.
    """
    words = [_as_word(name) for name in image_ids]
    lengths = torch.tensor([len(one.scores) for one in detections])
    image_of = torch.repeat_interleave(torch.arange(len(image_ids)), lengths)
    labels = torch.cat([torch.empty(0, dtype=torch.long), *(one.labels.cpu().long() for one in detections)])
    scores = torch.cat([torch.empty(0), *(one.scores.cpu() for one in detections)])
    boxes = torch.cat([torch.empty(0, 4), *(one.boxes_xyxy.cpu() for one in detections)]).double() + 1
    paths = [_result_file(folder, image_set, name) for name in classes]
    for label, path in enumerate(paths):
        rows = torch.nonzero(labels == label).squeeze(1)
        columns = (image_of[rows].tolist(), scores[rows].tolist(), boxes[rows].tolist())
        # Nine digits give a float32 back, fifteen a float32 to which 1 was added.
        lines = (
            f"{words[image]} {score:.9g} {x1:.15g} {y1:.15g} {x2:.15g} {y2:.15g}\n"
            for image, score, (x1, y1, x2, y2) in zip(*columns, strict=True)
        )
        write_text(path, "".join(lines))
    return paths


def _result_file(folder: Path, image_set: str, class_name: str) -> Path:
    name = re.sub(r"[/\\%\0]", _escaped, class_name)
    if len(name.encode()) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{digest}"
    return folder / f"comp4_det_{image_set}_{name}.txt"


def _as_word(name: str) -> str:
    """One word that is only this name's: the devkit splits lines at spaces."""
    return re.sub(r"[\s%]", _escaped, name)


def _escaped(match: re.Match[str]) -> str:
    return quote(match[0], safe="")
