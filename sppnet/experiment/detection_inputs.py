"""What every stage of detection reads: images with proposals, and the vectors of their windows (§4.1)."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sppnet.experiment.making import make, make_from
from sppnet.experiment.network import TrainedNetwork, load_network
from sppnet.experiment.take import Take

if TYPE_CHECKING:  # import torch
    from torch import Tensor

    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.data.window_labels import DetectionImage
    from sppnet.experiment.schema import Conf
    from sppnet.models.sppnet import SppNet
    from sppnet.windows.conv_maps import ConvMaps
    from sppnet.windows.source import WindowSource

_NORM_SEED: Final = 3  # R-CNN, rcnn_feature_stats.m


def frozen_network(take: Take) -> TrainedNetwork:
    """The network that the run looks at, on the trainer's device."""
    trained = load_network(take.one_below("network"), constant_mean=take.conf.target_mean)
    return trained._replace(net=trained.net.to(take.conf.trainer.accelerator))


def annotated(take: Take, image_set: str) -> "AnnotatedImages":
    """Read one image set of the target."""
    found: tuple[AnnotatedImages, AnnotatedImages] = make(take.conf.target).read_boxes()
    return found[image_set == "test"]


def proposed(take: Take, images: "AnnotatedImages") -> "list[DetectionImage]":
    """Add the proposals: computed by a run before this one, or read from files.

    Images whose objects are not all annotated have none: only their objects count (§4.5).
    """
    import torch

    from sppnet.data.proposals import proposals_of
    from sppnet.data.window_labels import DetectionImage

    complete = [image for image in images.images if image.is_complete]
    proposals = proposals_of(
        complete,
        make(take.conf.proposals),
        cache_dir=Path(take.conf.paths.cache),
        jobs=take.workers,
        max_pixels=take.conf.data_loading.max_pixels,
        report=functools.partial(take.progress, "computing proposals", detail="images"),
    )
    known = {image.image_id: boxes for image, boxes in zip(complete, proposals, strict=True)}
    none = torch.empty(0, 4)
    return [DetectionImage(image, known.get(image.image_id, none)) for image in images.images]


def maps_of(conf: "Conf", net: "SppNet", *, is_mirrored: bool = False, upright: bool = False) -> "ConvMaps":
    """The maps of images, kept on disk or not as the configuration says.

    Args:
        conf: `data_loading` says whether; pictures of `sppnet detect` never are.
        net: Whose maps.
        is_mirrored: Whether images are mirrored first.
        upright: Whether they are turned as EXIF says: new pictures, not those of a data set with boxes.
    """
    from sppnet.store.feature_cache import FeatureCache
    from sppnet.windows.conv_maps import ConvMaps

    loading = conf.data_loading
    return ConvMaps(
        net,
        is_mirrored=is_mirrored,
        cache=FeatureCache(Path(conf.paths.cache)) if loading.keep_maps and not upright else None,
        max_pixels=loading.max_pixels,
        upright=upright,
    )


def windows_of(
    conf: "Conf",
    net: "SppNet",
    layer: str,
    *,
    order: Literal["pyramid", "bins_first"] = "bins_first",
    is_mirrored: bool = False,
    upright: bool = False,
    max_windows: int | None = None,
    beside: "WindowSource | None" = None,
) -> "WindowSource":
    """Where the vectors of windows come from: pooled from maps, or R-CNN's.

    Args:
        conf: `windows` says how.
        net: Whose vectors.
        layer: pool, fc6 or fc7.
        order: Of the numbers of a pooled vector.
        is_mirrored: Whether images are mirrored first.
        upright: As for `maps_of`.
        max_windows: For R-CNN's clock (`WarpedWindows`).
        beside: Another source of the same images, whose maps are pooled from as well: those that are not kept
            on disk are then computed once.
    """
    from sppnet.windows.spp import SppWindows
    from sppnet.windows.warped import WarpedWindows

    windows = conf.windows
    if windows.method == "rcnn":
        return make_from(
            WarpedWindows,
            windows,
            net=net,
            layer=layer,
            max_pixels=conf.data_loading.max_pixels,
            upright=upright,
            max_windows=max_windows,
        )
    shared = beside.maps if isinstance(beside, SppWindows) else None
    maps = shared or maps_of(conf, net, is_mirrored=is_mirrored, upright=upright)
    return make_from(SppWindows, windows, maps=maps, net=net, layer=layer, order=order)


def scale_of(
    conf: "Conf", images: "list[DetectionImage]", source: "WindowSource", mean_norm: float
) -> "Tensor":
    """What vectors are multiplied by: R-CNN measures it on random windows, always the same ones."""
    from sppnet.tasks.mining import feature_scale

    others = {"images": images, "source": source, "mean_norm": mean_norm, "seed": _NORM_SEED}
    return make_from(feature_scale, conf.mining, **others)
