"""SPP-net (He, Zhang, Ren, Sun, TPAMI 2015): pyramid pooling, its networks and its tables.

The paper's sections and where they are:

    2.1 feature maps, A        ops/receptive_field.py, models/backbones.py
    2.2, 2.3.1, A pooling      ops/pyramid.py
    2.3.2 multi-size training  data/sampling.py, tasks/classification.py
    3.1 classification         tasks/classification.py, conf/experiment/table2.yaml
    3.1.1 architectures        conf/backbone

The names below work without Hydra and Lightning; they are imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.models.backbones import LayeredBackbone, TorchvisionBackbone
    from sppnet.models.sppnet import SppNet
    from sppnet.ops.lrn import local_response_norm
    from sppnet.ops.pyramid import SpatialPyramidPool, num_bins, pool_pyramid
    from sppnet.ops.receptive_field import ReceptiveField, receptive_field

_HOMES = {
    "LayeredBackbone": "sppnet.models.backbones",
    "ReceptiveField": "sppnet.ops.receptive_field",
    "SpatialPyramidPool": "sppnet.ops.pyramid",
    "SppNet": "sppnet.models.sppnet",
    "TorchvisionBackbone": "sppnet.models.backbones",
    "local_response_norm": "sppnet.ops.lrn",
    "num_bins": "sppnet.ops.pyramid",
    "pool_pyramid": "sppnet.ops.pyramid",
    "receptive_field": "sppnet.ops.receptive_field",
}

__all__ = [
    "LayeredBackbone",
    "ReceptiveField",
    "SpatialPyramidPool",
    "SppNet",
    "TorchvisionBackbone",
    "local_response_norm",
    "num_bins",
    "pool_pyramid",
    "receptive_field",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import sppnet` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sppnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
