"""SPP-net (He, Zhang, Ren, Sun, TPAMI 2015): pyramid pooling, its networks and its tables.

The paper's sections and where they are:

    2.1 feature maps, A        ops/receptive_field.py, models/backbones.py
    2.2, 2.3.1, A pooling      ops/pyramid.py
    2.3.2 multi-size training  data/sizes.py, data/sampling.py, tasks/classification.py
    3.1 classification         tasks/classification.py, tasks/evaluation.py, conf/experiment
    3.1.1 architectures        conf/backbone
    3.1.3-3.1.5 views          models/views.py, models/map_views.py
    3.1.6 ensembles            tasks/mean_scores.py
    3.2, 3.3 transfer          features, estimators/linear_svm.py, metrics/average_precision.py
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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.data.edge_boxes import EdgeBoxes
    from sppnet.data.proposal_files import MatProposals, read_mat
    from sppnet.data.proposals import proposals_of
    from sppnet.data.selective_search import SelectiveSearch
    from sppnet.estimators.box_regressor import BoxRegressor
    from sppnet.estimators.hard_negatives import HardNegativeSvm
    from sppnet.estimators.linear_svm import LinearSvm
    from sppnet.features.extract import ExtractView, FeatureCache, FeatureSpec, extract
    from sppnet.metrics.average_precision import AveragePrecision
    from sppnet.metrics.detection_ap import VocDetectionAP
    from sppnet.metrics.proposal_recall import proposal_recall
    from sppnet.models.backbones import LayeredBackbone, TorchvisionBackbone
    from sppnet.models.map_views import ManyViews, TenMapView
    from sppnet.models.sppnet import SppNet
    from sppnet.models.views import CropView, FullView, TenCropView
    from sppnet.ops.boxes import iou
    from sppnet.ops.lrn import local_response_norm
    from sppnet.ops.pyramid import SpatialPyramidPool, num_bins, pool_pyramid
    from sppnet.ops.receptive_field import ReceptiveField, receptive_field
    from sppnet.ops.suppression import suppress, suppress_per_class
    from sppnet.ops.window_pooling import bins_first, pool_windows
    from sppnet.ops.windows import choose_scale, map_cells, scale_windows

_HOMES = {
    "AveragePrecision": "sppnet.metrics.average_precision",
    "BoxRegressor": "sppnet.estimators.box_regressor",
    "CropView": "sppnet.models.views",
    "EdgeBoxes": "sppnet.data.edge_boxes",
    "ExtractView": "sppnet.features.extract",
    "FeatureCache": "sppnet.features.extract",
    "FeatureSpec": "sppnet.features.extract",
    "FullView": "sppnet.models.views",
    "HardNegativeSvm": "sppnet.estimators.hard_negatives",
    "LayeredBackbone": "sppnet.models.backbones",
    "LinearSvm": "sppnet.estimators.linear_svm",
    "ManyViews": "sppnet.models.map_views",
    "MatProposals": "sppnet.data.proposal_files",
    "ReceptiveField": "sppnet.ops.receptive_field",
    "SelectiveSearch": "sppnet.data.selective_search",
    "SpatialPyramidPool": "sppnet.ops.pyramid",
    "SppNet": "sppnet.models.sppnet",
    "TenCropView": "sppnet.models.views",
    "TenMapView": "sppnet.models.map_views",
    "TorchvisionBackbone": "sppnet.models.backbones",
    "VocDetectionAP": "sppnet.metrics.detection_ap",
    "bins_first": "sppnet.ops.window_pooling",
    "choose_scale": "sppnet.ops.windows",
    "extract": "sppnet.features.extract",
    "iou": "sppnet.ops.boxes",
    "local_response_norm": "sppnet.ops.lrn",
    "map_cells": "sppnet.ops.windows",
    "num_bins": "sppnet.ops.pyramid",
    "pool_pyramid": "sppnet.ops.pyramid",
    "pool_windows": "sppnet.ops.window_pooling",
    "proposal_recall": "sppnet.metrics.proposal_recall",
    "proposals_of": "sppnet.data.proposals",
    "read_mat": "sppnet.data.proposal_files",
    "receptive_field": "sppnet.ops.receptive_field",
    "scale_windows": "sppnet.ops.windows",
    "suppress": "sppnet.ops.suppression",
    "suppress_per_class": "sppnet.ops.suppression",
}

__all__ = [
    "AveragePrecision",
    "BoxRegressor",
    "CropView",
    "EdgeBoxes",
    "ExtractView",
    "FeatureCache",
    "FeatureSpec",
    "FullView",
    "HardNegativeSvm",
    "LayeredBackbone",
    "LinearSvm",
    "ManyViews",
    "MatProposals",
    "ReceptiveField",
    "SelectiveSearch",
    "SpatialPyramidPool",
    "SppNet",
    "TenCropView",
    "TenMapView",
    "TorchvisionBackbone",
    "VocDetectionAP",
    "bins_first",
    "choose_scale",
    "extract",
    "iou",
    "local_response_norm",
    "map_cells",
    "num_bins",
    "pool_pyramid",
    "pool_windows",
    "proposal_recall",
    "proposals_of",
    "read_mat",
    "receptive_field",
    "scale_windows",
    "suppress",
    "suppress_per_class",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import sppnet` itself costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sppnet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
