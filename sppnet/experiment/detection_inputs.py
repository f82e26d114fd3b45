"""What every stage of detection reads: images with proposals, and the vectors of their windows (§4.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sppnet.experiment.making import make
from sppnet.experiment.network import TrainedNetwork, load_network
from sppnet.experiment.take import Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.data.window_labels import DetectionImage
    from sppnet.experiment.schema import Conf
    from sppnet.features.conv_maps import ConvMaps
    from sppnet.features.window_source import WindowSource
    from sppnet.models.sppnet import SppNet
    from sppnet.tasks.mining import Norm

_NORM_SEED: Final = 3  # R-CNN, rcnn_feature_stats.m


def frozen_network(take: Take) -> TrainedNetwork:
    """The network that the run looks at, on the trainer's device."""
    trained = load_network(take.one_below("network"))
    return trained._replace(net=trained.net.to(take.conf.trainer.accelerator))


def annotated(take: Take, image_set: str) -> "AnnotatedImages":
    """Read one image set of the target."""
    found: tuple[AnnotatedImages, AnnotatedImages] = make(take.conf.target).read_boxes()
    return found[image_set == "test"]


def proposed(take: Take, images: "AnnotatedImages") -> "list[DetectionImage]":
    """Add the proposals: computed by a run before this one, or read from files."""
    from sppnet.data.proposals import proposals_of
    from sppnet.data.window_labels import DetectionImage

    proposals = proposals_of(
        images.images,
        make(take.conf.proposals),
        cache_dir=Path(take.conf.paths.cache),
        jobs=take.workers,
        max_pixels=take.conf.data_loading.max_pixels,
    )
    return [DetectionImage(*one) for one in zip(images.images, proposals, strict=True)]


def maps_of(take: Take, net: "SppNet", paths: Sequence[Path], *, is_mirrored: bool = False) -> "ConvMaps":
    """The maps of some images, kept on disk or not as the configuration says."""
    from sppnet.features.conv_maps import ConvMaps
    from sppnet.store.feature_cache import FeatureCache

    loading = take.conf.data_loading
    return ConvMaps(
        net,
        paths,
        is_mirrored=is_mirrored,
        cache=FeatureCache(Path(take.conf.paths.cache)) if loading.keep_maps else None,
        max_pixels=loading.max_pixels,
    )


def windows_of(
    conf: "Conf",
    net: "SppNet",
    maps: "ConvMaps",
    layer: str,
    order: Literal["pyramid", "bins_first"] = "bins_first",
) -> "WindowSource":
    """The vectors of the windows of `maps`' images: pooled from the maps, or R-CNN's.

    Args:
        conf: `windows` says how.
        net: Whose vectors; its convolutions are those that made the maps.
        maps: Of the images.
        layer: pool, fc6 or fc7.
        order: Of the numbers of a pooled vector.
    """
    windows = conf.windows
    if windows.method == "rcnn":
        from sppnet.features.warped_windows import WarpedWindows

        return WarpedWindows(
            net=net,
            paths=maps.paths,
            layer=layer,
            size=windows.size,
            context=windows.context,
            batch_size=windows.batch_size,
            max_pixels=maps.max_pixels,
            upright=maps.upright,
        )
    from sppnet.features.spp_windows import SppWindows

    return SppWindows(
        maps,
        net=net,
        layer=layer,  # type: ignore[arg-type]
        scales=windows.scales,
        mapping=windows.mapping,
        scale_target=windows.scale_target,
        side=windows.side,
        order=order,
    )


def norm_of(conf: "Conf", mean: float) -> "Norm":
    """How vectors are scaled to a mean norm: R-CNN measures it on random windows, always the same ones."""
    from sppnet.tasks.mining import Norm

    return Norm(mean, conf.mining.norm_images, conf.mining.norm_windows, seed=_NORM_SEED)
