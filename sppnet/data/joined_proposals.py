"""The proposals of several sources together (paper §4.3: selective search's and EdgeBoxes').

Axes: n proposals.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from sppnet.data.proposal_files import Boxes, StoredImage
from sppnet.data.proposals import SetSource
from sppnet.ops.boxes import keep_windows


@final
@dataclass(frozen=True)
class JoinedProposals:
    """Windows of all sources, one behind the other; of equal ones the first.

    Args:
        sources: Computed or files, by name; each keeps its own on disk.
    """

    sources: Mapping[str, Any]

    @property
    def is_computed(self) -> bool:
        """Whether all sources are."""
        return all(not isinstance(one, SetSource) or one.is_computed for one in self.sources.values())

    def read(
        self, images: Sequence[StoredImage], proposals_of: Callable[[Sequence[StoredImage], Any], Boxes], /
    ) -> Boxes:
        """Get the windows of some images; `proposals_of` gets those of one source."""
        parts = [proposals_of(images, source) for source in self.sources.values()]
        return [self.join(windows) for windows in zip(*parts, strict=True)]

    def propose(self, image: Image.Image) -> Float[Tensor, "n 4"]:
        """Propose windows of an RGB image."""
        return self.join([source.propose(image) for source in self.sources.values()])

    @staticmethod
    def join(parts: Sequence[Float[Tensor, "_ 4"]]) -> Float[Tensor, "n 4"]:
        """Put the windows of one image together."""
        boxes = torch.cat(list(parts))
        return keep_windows(boxes, min_side=1, max_proposals=len(boxes))
