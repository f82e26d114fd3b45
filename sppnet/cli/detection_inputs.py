"""What every stage of detection reads: images with proposals, and the vectors of their windows (§4.1)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hydra.utils import instantiate

from sppnet.cli.pool import usable_cores
from sppnet.cli.stage import Stage
from sppnet.cli.trained import load_network

if TYPE_CHECKING:  # import torch
    from sppnet.data.detection_images import DetectionImage
    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.windows.conv_maps import ConvMaps
    from sppnet.windows.source import WindowSource
    from sppnet.models.sppnet import SppNet
    from sppnet.tasks.mining import Norm

_NORM_SEED: Final = 3  # R-CNN, rcnn_feature_stats.m


def workers_of(stage: Stage) -> int:
    """How many images may be worked on at a time, each on one thread; sets torch to it.

    What is computed does not depend on the number: every image's work is done by one thread.
    """
    import torch

    torch.set_num_threads(1)
    return threads_of(stage)


def threads_of(stage: Stage) -> int:
    """The trainer's threads; where it has no number, all cores that this process may use."""
    return int(stage.settings["trainer"]["threads"] or usable_cores())


def device_of(settings: Any) -> str:
    """Where the trainer's accelerator is: the frozen network runs there, too."""
    import torch

    accelerator = settings["trainer"]["accelerator"]
    has_gpu = accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()
    return "cuda" if has_gpu else "cpu"


def frozen_network(stage: Stage) -> "tuple[SppNet, dict[str, float]]":
    """The network that the run looks at, on its device; and what its own run measured."""
    net, measured = load_network(stage.config, Path(stage.settings["cell"]["network"]), classes=None)
    return net.to(device_of(stage.settings)), measured


def annotated(stage: Stage, image_set: str) -> "AnnotatedImages":
    """Read one image set of the target."""
    found: tuple[AnnotatedImages, AnnotatedImages] = instantiate(stage.config.target).read_boxes()
    return found[image_set == "test"]


def proposed(stage: Stage, images: "AnnotatedImages", image_set: str) -> "list[DetectionImage]":
    """Add the proposals: computed by a run before this one, or read from files."""
    from sppnet.data.detection_images import DetectionImage
    from sppnet.data.proposals import proposals_of

    config = stage.config
    chosen = config.test_proposals if image_set == "test" and config.test_proposals else config.proposals
    proposals = proposals_of(
        images.images,
        instantiate(chosen),
        cache_dir=Path(config.paths.cache),
        jobs=threads_of(stage),
        max_pixels=config.data_loading.max_pixels,
    )
    return [DetectionImage(*one) for one in zip(images.images, proposals, strict=True)]


def maps_of(stage: Stage, net: "SppNet", paths: Sequence[Path], *, is_mirrored: bool = False) -> "ConvMaps":
    """The maps of some images, kept on disk or not as the configuration says."""
    from sppnet.features.cache import FeatureCache
    from sppnet.windows.conv_maps import ConvMaps

    keep = stage.settings["data_loading"]["keep_maps"]
    return ConvMaps(
        net,
        paths,
        is_mirrored=is_mirrored,
        cache=FeatureCache(Path(stage.settings["paths"]["cache"])) if keep else None,
        max_pixels=stage.settings["data_loading"]["max_pixels"],
    )


def windows_of(
    settings: "dict[str, Any] | Any",
    net: "SppNet",
    maps: "ConvMaps",
    layer: str,
    order: Literal["pyramid", "bins_first"] = "bins_first",
) -> "WindowSource":
    """The vectors of the windows of `maps`' images: pooled from the maps, or R-CNN's.

    Args:
        settings: The whole configuration.
        net: Whose vectors; its convolutions are those that made the maps.
        maps: Of the images.
        layer: pool, fc6 or fc7.
        order: Of the numbers of a pooled vector.
    """
    windows = settings["windows"]
    if windows["method"] == "rcnn":
        from sppnet.windows.warped import WarpedWindows

        return WarpedWindows(
            net=net,
            paths=maps.paths,
            layer=layer,
            size=windows["size"],
            context=windows["context"],
            batch_size=windows["batch_size"],
            max_pixels=maps.max_pixels,
            upright=maps.upright,
        )
    from sppnet.windows.spp import SppWindows

    return SppWindows(
        maps,
        net=net,
        layer=layer,  # type: ignore[arg-type]
        scales=windows["scales"],
        mapping=windows["mapping"],
        scale_target=windows["scale_target"],
        side=windows["side"],
        order=order,
    )


def norm_of(settings: "dict[str, Any] | Any", mean: float) -> "Norm":
    """How vectors are scaled to a mean norm: R-CNN measures it on random windows, always the same ones."""
    from sppnet.tasks.mining import Norm

    mining = settings["mining"]
    return Norm(mean, mining["norm_images"], mining["norm_windows"], seed=_NORM_SEED)
