"""A metric over test images drawn anew, often: how much of a difference is which images were tested.

Axes: b draws, i images, n entries of a ranking, k classes.

In a draw an image counts Poisson(1) times, which is drawing with replacement when images are many. How often
it counts follows from its name alone: whatever cells tested it, in whatever order, it counts as often in
each, so that differences between their draws are paired.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Float64, Int, Int8

from sppnet.artifacts import read_json, stable_seed, write_json

NUM_DRAWS: Final = 400
IMAGES: Final = "images.json"  # in a run's directory
_AT_ONCE: Final = 4_000_000  # numbers of a block of draws


def image_names(paths: Iterable[Path]) -> list[str]:
    """What images are called wherever their data set lies: by their folder and their own name."""
    return ["/".join(path.parts[-2:]) for path in paths]


def image_weights(names: Iterable[str]) -> Float64[np.ndarray, "b i"]:
    """How often every image counts in every draw."""
    columns = [np.random.default_rng(stable_seed(0, "image", name)).poisson(1.0, NUM_DRAWS) for name in names]
    return np.stack(columns, axis=1).astype(np.float64) if columns else np.ones((NUM_DRAWS, 0))


def image_draws(names: Iterable[str]) -> list[list[int]]:
    """The draws as positions of images, each as often as it counts; one that draws none draws all."""
    weights = image_weights(names).astype(int)
    positions = np.arange(weights.shape[1])
    return [np.repeat(positions, row).tolist() or positions.tolist() for row in weights]


def means(
    values: Float64[np.ndarray, " i"], weights: Float64[np.ndarray, "b i"]
) -> Float64[np.ndarray, " b"]:
    """Mean over the images."""
    counted: Float64[np.ndarray, " b"] = (weights @ values) / np.maximum(weights.sum(axis=1), 1.0)
    return counted


def class_means(
    values: Float64[np.ndarray, " i"], labels: Int[np.ndarray, " i"], weights: Float64[np.ndarray, "b i"]
) -> Float64[np.ndarray, " b"]:
    """Mean over the classes of the means over their images; classes without images in a draw are left out."""
    is_of = np.eye(int(labels.max()) + 1)[labels]
    counts = weights @ is_of
    sums = weights @ (is_of * values[:, None])
    shares = np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)
    averaged: Float64[np.ndarray, " b"] = np.nanmean(shares, axis=1)
    return averaged


def eleven_point_aps(
    outcomes: Int8[np.ndarray, " n"],
    images: Int[np.ndarray, " n"],
    num_positives: Int[np.ndarray, " i"],
    weights: Float64[np.ndarray, "b i"],
) -> Float64[np.ndarray, " b"]:
    """VOC 2007's AP of one class (average_precision.py), an image and all in it counting as often as it says.

    Args:
        outcomes: Of a ranking, best score first: +1 right, -1 wrong, 0 neither.
        images: Of which image each is.
        num_positives: Of every image.
        weights: See above.

    Returns:
        NaN in draws without positives.
    """
    is_hit = outcomes > 0
    block = max(1, _AT_ONCE // max(1, len(outcomes)))
    parts = [
        _aps(is_hit, outcomes != 0, images, some @ num_positives, some)
        for some in (weights[start : start + block] for start in range(0, len(weights), block))
    ]
    return np.concatenate(parts)


def _aps(
    is_hit: Bool[np.ndarray, " n"],
    is_counted: Bool[np.ndarray, " n"],
    images: Int[np.ndarray, " n"],
    num_positives: Float64[np.ndarray, " c"],
    weights: Float64[np.ndarray, "c i"],
) -> Float64[np.ndarray, " c"]:
    drawn = weights[:, images]
    found = np.cumsum(drawn[:, is_hit], axis=1)
    counted = np.cumsum(drawn * is_counted, axis=1)[:, is_hit]
    precision = np.divide(found, counted, out=np.zeros_like(found), where=counted > 0)
    # Entries that are not drawn repeat the recall before them, at a precision that is no higher.
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    aps = np.full(len(weights), np.nan)
    for draw, positives in enumerate(num_positives):
        if positives > 0:
            needed = np.maximum(np.ceil(np.arange(11) * positives / 10), 1.0)
            at = np.searchsorted(found[draw], needed)
            aps[draw] = envelope[draw, at[at < found.shape[1]]].sum() / 11
    return aps


def write_images(
    directory: Path,
    names: Sequence[str],
    replicates: Mapping[str, Float64[np.ndarray, " b"]],
    hits: Mapping[str, Sequence[bool]] | None = None,
) -> str:
    """Write what tables read of test images; return the file's name.

    Args:
        directory: A run's.
        names: Of the images, in the order of the hits.
        replicates: By metric, a number a draw.
        hits: By metric that is a share of images, which images count.
    """
    content = {
        "images": list(names),
        "replicates": {
            key: [float(f"{value:.6g}") for value in values]
            for key, values in replicates.items()
            if np.isfinite(values).all()
        },
        "hits": {key: "".join("01"[bool(hit)] for hit in hit_s) for key, hit_s in (hits or {}).items()},
    }
    write_json(directory / IMAGES, content)
    return IMAGES


def read_names(directory: Path) -> list[str] | None:
    """The images that a run was tested on, in their order; None of a run that does not say."""
    if not (directory / IMAGES).exists():
        return None
    names: list[str] = read_json(directory / IMAGES)["images"]
    return names
