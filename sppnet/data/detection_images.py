"""An image set to detect objects in: pictures, their ground truth and their proposals (paper §4)."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from sppnet.data.voc2007 import AnnotatedImage
from sppnet.data.window_labels import GroundTruth


class DetectionImage(NamedTuple):
    """An annotated image and where objects may be in it; p proposals."""

    image: AnnotatedImage
    proposals: Float[Tensor, "p 4"]  # x1 y1 x2 y2, 0-based inclusive pixels of the file as stored

    @property
    def truth(self) -> GroundTruth:
        """Its objects."""
        return GroundTruth(self.image.boxes_xyxy, self.image.labels, self.image.is_difficult)
