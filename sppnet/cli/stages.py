"""What a run does: train a network, evaluate one, or average what several said.

Stages are runs of their own, each in its directory: whatever looks at a network points to the one run that
trained it, and nothing is computed twice.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.utils import instantiate
from omegaconf import DictConfig

from sppnet.artifacts import read_json, write_json
from sppnet.errors import ArtifactError, ConfigError
from sppnet.run.directory import RunDirectory, identity_key
from sppnet.run.interrupts import Interruption

if TYPE_CHECKING:  # import torch and Lightning
    from sppnet.data.datamodule import ImageDataModule
    from sppnet.models.sppnet import SppNet
    from sppnet.run.progress import Report

_NUM_TO_ADAPT = 128  # images that scale the first weights (init=data_dependent)
log = logging.getLogger(__name__)


class Stage(NamedTuple):
    """A run under way."""

    config: DictConfig
    settings: Mapping[str, Any]  # the same, resolved and plain
    directory: RunDirectory
    interruption: Interruption
    report: "Report"


class Outcome(NamedTuple):
    """What a stage leaves."""

    metrics: dict[str, float]  # fractions and counts
    files: tuple[str, ...]  # written to its directory


def train(stage: Stage) -> Outcome:
    """Train a network from the newest checkpoint, if there is one."""
    from sppnet.cli.parts import build_net, build_trainer, loggers
    from sppnet.models.initialise import DataDependentInit
    from sppnet.models.weights import save_weights
    from sppnet.run.checkpoints import newest_checkpoint

    config, settings, path = stage.config, stage.settings, stage.directory.path
    checkpoint = newest_checkpoint(path)
    data = _data(stage)
    init = instantiate(config.init)
    net = build_net(config, init=init, num_classes=data.num_classes)
    _check_sizes(net, settings)
    if checkpoint is None:
        if net.input_norm.needs_mean_image:
            net.input_norm.set_mean_image(data.mean_image(settings["image"]["size"]))
        if isinstance(init, DataDependentInit):
            init.adapt(net, data.central_regions(_NUM_TO_ADAPT).float())
    task = instantiate(config.task, net=net)
    with loggers(config, path, run_id=identity_key(settings)) as active:
        trainer = build_trainer(settings, path, stage.interruption, active, stage.report)
        if checkpoint is not None:
            log.info("going on from %s", checkpoint.name)
        began = time.perf_counter()
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        seconds = time.perf_counter() - began
    save_weights(net, path / "model.safetensors")
    write_json(path / "classes.json", list(data.classes))
    metrics = {
        "train/num_images": len(data.train_set.paths),
        "train/steps": trainer.global_step,
        "train/seconds": round(seconds, 3),
        "num_parameters": sum(parameter.numel() for parameter in net.parameters()),
    }
    return Outcome(metrics, ("model.safetensors", "classes.json"))


def evaluate(stage: Stage) -> Outcome:
    """Test a trained network in the configuration's view."""
    from sppnet.cli.parts import build_trainer, loggers
    from sppnet.tasks.evaluation import EvaluationTask

    data = _data(stage)
    net, trained = load_network(stage.config, Path(stage.settings["cell"]["network"]), data)
    task = EvaluationTask(net=net, view=instantiate(stage.config.view))
    path = stage.directory.path
    with loggers(stage.config, path, run_id=identity_key(stage.settings)) as active:
        trainer = build_trainer(stage.settings, path, stage.interruption, active, stage.report)
        began = time.perf_counter()
        tested = trainer.test(task, dataloaders=data.view_loader(task.view), verbose=False)[0]
        seconds = time.perf_counter() - began
    _write_scores(path, *task.scores())
    metrics = {
        **trained,
        **{key: float(value) for key, value in tested.items()},
        "test/num_images": len(data.test_set.paths),
        "test/num_views": task.view.num_views,
        "test/seconds": round(seconds, 3),
    }
    return Outcome(metrics, ("scores.safetensors",))


def average(stage: Stage) -> Outcome:
    """Average the scores of an ensemble's members, which are runs before this one (§3.1.6)."""
    from sppnet.tasks.ensemble import average_scores, error_rates, read_scores

    members = [read_scores(Path(member)) for member in stage.settings["cell"]["members"]]
    averaged = average_scores(members)
    _write_scores(stage.directory.path, *averaged)
    metrics = {
        **{f"test/{key}": value for key, value in error_rates(averaged).items()},
        "test/num_images": len(averaged.labels),
        "ensemble/num_members": len(members),
    }
    return Outcome(metrics, ("scores.safetensors",))


STAGES: Mapping[str, Callable[[Stage], Outcome]] = {
    "network": train,
    "evaluation": evaluate,
    "ensemble": average,
}


def load_network(
    config: DictConfig, path: Path, data: "ImageDataModule"
) -> tuple["SppNet", dict[str, float]]:
    """Build the network that a run has trained, with its weights; and what that run measured.

    Raises:
        ArtifactError: The run is not complete, or it knows other classes than the data.
    """
    from sppnet.cli.parts import build_net
    from sppnet.models.weights import load_weights

    if not RunDirectory(path).is_complete:
        raise ArtifactError(
            f"{path}: no trained network there (its run is not complete); run the same command again"
        )
    if (known := read_json(path / "classes.json")) != list(data.classes):
        differing = sorted(set(known) ^ set(data.classes))
        raise ArtifactError(
            f"{path}: trained for {len(known)} classes that are not the {len(data.classes)} of the data "
            f"({', '.join(differing[:5]) or 'other order'}); remove it to train again"
        )
    net = build_net(config, init=instantiate(config.init), num_classes=data.num_classes)
    load_weights(net, path / "model.safetensors")
    return net.eval(), read_json(path / "metrics.json")


def _data(stage: Stage) -> "ImageDataModule":
    from pytorch_lightning import seed_everything

    from sppnet.run.progress import Step

    stage.report(Step("reading images", 0, 1, ""))
    seed_everything(stage.settings["seed"], verbose=False)
    data: ImageDataModule = instantiate(stage.config.data)
    data.prepare_data()
    data.setup("fit")
    return data


def _write_scores(path: Path, scores: Any, labels: Any) -> None:
    from sppnet.models.weights import save_tensors

    save_tensors({"scores": scores, "labels": labels}, path / "scores.safetensors")


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
