"""SPP-net (He, Zhang, Ren, Sun, TPAMI 2015): pyramid pooling, its networks and its tables.

The paper's sections and where they are:

    2.1 feature maps, A        ops/receptive_field.py, models/backbones.py
    2.2, 2.3.1, A pooling      ops/pyramid.py
    2.3.2 multi-size training  data/sizes.py, data/sampling.py, tasks/classification.py
    3.1 classification         tasks/classification.py, tasks/evaluation.py, conf/experiment
    3.1.1 architectures        conf/backbone
    3.1.3-3.1.5 views          models/views.py, models/map_views.py
    3.1.6 ensembles            tasks/evaluation.py
    3.2, 3.3 transfer          features, store, estimators/linear_svm.py, metrics/average_precision.py
    4.1, A windows             ops/windows.py, ops/window_pooling.py, windows/spp.py
    4.1, 4.3 proposals         data/proposals.py, data/selective_search.py, data/edge_boxes.py
    4.1 fine-tuning            tasks/finetuning.py, windows/batches.py
    4.1 SVMs, hard negatives   tasks/mining.py, estimators/hard_negatives.py
    4.1 boxes, suppression     tasks/box_regression.py, tasks/detector.py, metrics/detection_ap.py
    4.2 R-CNN                  ops/warp.py, windows/warped.py
    4.3 timing                 tasks/timing.py
    4.4 combination            tasks/detector.py
    4.5 pre-training on DET    data/object_regions.py

The names below work without Hydra and Lightning; they are imported when first used.
"""

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the one list of public names, which is read below
    from sppnet.data.edge_boxes import EdgeBoxes as EdgeBoxes
    from sppnet.data.proposal_files import MatProposals as MatProposals
    from sppnet.data.proposal_files import read_mat as read_mat
    from sppnet.data.proposals import proposals_of as proposals_of
    from sppnet.data.selective_search import SelectiveSearch as SelectiveSearch
    from sppnet.estimators.box_regressor import BoxRegressor as BoxRegressor
    from sppnet.estimators.hard_negatives import HardNegativeSvm as HardNegativeSvm
    from sppnet.estimators.linear_svm import LinearSvm as LinearSvm
    from sppnet.features.extract import extract as extract
    from sppnet.features.extract_view import ExtractView as ExtractView
    from sppnet.features.specs import FeatureSpec as FeatureSpec
    from sppnet.metrics.average_precision import AveragePrecision as AveragePrecision
    from sppnet.metrics.detection_ap import VocDetectionAP as VocDetectionAP
    from sppnet.metrics.proposal_recall import proposal_recall as proposal_recall
    from sppnet.models.backbones import LayeredBackbone as LayeredBackbone
    from sppnet.models.backbones import TorchvisionBackbone as TorchvisionBackbone
    from sppnet.models.map_views import ManyViews as ManyViews
    from sppnet.models.map_views import TenMapView as TenMapView
    from sppnet.models.sppnet import SppNet as SppNet
    from sppnet.models.views import CropView as CropView
    from sppnet.models.views import FullView as FullView
    from sppnet.models.views import TenCropView as TenCropView
    from sppnet.ops.boxes import iou as iou
    from sppnet.ops.lrn import local_response_norm as local_response_norm
    from sppnet.ops.pyramid import SpatialPyramidPool as SpatialPyramidPool
    from sppnet.ops.pyramid import num_bins as num_bins
    from sppnet.ops.pyramid import pool_pyramid as pool_pyramid
    from sppnet.ops.receptive_field import ReceptiveField as ReceptiveField
    from sppnet.ops.receptive_field import receptive_field as receptive_field
    from sppnet.ops.suppression import suppress as suppress
    from sppnet.ops.suppression import suppress_per_class as suppress_per_class
    from sppnet.ops.window_pooling import bins_first as bins_first
    from sppnet.ops.window_pooling import pool_windows as pool_windows
    from sppnet.ops.windows import choose_scale as choose_scale
    from sppnet.ops.windows import map_cells as map_cells
    from sppnet.ops.windows import scale_windows as scale_windows
    from sppnet.store.feature_cache import FeatureCache as FeatureCache

_HOMES = {
    alias.name: node.module
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sppnet.")
    for alias in node.names
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import sppnet` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sppnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
