"""A network as a run's directory keeps it: built, saved, and found again by the runs that look at it."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sppnet.artifacts import read_json, reading, write_json
from sppnet.errors import ArtifactError, ConfigError
from sppnet.experiment.making import make, require_allowed
from sppnet.experiment.reading import read_conf
from sppnet.experiment.schema import Conf
from sppnet.run.directory import RunDirectory

if TYPE_CHECKING:  # import torch and Lightning
    from torch import Tensor

    from sppnet.data.datamodule import ImageDataModule
    from sppnet.models.initialise import Init
    from sppnet.models.sppnet import SppNet
    from sppnet.models.views import View

_NUM_TO_ADAPT = 128  # images that scale the first weights (init=data_dependent)


class TrainedNetwork(NamedTuple):
    """A network, and what the run that made it left."""

    net: "SppNet"  # in evaluation mode
    classes: list[str]
    metrics: dict[str, float]
    trains: str  # "head" of one whose trunk was left as it was


def build_net(conf: Conf, *, num_classes: int, init: "Init | None" = None) -> "SppNet":
    """Put backbone, pyramid and head together: YAML picks and sizes them, Python wires.

    Args:
        conf: backbone, pyramid, head, input_norm and init.
        num_classes: Of the last layer.
        init: The one that is to be asked again, once the net is there; None makes the configuration's.
    """
    from sppnet.models.sppnet import SppNet

    backbone = make(conf.backbone)
    input_norm = make(conf.input_norm)
    if isinstance(input_norm, functools.partial):
        input_norm = input_norm(backbone)
    return SppNet(
        backbone=backbone,
        input_norm=input_norm,
        levels=conf.pyramid.levels,
        pooling=conf.pyramid.pooling,
        head_width=conf.head.width,
        dropout=conf.head.dropout,
        num_classes=num_classes,
        init=init or make(conf.init),
    )


def begin_network(conf: Conf, data: "ImageDataModule", *, is_new: bool) -> "SppNet":
    """Build a network for a data set; a new one gets the data's mean image and first weights to fit it.

    Raises:
        ConfigError: The training regions are too small for it.
    """
    from sppnet.models.initialise import DataDependentInit

    init = make(conf.init)
    net = build_net(conf, num_classes=len(data.classes), init=init)
    _check_sizes(net, conf)
    # Maps of a trunk that stays as it is are looked for before a checkpoint fills the network.
    if net.input_norm.needs_mean_image and (is_new or conf.training.trains == "head"):
        mean = _mean_of_trunk(conf)
        net.input_norm.set_mean_image(data.mean_image(conf.image.size) if mean is None else mean)
    if is_new and isinstance(init, DataDependentInit):
        init.adapt(net, data.central_regions(_NUM_TO_ADAPT).float())
    return net


def _mean_of_trunk(conf: Conf) -> "Tensor | None":
    """The mean image that goes with the trunk of a network of ours, in the size of the regions."""
    from torch.nn import functional

    from sppnet.models.weights import read_tensors

    weights = conf.backbone.get("weights")
    mean = read_tensors(Path(weights)).get("input_norm.mean") if weights is not None else None
    if mean is None:
        return None
    size = (conf.image.size, conf.image.size)
    return functional.interpolate(mean[None], size, mode="bilinear", antialias=True)[0]


def save_network(net: "SppNet", classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Write a network's weights and classes to a run's directory; return the names of the files."""
    from sppnet.models.weights import save_tensors

    save_tensors(net.state_dict(), path / "model.safetensors")
    write_json(path / "classes.json", list(classes))
    return ("model.safetensors", "classes.json")


def load_network(path: Path, *, constant_mean: float | None = None) -> TrainedNetwork:
    """Build the network of a run's directory, with its weights: all that is needed is there.

    Args:
        path: The run's directory.
        constant_mean: Subtracted from images of a target, on 0..255; None: what the network was trained with.

    Raises:
        ArtifactError: The run is not complete.
    """
    from sppnet.models.weights import load_weights

    with reading(path):
        conf = architecture(path)
        classes: list[str] = read_json(path / "classes.json")
        net = build_net(conf, num_classes=len(classes))
        load_weights(net, path / "model.safetensors")
        net.input_norm.constant_mean = constant_mean
        trains = RunDirectory(path).read_config().get("training", {}).get("trains", "all")
        return TrainedNetwork(net.eval(), classes, read_json(path / "metrics.json"), trains)


