"""What the runs of a detection table do, one behind the other (paper §4.1)."""

import itertools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sppnet.artifacts import write_json
from sppnet.cli.detection_inputs import (
    annotated,
    frozen_network,
    maps_of,
    norm_of,
    proposed,
    windows_of,
    workers_of,
)
from sppnet.cli.stage import Outcome, Stage
from sppnet.cli.trained import save_network

if TYPE_CHECKING:  # import torch
    from sppnet.data.detection_images import DetectionImage
    from sppnet.windows.source import WindowSource

MACHINES: Final = "svm.safetensors"
REGRESSORS: Final = "boxes.safetensors"
DETECTIONS: Final = "detections.safetensors"
_MINING: Final = "checkpoint-mining.safetensors"
_MOST_ROWS: Final = 1_000_000  # of vectors so short that what is known of each weighs more
_BACKGROUND: Final = "background"
log = logging.getLogger(__name__)


def propose(stage: Stage) -> Outcome:
    """Compute the proposals of an image set, and say how many objects they cover."""
    from sppnet.metrics.proposal_recall import proposal_recall
    from sppnet.run.progress import Step

    stage.report(Step("computing proposals", 0, 1, ""))
    image_set = stage.settings["cell"]["image_set"]
    began = time.perf_counter()
    images = proposed(stage, annotated(stage, image_set), image_set)
    seconds = time.perf_counter() - began
    recalled = proposal_recall(
        [image.proposals for image in images],
        [image.image.boxes_xyxy for image in images],
        [image.image.is_difficult for image in images],
        min_overlap=0.5,
    )
    metrics = {
        "proposals/num_images": len(images),
        "proposals/per_image": sum(len(image.proposals) for image in images) / len(images),
        "proposals/recall": float(recalled.recall),
        "proposals/seconds": round(seconds, 3),
    }
    return Outcome(metrics, ())


def compute_maps(stage: Stage) -> Outcome:
    """Take every image of a set through the convolutions, at one scale."""
    from sppnet.run.allocator import keep_freed_memory
    from sppnet.run.progress import Step

    cell = stage.settings["cell"]
    workers = workers_of(stage)
    if stage.settings["trainer"]["keep_memory"]:
        keep_freed_memory()
    net, _ = frozen_network(stage)
    paths = [image.path for image in annotated(stage, cell["image_set"]).images]
    maps = maps_of(stage, net, paths, is_mirrored=cell["is_mirrored"])

    def report(done: int, total: int) -> None:
        stage.interruption.raise_if_requested()
        stage.report(Step(f"maps at {cell['scale']} pixels", done, total, "images"))

    began = time.perf_counter()
    maps.fill(cell["scale"], workers=workers, report=report)
    return Outcome({"maps/num_images": len(paths), "maps/seconds": round(time.perf_counter() - began, 3)}, ())


def finetune(stage: Stage) -> Outcome:
    """Train the fc layers on the windows of the training images (all layers, for R-CNN)."""
    from sppnet.cli.finetuning_stage import train_on_windows

    images = annotated(stage, "trainval")
    net, metrics = train_on_windows(stage, proposed(stage, images, "trainval"), classes=images.classes)
    return Outcome(metrics, save_network(net, [_BACKGROUND, *images.classes], stage.directory.path))


