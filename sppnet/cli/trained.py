"""A network as a run's directory keeps it: built, saved, and found again by the runs that look at it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from sppnet.artifacts import read_json, write_json
from sppnet.errors import ArtifactError, ConfigError
from sppnet.run.directory import RunDirectory

if TYPE_CHECKING:  # import torch and Lightning
    from sppnet.data.datamodule import ImageDataModule
    from sppnet.models.sppnet import SppNet
    from sppnet.models.views import View

_NUM_TO_ADAPT = 128  # images that scale the first weights (init=data_dependent)


def build_network(
    config: DictConfig, settings: Mapping[str, Any], data: "ImageDataModule", *, is_new: bool
) -> "SppNet":
    """Build a network for a data set; a new one gets the data's mean image and first weights to fit it.

    Raises:
        ConfigError: The training regions are too small for it.
    """
    from sppnet.cli.parts import build_net
    from sppnet.models.initialise import DataDependentInit

    init = instantiate(config.init)
    net = build_net(config, init=init, num_classes=data.num_classes)
    _check_sizes(net, settings)
    if is_new:
        if net.input_norm.needs_mean_image:
            net.input_norm.set_mean_image(data.mean_image(settings["image"]["size"]))
        if isinstance(init, DataDependentInit):
            init.adapt(net, data.central_regions(_NUM_TO_ADAPT).float())
    return net


def save_network(net: "SppNet", classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Write a network's weights and classes to a run's directory; return the names of the files."""
    from sppnet.models.weights import save_weights

    save_weights(net, path / "model.safetensors")
    write_json(path / "classes.json", list(classes))
    return ("model.safetensors", "classes.json")


def load_network(
    config: DictConfig, path: Path, *, classes: Sequence[str] | None
) -> tuple["SppNet", dict[str, float]]:
    """Build the network that a run has trained, with its weights; and what that run measured.

    Args:
        config: Of the run that looks at it: backbone, pyramid and head are the same.
        path: The run's directory.
        classes: Those it must have been trained for; None where its classes do not matter.

    Raises:
        ArtifactError: The run is not complete, or it knows other classes.
    """
    from sppnet.cli.parts import build_net
    from sppnet.models.weights import load_weights

    if not RunDirectory(path).is_complete:
        raise ArtifactError(
            f"{path}: no trained network there (its run is not complete); run the same command again"
        )
    known = read_json(path / "classes.json")
    if classes is not None and known != list(classes):
        differing = sorted(set(known) ^ set(classes))
        raise ArtifactError(
            f"{path}: trained for {len(known)} classes that are not the {len(classes)} of the data "
            f"({', '.join(differing[:5]) or 'other order'}); remove it to train again"
        )
    net = build_net(config, init=instantiate(config.init), num_classes=len(known))
    load_weights(net, path / "model.safetensors")
    return net.eval(), read_json(path / "metrics.json")


def require_visible(net: "SppNet", view: "View") -> None:
    """Refuse a view whose images are smaller than the network accepts.

    Raises:
        ConfigError: Names the smallest side that would do.
    """
    import torch

    for short_side in view.short_sides:
        seen = min(view.cut(torch.zeros(3, short_side, short_side, dtype=torch.uint8)).shape[2:])
        if seen < net.min_short_side:
            raise ConfigError(
                f"images of {seen} pixels are too small: {net.backbone.name} with pyramid.levels="
                f"{list(net.levels)} needs >= {net.min_short_side}; raise view.short_side (view.test_sides, "
                f"image.size) or choose a coarser pyramid"
            )


def _check_sizes(net: "SppNet", settings: Mapping[str, Any]) -> None:
    """Refuse a pyramid that the map of a training region does not fill.

    Raises:
        ConfigError: Too few cells, or a number of cells for which sliding windows are not the bins.
    """
    import torch

    sizes = settings["train_sizes"]
    smallest = min(settings["image"]["size"], *sizes.get("sizes", [sizes.get("low")]))
    if smallest < net.min_short_side:
        raise ConfigError(
            f"regions of {smallest} pixels are too small: {net.backbone.name} with pyramid.levels="
            f"{list(net.levels)} needs >= {net.min_short_side}; raise image.size (and image.small_size) "
            f"or choose a coarser pyramid"
        )
    if net.pooling == "sliding":
        low, high = sizes.get("low"), sizes.get("high")
        for size in sizes.get("sizes") or range(low, high + 1):
            try:
                net.features(torch.zeros(1, 3, size, size), "pool")
            except ValueError as error:
                raise ConfigError(
                    f"pyramid.pooling=sliding with regions of {size} pixels: {error}"
                ) from error
