"""What a detector is made of: proposals, maps, SVMs with hard negatives, box regressors (paper §4.1)."""

import functools
import itertools
import logging
import time
from typing import TYPE_CHECKING, Final

from sppnet.artifacts import write_json
from sppnet.experiment.detection_inputs import (
    annotated,
    frozen_network,
    maps_of,
    proposed,
    scale_of,
    windows_of,
)
from sppnet.experiment.making import make_from
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.window_labels import DetectionImage
    from sppnet.windows.source import WindowSource

MACHINES: Final = "svm.safetensors"
REGRESSORS: Final = "boxes.safetensors"
_MINING: Final = "checkpoint-mining.safetensors"
_MOST_ROWS: Final = 1_000_000  # of vectors so short that what is known of each weighs more
log = logging.getLogger(__name__)


def propose(take: Take) -> Outcome:
    """Compute the proposals of an image set, and say how many objects they cover."""
    from sppnet.metrics.proposal_recall import proposal_recall

    take.progress("computing proposals")
    began = time.perf_counter()
    images = [one for one in proposed(take, annotated(take, take.plan.image_set)) if one.image.is_complete]
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
    return Outcome(metrics)


def compute_maps(take: Take) -> Outcome:
    """Take every image of a set through the convolutions, at one scale."""
    net = frozen_network(take).net
    paths = [image.path for image in annotated(take, take.plan.image_set).images]
    maps = maps_of(take.conf, net, is_mirrored=take.plan.is_mirrored)
    report = functools.partial(take.progress, f"maps at {take.plan.scale} pixels", detail="images")
    began = time.perf_counter()
    maps.fill(paths, take.plan.scale, workers=take.workers, report=report)
    return Outcome({"maps/num_images": len(paths), "maps/seconds": round(time.perf_counter() - began, 3)})


def mine(take: Take) -> Outcome:
    """Train the SVMs, with hard negatives."""
    from sppnet.estimators.hard_negatives import HardNegativeSvm
    from sppnet.models.weights import read_part, save_part, save_tensors
    from sppnet.tasks.mining import Labelling, Miner

    mining, checkpoint = take.conf.mining, take.path / _MINING
    assert take.conf.detection is not None
    take.progress("scaling features")
    classes, images, source = _training_windows(take, take.conf.detection.layer)
    began = time.perf_counter()
    machine = make_from(
        HardNegativeSvm,
        mining,
        num_classes=len(classes),
        num_features=source.dim,
        max_rows=min(_MOST_ROWS, int(mining.max_gb * 1e9 / (4 * source.dim))),
        workers=take.workers,
    )
    miner = Miner(
        images,
        source,
        labelling=make_from(Labelling, mining),
        scale=scale_of(take.conf, images, source, mining.mean_norm),
        machine=machine,
        num_classes=len(classes),
        workers=take.workers,
    )
    if (state := read_part(checkpoint)) is not None:
        miner.restore(state)
        log.info("going on behind image %d of %d", miner.num_seen, len(images))
    saved = time.monotonic()

    def report(seen: int) -> None:
        nonlocal saved
        due = time.monotonic() - saved > 60 * take.conf.trainer.checkpoint_minutes
        if seen < len(images) and (due or take.interruption.requested):
            save_part(miner.state(), checkpoint)
            saved = time.monotonic()
        take.interruption.is_deferred = seen < len(images)  # until the next image: then the state is whole
        take.progress("looking for hard negatives", seen, len(images), "images")

    machines = miner.run(report)
    save_tensors(machines._asdict(), take.path / MACHINES)
    write_json(take.path / "classes.json", list(classes))
    metrics = {
        "svm/num_images": len(images),
        "svm/num_features": source.dim,
        "svm/num_dropped": machine.num_dropped,
        "svm/worst_gap": float(machine.gap.max()),
        "svm/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, (MACHINES, "classes.json"))


def regress(take: Take) -> Outcome:
    """Fit the box regressors, class by class; each is kept as it is found."""
    from sppnet.estimators.box_regressor import BoxRegressor, BoxRegressorState
    from sppnet.models.weights import read_part, save_part, save_tensors
    from sppnet.tasks.box_regression import Regression, fit_regressors
    from sppnet.tasks.detector import Regressors

    boxes = take.conf.boxes
    classes, images, source = _training_windows(take, "pool")
    began = time.perf_counter()
    scale = scale_of(take.conf, images, source, boxes.mean_norm)
    parts = [take.path / f"checkpoint-class{label}.safetensors" for label in range(len(classes))]
    states = itertools.takewhile(bool, map(read_part, parts))
    known = [BoxRegressor.from_state(BoxRegressorState(**(state or {}))) for state in states]
    fitting = fit_regressors(
        images,
        source,
        regression=make_from(Regression, boxes, seed=take.conf.seed),
        scale=scale,
        num_classes=len(classes),
        first=len(known),
        workers=take.workers,
    )
    for regressor in fitting:
        save_part(regressor.state()._asdict(), parts[len(known)])
        known.append(regressor)
        take.progress("fitting box regressors", len(known), len(parts), "classes")
    save_tensors(Regressors(tuple(known), scale).state(), take.path / REGRESSORS)
    num_windows = sum(int(regressor.state().num_windows) for regressor in known)
    metrics = {"boxes/num_windows": num_windows, "boxes/seconds": round(time.perf_counter() - began, 3)}
    return Outcome(metrics, (REGRESSORS,))


def _training_windows(take: Take, layer: str) -> "tuple[tuple[str, ...], list[DetectionImage], WindowSource]":
    """The classes, the training images, and where the vectors of their windows come from."""
    found = annotated(take, "trainval")
    images = proposed(take, found)
    return found.classes, images, windows_of(take.conf, frozen_network(take).net, layer)