def how_members_learned(runs: Sequence[Path]) -> dict[str, float]:
    """Of the networks behind several runs, how the one that learned least stood at its end.

    What one does not say is said of none.
    """
    metrics = [read_json(run / "metrics.json") for run in runs]
    worst: dict[str, float] = {}
    for stage in ("train", "finetuning"):
        trained = [one for one in metrics if f"{stage}/steps" in one]
        for name in ("steps", "error", "final_loss", "late_fall"):
            key = f"{stage}/{name}"
            if trained and all(key in one for one in trained):
                worst[key] = max(one[key] for one in trained)
    return worst


def architecture(path: Path) -> Conf:
    """What the network of a run's directory is built of: a fine-tuned one is built as the one before it.

    Raises:
        ArtifactError: The run is not complete, or damaged.
    """
    RunDirectory(path).require_complete(
        f"{path}: no trained network there (its run is not complete); run the same command again"
    )
    config = RunDirectory(path).read_config()
    require_allowed(config, f"{path}/config.yaml", ArtifactError)
    if "backbone" not in config:
        (below,) = config["run"]["below"]["network"]
        return architecture(path.parent.parent / below)
    # The weights it came with are in the run's own file, and go where it goes.
    backbone = {key: None if key == "weights" else value for key, value in config["backbone"].items()}
    parts = {name: config[name] for name in ("pyramid", "head", "input_norm", "init")}
    return read_conf({**parts, "backbone": backbone})


def check_geometry(conf: Conf) -> None:
    """Refuse sizes of images that a network cannot take, before it is there: tensors without values know.

    Raises:
        ConfigError: Names the smallest side that would do.
    """
    import torch

    parts = {name: getattr(conf, name) for name in ("backbone", "input_norm", "init")}
    parts["backbone"] = {**parts["backbone"], **dict.fromkeys({"weights"} & parts["backbone"].keys())}
    sized = {"pyramid": vars(conf.pyramid), "head": vars(conf.head)}
    with torch.device("meta"):
        try:
            net = _without_values(json.dumps({**parts, **sized}, sort_keys=True))
        except (NotImplementedError, RuntimeError):
            return  # a backbone of the user's that looks at its values: its run will say
        if conf.trained:
            _check_sizes(net, conf)
    if conf.detection is not None:
        seen = conf.windows.size if conf.windows.method == "rcnn" else min(conf.windows.scales)
        _require_side(net, "windows", seen, "windows.scales or windows.size")
    elif conf.transfer is not None:
        views = conf.features
        side = views.short_side if views.view == "full" else views.crop
        _require_side(net, "images", side, "features.short_side (features.crop)")
    else:
        require_visible(net, make(conf.view))


@functools.cache
def _without_values(parts: str) -> "SppNet":
    return build_net(read_conf(json.loads(parts)), num_classes=1)


def require_classes(trained: TrainedNetwork, classes: Sequence[str], path: Path) -> None:
    """Refuse a network that was trained for other classes than it is to be tested on.

    Raises:
        ArtifactError: It was.
    """
    if trained.classes != list(classes):
        differing = sorted(set(trained.classes) ^ set(classes))
        raise ArtifactError(
            f"{path}: trained for {len(trained.classes)} classes that are not the {len(classes)} of the data "
            f"({', '.join(differing[:5]) or 'other order'}); remove it to train again"
        )


def require_visible(net: "SppNet", view: "View") -> None:
    """Refuse a view whose images are smaller than the network accepts.

    Raises:
        ConfigError: Names the smallest side that would do.
    """
    import torch

    for short_side in view.short_sides:
        seen = min(view.cut(torch.zeros(3, short_side, short_side, dtype=torch.uint8)).shape[2:])
        _require_side(net, "images", seen, "view.short_side (view.test_sides, image.size)")


def _check_sizes(net: "SppNet", conf: Conf) -> None:
    """Refuse a pyramid that the map of a training region does not fill, or where sliding makes other bins."""
    import torch

    sizes = conf.train_sizes
    smallest = min(conf.image.size, *sizes.get("sizes", [sizes.get("low")]))
    _require_side(net, "regions", smallest, "image.size (and image.small_size)")
    if net.pooling == "sliding":
        low, high = sizes.get("low", 0), sizes.get("high", 0)
        for size in sizes.get("sizes") or range(low, high + 1):
            try:
                net.features(torch.zeros(1, 3, size, size), "pool")
            except ValueError as error:
                raise ConfigError(
                    f"pyramid.pooling=sliding with regions of {size} pixels: {error}"
                ) from error


def _require_side(net: "SppNet", what: str, side: int, keys: str) -> None:
    if side < net.min_short_side:
        raise ConfigError(
            f"{what} of {side} pixels are too small: {net.backbone.name} with pyramid.levels="
            f"{list(net.levels)} needs >= {net.min_short_side}; raise {keys} or choose a coarser pyramid"
        )