def mine(stage: Stage) -> Outcome:
    """Train the SVMs, with hard negatives."""
    from sppnet.estimators.hard_negatives import HardNegativeSvm
    from sppnet.models.weights import read_tensors, save_tensors
    from sppnet.run.progress import Step
    from sppnet.tasks.mining import Labelling, Miner, feature_scale

    settings, path = stage.settings, stage.directory.path
    mining = settings["mining"]
    stage.report(Step("scaling features", 0, 1, ""))
    workers = workers_of(stage)
    classes, images, source = _training_windows(stage, settings["detection"]["layer"])
    began = time.perf_counter()
    names = ("svm_c", "loss", "bias_multiplier", "positive_weight", "tolerance")
    rules = ("hard_above", "evict_below", "retrain_after")
    miner = Miner(
        images,
        source,
        labelling=Labelling(**{name: mining[name] for name in Labelling._fields}),
        scale=feature_scale(images, source, norm_of(settings, mining["mean_norm"])),
        machine=HardNegativeSvm(
            num_classes=len(classes),
            num_features=source.dim,
            workers=workers,
            max_rows=min(_MOST_ROWS, int(mining["max_gb"] * 1e9 / (4 * source.dim))),
            **{name: mining[name] for name in (*names, *rules)},
        ),
        num_classes=len(classes),
        workers=workers,
    )
    if (path / _MINING).is_file():
        miner.restore(read_tensors(path / _MINING))
        log.info("going on behind image %d of %d", miner.num_seen, len(images))
    saved = time.monotonic()

    def report(seen: int) -> None:
        nonlocal saved
        stage.report(Step("looking for hard negatives", seen, len(images), "images"))
        due = time.monotonic() - saved > 60 * settings["trainer"]["checkpoint_minutes"]
        if seen < len(images) and (due or stage.interruption.signal_number is not None):
            save_tensors(miner.state(), path / _MINING)
            saved = time.monotonic()
        stage.interruption.raise_if_requested()

    machines = miner.run(report)
    save_tensors(machines._asdict(), path / MACHINES)
    write_json(path / "classes.json", list(classes))
    metrics = {
        "svm/num_images": len(images),
        "svm/num_features": source.dim,
        "svm/num_dropped": miner.machine.num_dropped,
        "svm/worst_gap": float(miner.machine.gap.max()),
        "svm/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, (MACHINES, "classes.json"))


def regress(stage: Stage) -> Outcome:
    """Fit the box regressors, class by class; each is kept as it is found."""
    from sppnet.estimators.box_regressor import BoxRegressor, BoxRegressorState
    from sppnet.models.weights import read_tensors, save_tensors
    from sppnet.run.progress import Step
    from sppnet.tasks.box_regression import Regression, fit_regressors
    from sppnet.tasks.detector import Regressors
    from sppnet.tasks.mining import feature_scale

    settings, path = stage.settings, stage.directory.path
    boxes = settings["boxes"]
    workers = workers_of(stage)
    classes, images, source = _training_windows(stage, "pool")
    began = time.perf_counter()
    scale = feature_scale(images, source, norm_of(settings, boxes["mean_norm"]))
    parts = [path / f"checkpoint-class{label}.safetensors" for label in range(len(classes))]
    known = [
        BoxRegressor.from_state(BoxRegressorState(**read_tensors(part)), ridge=boxes["ridge"])
        for part in itertools.takewhile(Path.is_file, parts)
    ]
    fitting = fit_regressors(
        images,
        source,
        regression=Regression(
            boxes["min_overlap"], boxes["max_windows"], boxes["ridge"], seed=settings["seed"]
        ),
        scale=scale,
        num_classes=len(classes),
        first=len(known),
        workers=workers,
    )
    for regressor in fitting:
        save_tensors(regressor.state()._asdict(), parts[len(known)])
        known.append(regressor)
        stage.report(Step("fitting box regressors", len(known), len(parts), "classes"))
        stage.interruption.raise_if_requested()
    save_tensors(Regressors(tuple(known), scale).state(), path / REGRESSORS)
    num_windows = sum(int(regressor.state().num_windows) for regressor in known)
    metrics = {"boxes/num_windows": num_windows, "boxes/seconds": round(time.perf_counter() - began, 3)}
    return Outcome(metrics, (REGRESSORS,))


def _training_windows(
    stage: Stage, layer: str
) -> "tuple[tuple[str, ...], list[DetectionImage], WindowSource]":
    """The classes, the training images, and where the vectors of their windows come from."""
    found = annotated(stage, "trainval")
    images = proposed(stage, found, "trainval")
    net, _ = frozen_network(stage)
    maps = maps_of(stage, net, [image.image.path for image in images])
    return found.classes, images, windows_of(stage.settings, net, maps, layer)
