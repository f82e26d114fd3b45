"""A frozen net on image files: vectors in memory (paper §3.2, §3.3).

Axes: n images, h w pixels, dim numbers per vector.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sppnet.errors import ConfigError, NonFiniteError
from sppnet.features.extract_view import ExtractView
from sppnet.features.specs import FeatureSpec
from sppnet.models.sppnet import SppNet

# Images of one size that pass together: 20 of 224 x 224. Rows depend on it in the last bit.
_BATCH_PIXELS = 1 << 20
_MAX_THREADS = 8


@contextlib.contextmanager
def frozen(net: SppNet) -> Iterator[None]:
    """Switch off dropout, gradients and reduced precision; every module's mode is restored."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.inference_mode(), torch.autocast(net.device.type, enabled=False):
            yield
    finally:
        for module, is_training in modes:  # children come after their parents, so theirs are the last word
            module.train(is_training)


def vector_lengths(net: SppNet, specs: Sequence[FeatureSpec], view: ExtractView) -> dict[FeatureSpec, int]:
    """Learn the length of every vector from the smallest image there can be.

    Raises:
        ConfigError: No such layer, or one that makes no vectors of one length; images too small.
    """
    for spec in specs:
        spec.require_sense(net, is_square=view.is_square)
    side = view.smallest_side
    try:
        vectors = _vectors(net, torch.zeros(1, 3, side, side, dtype=torch.uint8), specs)
    except ConfigError:
        raise
    except ValueError as error:
        names = ", ".join(spec.name for spec in specs)
        raise ConfigError(f"features {names} of images with a side of {side} pixels: {error}") from error
    return {spec: rows.shape[1] for spec, rows in vectors.items()}


def compute_rows(
    net: SppNet, paths: Sequence[Path], specs: Sequence[FeatureSpec], view: ExtractView
) -> dict[FeatureSpec, Float[Tensor, "n _"]]:
    """Compute vectors of a few images, all layers in one pass; images of one size pass together.

    Args:
        net: Inside `frozen`.
        paths: Image files; all of them are in memory at once.
        specs: One or more.
        view: How they are read.

    Returns:
        Rows in the order of `paths`. They depend on these arguments alone.

    Raises:
        BadImageError: A file cannot be used.
        NonFiniteError: A vector is NaN or infinite; names image and layer.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        images = list(pool.map(view.read, paths))  # Pillow decodes outside the interpreter's lock
    same_size: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        same_size.setdefault(image.shape, []).append(index)
    rows: dict[FeatureSpec, Tensor] = {}
    for (_, height, width), group in same_size.items():
        together = max(1, _BATCH_PIXELS // (height * width))
        for batch in (group[start : start + together] for start in range(0, len(group), together)):
            for spec, vectors in _vectors(net, torch.stack([images[i] for i in batch]), specs).items():
                rows.setdefault(spec, torch.empty(len(images), vectors.shape[1]))[batch] = vectors
    for spec, vectors in rows.items():
        _require_finite(vectors, paths, f"feature {spec.name} of {net.backbone.name}")
    return rows


def _vectors(
    net: SppNet, images: UInt8[Tensor, "n 3 h w"], specs: Sequence[FeatureSpec]
) -> dict[FeatureSpec, Float[Tensor, "n _"]]:
    layers = list(dict.fromkeys(spec.layer for spec in specs))
    outputs = net.layer_features(images.to(net.device).float(), layers)
    return {spec: spec.vectors(outputs[spec.layer]).float().cpu() for spec in specs}


def _require_finite(rows: Float[Tensor, "n dim"], paths: Sequence[Path], what: str) -> None:
    bad = rows.isfinite().all(dim=1).logical_not()
    if bad.any():
        first = int(bad.nonzero()[0, 0])
        raise NonFiniteError(
            f"{paths[first]}: {what} is NaN or infinite (as for {int(bad.sum())} of the {len(rows)} images "
            f"around it); check the weights, the input mean and this image"
        )
