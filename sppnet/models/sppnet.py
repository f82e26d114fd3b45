"""SPP-net: convolutions, pyramid, fully connected layers (paper §2.2, Fig. 3).

Axes: n images or windows, c channels, h w pixels or cells.
"""

import logging
from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sppnet.errors import ConfigError
from sppnet.models.initialise import Init
from sppnet.models.normalise import InputNorm
from sppnet.models.trunk import Backbone, close_matches
from sppnet.ops.boxes import require_tensors
from sppnet.ops.pyramid import num_bins, pool_pyramid, pool_pyramid_sliding, require_levels

_log = logging.getLogger(__name__)


@final
class SppNet(nn.Module):
    """A classifier of images of any size.

    Args:
        backbone: The convolutions.
        input_norm: What is subtracted from an image first.
        levels: Bins per side of each pyramid level; [6] alone is the net without a pyramid.
        pooling: "bins" (Appendix A, any map) or "sliding" (§2.3.1, maps where both are the same).
        head_width: Outputs of fc6 and fc7 (4096 in the paper).
        dropout: Probability of dropping an output of fc6 or fc7 while training.
        num_classes: Outputs of fc8.
        init: First weights of the head, and of a backbone that has none of its own.

    Attributes:
        num_classes: Outputs of fc8.
        feature_layers: Names that `features` takes besides the backbone's submodules.
        min_short_side: Smallest image side in pixels whose map fills the finest level.
    """

    feature_layers = ("conv4", "conv5", "pool", "fc6", "fc7")

    def __init__(
        self,
        *,
        backbone: Backbone,
        input_norm: InputNorm,
        levels: Sequence[int],
        pooling: Literal["bins", "sliding"],
        head_width: int,
        dropout: float,
        num_classes: int,
        init: Init,
    ) -> None:
        super().__init__()
        if pooling not in ("bins", "sliding"):
            raise ConfigError(f"pyramid.pooling={pooling!r}: expected bins or sliding")
        try:
            levels = require_levels(levels)
        except ValueError as error:
            raise ConfigError(f"pyramid.levels: {error}") from error
        if min(head_width, num_classes) < 1 or not 0 <= dropout <= 1:
            raise ConfigError(
                f"head_width={head_width}, num_classes={num_classes}, dropout={dropout}: expected 1 or "
                f"more, 1 or more, and 0 to 1"
            )
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.input_norm = input_norm
        self.levels = levels
        self.pooling = pooling
        self.num_classes = num_classes
        self.fc6 = nn.Linear(backbone.out_channels * num_bins(levels), head_width)
        self.fc7 = nn.Linear(head_width, head_width)
        self.fc8 = nn.Linear(head_width, num_classes)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.min_short_side = backbone.min_size(max(levels))
        self._has_looked = False
        own = [] if backbone.own_init else [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
        init(own, [self.fc6, self.fc7, self.fc8])

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.fc6.weight.device

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Classify RGB images on 0..255.

        Raises:
            ValueError: The images are too small for the pyramid.
        """
        return self.head(self.pool(self.maps(images)))

    def maps(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Compute the last convolution's activations ("conv5") of images on 0..255."""
        maps: Tensor = self.backbone(self._normalised(images))
        return maps

    def pool(self, maps: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features"]:
        """Pool maps with the net's pyramid."""
        pool = pool_pyramid if self.pooling == "bins" else pool_pyramid_sliding
        return pool(maps, self.levels)

    def head(self, pooled: Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Compute the class scores (before the softmax) of pooled images or windows."""
        logits: Tensor = self.fc8(self.fc_features(pooled, "fc7"))
        return logits

    def fc_features(self, pooled: Float[Tensor, "n features"], layer: str) -> Float[Tensor, "n width"]:
        """Compute "fc6" or "fc7" of pooled images or windows: after the ReLU, dropout only in training."""
        features: Tensor = self.dropout(self.relu(self.fc6(pooled)))
        return features if layer == "fc6" else self.dropout(self.relu(self.fc7(features)))

    def features(
        self, images: Float[Tensor, "n 3 h w"], layer: str
    ) -> Float[Tensor, "n features"] | Float[Tensor, "n c h2 w2"]:
        """Compute the features of one layer.

        Args:
            images: RGB images on 0..255.
            layer: One of `feature_layers`, or the name of a submodule of the backbone.

        Returns:
            Vectors for pool, fc6, fc7; maps for layers of the backbone.

        Raises:
            ConfigError: There is no such layer.
            ValueError: The images are too small for the pyramid.
        """
        return self.layer_features(images, [layer])[layer]

    def layer_features(
        self, images: Float[Tensor, "n 3 h w"], layers: Sequence[str]
    ) -> dict[str, Float[Tensor, "n features"] | Float[Tensor, "n _ _ _"]]:
        """Compute the features of several layers in one pass, which ends at the deepest of them.

        Args:
            images: RGB images on 0..255.
            layers: As for `features`.

        Returns:
            From each layer to what `features` returns for it, bit for bit.

        Raises:
            ConfigError: There is no such layer.
            ValueError: The images are too small for the pyramid.
        """
        for layer in layers:
            self._require_layer(layer)
        vectors = [layer for layer in layers if layer in ("pool", "fc6", "fc7")]
        wanted = [layer for layer in layers if layer not in vectors] + ["conv5"] * bool(vectors)
        outputs = self.backbone.activations(self._normalised(images), wanted)
        if vectors:
            outputs["pool"] = self.pool(outputs["conv5"])
        if "fc6" in vectors or "fc7" in vectors:
            outputs["fc6"] = self.fc_features(outputs["pool"], "fc6")
        if "fc7" in vectors:
            outputs["fc7"] = self.dropout(self.relu(self.fc7(outputs["fc6"])))
        return {layer: outputs[layer] for layer in layers}

    def _require_layer(self, layer: str) -> None:
        if layer not in self.feature_layers and layer not in self.backbone.layers:
            names = (*self.feature_layers, *self.backbone.layers)
            raise ConfigError(
                f"no layer {layer!r} in {self.backbone.name}{close_matches(layer, names)}; "
                f"layers are {', '.join(self.feature_layers)} and the backbone's own"
            )

    def _normalised(self, images: Tensor) -> Tensor:
        require_tensors(images)
        if images.dim() != 4 or images.shape[1] != 3 or images.is_complex():
            raise ValueError(
                f"images {tuple(images.shape)} of {images.dtype}: expected n 3 h w, RGB on 0..255; a single "
                f"one is image[None], and one of h w 3 is first image.permute(2, 0, 1)"
            )
        height, width = images.shape[2:]
        if min(height, width) < self.min_short_side:
            raise ValueError(
                f"images of {height} x {width} pixels are too small: {self.backbone.name} with the pyramid "
                f"{list(self.levels)} needs >= {self.min_short_side} px per side; raise view.short_side"
            )
        self._look_at_range(images)
        normalised: Tensor = self.input_norm(images).to(self.fc6.weight.dtype)
        # Channels last: pooling and normalisation work on whole channel vectors then.
        return normalised.contiguous(memory_format=torch.channels_last)

    def _look_at_range(self, images: Tensor) -> None:
        """Warn, once, of images that seem to be on 0..1."""
        if self._has_looked or images.is_meta or torch.compiler.is_compiling() or not images.numel():
            return
        self._has_looked = True
        low, high = images.aminmax()
        if images.is_floating_point() and low >= 0 and 0 < high <= 1:
            _log.warning("images from %.2g to %.2g: are they on 0..1? 0..255 is expected", low, high)
