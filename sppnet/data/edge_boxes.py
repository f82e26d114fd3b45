"""EdgeBoxes (Zitnick and Dollar, ECCV 2014; paper §4.3), OpenCV's: boxes that hold whole contours.

Their edges come from the structured forest, if its model file is given, or else from the gradient.

Axes: n boxes, h w pixels.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from sppnet.artifacts import file_digest
from sppnet.errors import ConfigError, DataError
from sppnet.ops.boxes import keep_windows, rects_to_boxes

# OpenCV tabulates its scores' norms up to this sum of half the sides, and reads beyond unchecked.
_MAX_HALF_SIDES = 10_000
_SCORING = frozenset(
    (
        *("alpha", "beta", "eta", "minScore", "edgeMinMag", "edgeMergeThr", "clusterMinMag"),
        *("maxAspectRatio", "minBoxArea", "gamma", "kappa"),
    )
)
Map = Float32[np.ndarray, "h w"]


@final
class EdgeBoxes:
    """Sliding windows ranked by the contours inside them that do not cross their border.

    Args:
        model: OpenCV's `model.yml.gz` of the structured forest; None: gradient edges.
        sigma: Smoothing before the gradient is taken, pixels; the forest ignores it.
        scoring: Numbers of `cv2.ximgproc.createEdgeBoxes`, under its names.
        min_side: Least width and height of a proposal, pixels.
        max_proposals: The best so many are kept.

    Raises:
        ConfigError: A number is missing, unknown or out of range.
        DataError: The model cannot be read.
    """

    def __init__(
        self,
        *,
        model: str | Path | None,
        sigma: float,
        scoring: Mapping[str, float],
        min_side: int,
        max_proposals: int,
    ) -> None:
        if wrong := _SCORING.symmetric_difference(scoring):
            raise ConfigError(f"proposals.scoring: {', '.join(sorted(wrong))} missing or unknown")
        if sigma <= 0 or min_side < 1 or max_proposals < 1:
            raise ConfigError(
                f"proposals: sigma={sigma} must be above 0, min_side={min_side} and "
                f"max_proposals={max_proposals} 1 or more"
            )
        self.model = None if model is None else Path(model).expanduser()
        self.sigma = sigma
        self.scoring = {name: float(value) for name, value in scoring.items()}
        self.min_side = min_side
        self.max_proposals = max_proposals
        self.model_digest = None if self.model is None else _digest(self.model)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All arguments, the model by its content, and OpenCV's version."""
        import cv2

        return {**vars(self), "model": None, "opencv": cv2.__version__}

    def propose(self, image: Image.Image) -> Float[Tensor, "n 4"]:
        """Propose windows of an RGB image, the best score first.

        Raises:
            DataError: The image has more than 20,000 pixels of width and height together.
        """
        import cv2

        if min(image.size) < self.min_side:
            return torch.empty(0, 4)
        if sum(image.size) // 2 >= _MAX_HALF_SIDES:
            raise DataError(f"{image.width} x {image.height} pixels are too many for EdgeBoxes; shrink it")
        pixels = np.asarray(image)
        if self.model is None:
            edges, orientations = _gradient_edges(pixels, self.sigma)
        else:
            edges, orientations = _forest_edges(pixels, _load_forest(self.model))
        # A new object per image: OpenCV's keeps tables of the last one.
        scoring: dict[str, Any] = {**self.scoring, "maxBoxes": self.max_proposals}
        search = cv2.ximgproc.createEdgeBoxes(**scoring)
        rects, _ = search.getBoundingBoxes(edges, orientations)
        # As in the authors' MATLAB, x and y count from 1, and x + width is the last pixel's.
        boxes = rects_to_boxes(np.asarray(rects, dtype=np.int32).reshape(-1, 4) + (-1, -1, 1, 1))
        return keep_windows(boxes, min_side=self.min_side, max_proposals=self.max_proposals)


def _gradient_edges(pixels: UInt8[np.ndarray, "h w 3"], sigma: float) -> tuple[Map, Map]:
    """Thin edges, the strongest 1, and the direction across them in [0, pi).

    Per pixel the channel with the largest gradient counts.
    """
    import cv2

    smooth = cv2.GaussianBlur(pixels.astype(np.float32) / 255, (0, 0), sigma)
    across, down = (cv2.Scharr(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
    strongest = np.hypot(across, down).argmax(axis=2)[:, :, None]
    across, down = (np.take_along_axis(part, strongest, axis=2)[:, :, 0] for part in (across, down))
    magnitude = np.hypot(across, down)
    magnitude /= max(float(magnitude.max()), float(np.finfo(np.float32).tiny))
    orientation = np.mod(np.arctan2(down, across), np.float32(np.pi))
    return _thin(magnitude, orientation), orientation


def _thin(magnitude: Map, orientation: Map) -> Map:
    """Drop what is weaker than a neighbour across the edge.

    EdgeBoxes joins neighbouring edge pixels: on edges that are not thin it takes minutes.
    """
    import cv2

    ys, xs = np.indices(magnitude.shape, dtype=np.float32)
    dx, dy = np.cos(orientation), np.sin(orientation)
    # 1.01 as in the authors' edgesNms: rounding must not remove an edge of two equal pixels.
    keep = [
        cv2.remap(
            magnitude, xs + side * dx, ys + side * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        <= np.float32(1.01) * magnitude
        for side in (-1, 1)
    ]
    return magnitude * (keep[0] & keep[1])


def _forest_edges(pixels: UInt8[np.ndarray, "h w 3"], forest: Any) -> tuple[Map, Map]:
    edges = forest.detectEdges(pixels.astype(np.float32) / 255)
    orientations = forest.computeOrientation(edges)
    return forest.edgesNms(edges, orientations), orientations


@functools.cache
def _load_forest(model: Path) -> Any:
    """Read the model, seconds of work, once per process."""
    import cv2

    try:
        return cv2.ximgproc.createStructuredEdgeDetection(str(model))
    except cv2.error as error:
        raise DataError(
            f"{model}: not OpenCV's structured-forest model (model.yml.gz of opencv_extra): {error}"
        ) from None


def _digest(model: Path) -> str:
    try:
        return file_digest(model)
    except OSError as error:
        raise DataError(
            f"proposals.model={model}: cannot read ({error.strerror or error}); null takes gradient edges"
        ) from error
