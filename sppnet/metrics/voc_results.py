"""Detections in the result files of the VOC devkit, for its own evaluation and for other people's.

`comp4_det_<set>_<class>.txt` has a line `image_id score x1 y1 x2 y2` for every detection. The files count
pixels from 1; here pixels count from 0. "comp4": trained on more than VOC's images (ImageNet's).
"""

import itertools
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from sppnet.artifacts import write_atomic
from sppnet.errors import ConfigError, DataError
from sppnet.metrics.detection_ap import Detections


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
        image_ids: The images, such as 000001.
        classes: Names of the labels.
        detections: Those of every image.

    Returns:
        The files.

    Raises:
        ConfigError: A name would be a path or several words.
        ResourceError: A file cannot be written.
    """
    if wrong := [name for name in image_ids if len(name.split()) != 1]:
        raise ConfigError(f"image id {wrong[0]!r} has spaces or is empty; the devkit reads it as one word")
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
            f"{image_ids[image]} {score:.9g} {x1:.15g} {y1:.15g} {x2:.15g} {y2:.15g}\n"
            for image, score, (x1, y1, x2, y2) in zip(*columns, strict=True)
        )
        _write_lines(path, lines)
    return paths


def read_results(
    folder: Path, *, image_set: str, image_ids: Sequence[str], classes: Sequence[str]
) -> list[Detections]:
    """Read every class's file.

    Returns:
        The detections of every image, class by class, a class's in the order of its file.

    Raises:
        ConfigError: A name would be a path.
        DataError: A file is not there, or a line is not an image of the set and five numbers.
    """
    positions = {image_id: position for position, image_id in enumerate(image_ids)}
    image_of, numbers = array("q"), array("d")
    num_lines = []
    for name in classes:
        before = len(image_of)
        _read_file(_result_file(folder, image_set, name), positions, image_of, numbers)
        num_lines.append(len(image_of) - before)
    rows = torch.from_numpy(np.array(numbers).reshape(-1, 5))
    labels = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(num_lines))
    order = torch.from_numpy(np.argsort(np.array(image_of), kind="stable"))
    lengths = np.bincount(np.array(image_of, dtype=np.int64), minlength=len(image_ids)).tolist()
    columns = ((rows[order, 1:] - 1).float(), rows[order, 0].float(), labels[order])
    by_image = [torch.split(column, lengths) for column in columns]
    return [Detections(*of_image) for of_image in zip(*by_image, strict=True)]


def _result_file(folder: Path, image_set: str, class_name: str) -> Path:
    name = f"comp4_det_{image_set}_{class_name}.txt"
    if Path(name).name != name or "\\" in name:
        raise ConfigError(f"{name!r}: names of image sets and classes must not be paths; rename them")
    return folder / name


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    def write(stream: BinaryIO) -> None:
        while chunk := "".join(itertools.islice(lines, 10_000)):
            stream.write(chunk.encode())

    write_atomic(path, write)


def _read_file(
    path: Path, positions: dict[str, int], image_of: "array[int]", numbers: "array[float]"
) -> None:
    """Append the images and the numbers of a file's lines."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                image_id, *words = line.split() or [""]
                values = _numbers(words)
                if image_id not in positions or len(values) != 5:
                    raise DataError(
                        f"{path}, line {number}: {line[:80].strip()!r} is not an image of the set, a score "
                        f"and four corners; write the results of this image set again"
                    )
                image_of.append(positions[image_id])
                numbers.extend(values)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read ({reason}); write the results of every class first"
        ) from error


def _numbers(words: Sequence[str]) -> list[float]:
    """The numbers that words stand for; none if one of them stands for none, or is not finite."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []
