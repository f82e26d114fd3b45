"""The cells of a detection table: find the objects in the test images, combine, or measure seconds (§4)."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sppnet.artifacts import read_json
from sppnet.cli.detection_inputs import annotated, frozen_network, maps_of, proposed, windows_of, workers_of
from sppnet.cli.detection_picture import SHEET, draw_sheet
from sppnet.cli.detection_stages import DETECTIONS, MACHINES, REGRESSORS
from sppnet.cli.stage import Outcome, Stage
from sppnet.errors import DataError

if TYPE_CHECKING:  # import torch
    from sppnet.data.detection_images import DetectionImage
    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.metrics.detection_ap import Detections
    from sppnet.tasks.finding import DetectorParts

_PART: Final = 100  # images whose detections are kept together while the others are still looked at
RESULTS: Final = "results"


def find(stage: Stage) -> Outcome:
    """Detect objects in the test images, and judge what was found."""
    from sppnet.models.weights import read_tensors, save_tensors
    from sppnet.run.progress import Step
    from sppnet.tasks.finding import detect, pack, unpack

    settings, path = stage.settings, stage.directory.path
    stage.report(Step("reading images", 0, 1, ""))
    workers = workers_of(stage)
    found_images = annotated(stage, "test")
    images = proposed(stage, found_images, "test")
    net, trained = frozen_network(stage)
    maps = maps_of(stage, net, [image.image.path for image in images])
    source = windows_of(settings, net, maps, settings["detection"]["layer"])
    pooled = windows_of(settings, net, maps, "pool")
    parts = read_parts(settings)
    shown = [(image.proposals, (image.image.height, image.image.width)) for image in images]
    began = time.perf_counter()
    found: list[Detections] = []
    for start in range(0, len(images), _PART):
        file = path / f"checkpoint-{start}.safetensors"
        numbers = range(start, min(start + _PART, len(images)))
        if file.is_file():
            found += unpack(read_tensors(file))
            continue
        some = []
        for number, detections in detect(parts, source, pooled, shown, numbers=numbers, workers=workers):
            some.append(detections)
            stage.report(Step("detecting", number + 1, len(images), "images"))
            stage.interruption.raise_if_requested()
        save_tensors(pack(some), file)
        found += some
    metrics = {
        **_without(trained, "train/seconds"),
        **_judged(stage, found_images, images, found),
        "detect/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, (DETECTIONS,))


def combine(stage: Stage) -> Outcome:
    """Suppress the union of what several detectors have found (§4.4)."""
    from sppnet.models.weights import read_tensors
    from sppnet.tasks import detector
    from sppnet.tasks.finding import unpack

    found_images = annotated(stage, "test")
    images = proposed(stage, found_images, "test")
    members = [
        unpack(read_tensors(Path(member) / DETECTIONS)) for member in stage.settings["cell"]["members"]
    ]
    suppression = detector.Suppression(**stage.settings["suppression"])
    num_classes = len(found_images.classes)
    found = [detector.combine(one, num_classes, suppression) for one in zip(*members, strict=True)]
    metrics = {**_judged(stage, found_images, images, found), "ensemble/num_members": len(members)}
    return Outcome(metrics, (DETECTIONS,))


def measure_seconds(stage: Stage) -> Outcome:
    """Measure what the network costs per image: convolutions and fc layers apart (§4.3)."""
    from sppnet.cli.timing_stage import measure

    images = annotated(stage, "test")
    return Outcome(measure(stage, proposed(stage, images, "test")), ())


def read_parts(settings: Any) -> "DetectorParts":
    """Read what a detector has learned from the runs it points to."""
    from sppnet.models.weights import read_tensors
    from sppnet.tasks.finding import DetectorParts
    from sppnet.tasks.detector import Machines, Regressors, Suppression

    cell = settings["cell"]
    machines = Machines(**read_tensors(Path(cell["machines"]) / MACHINES))
    regressors = None
    if cell["regressors"]:
        state = read_tensors(Path(cell["regressors"]) / REGRESSORS)
        regressors = Regressors.from_state(state, ridge=settings["boxes"]["ridge"])
    return DetectorParts(machines, regressors, Suppression(**settings["suppression"]))


def _judged(
    stage: Stage,
    annotated_images: "AnnotatedImages",
    images: "Sequence[DetectionImage]",
    found: "Sequence[Detections]",
) -> dict[str, float]:
    """Write what was found, here and as the devkit's files; return its average precision."""
    from sppnet.metrics.average_precision import mean_ap
    from sppnet.metrics.voc_results import write_results
    from sppnet.models.weights import save_tensors
    from sppnet.tasks.finding import average_precision, pack

    path = stage.directory.path
    classes = annotated_images.classes
    save_tensors(pack(found), path / DETECTIONS)
    write_results(
        path / RESULTS,
        image_set="test",
        image_ids=[image.image.image_id for image in images],
        classes=classes,
        detections=found,
    )
    draw_sheet(
        path / SHEET,
        images,
        found,
        classes=classes,
        max_pixels=stage.settings["data_loading"]["max_pixels"],
    )
    of_class = average_precision(images, found, num_classes=len(classes))
    mean = mean_ap(of_class)
    if not mean.num_counted:
        raise DataError(f"{stage.settings['target']['name']}: no object in the test images that counts")
    known = {name: float(value) for name, value in zip(classes, of_class, strict=True)}
    return {
        "test/map": mean.value,
        **{f"test/ap/{name}": value for name, value in known.items() if not math.isnan(value)},
        "test/num_images": len(images),
        "test/num_detections": sum(len(one.scores) for one in found),
        "test/num_classes": mean.num_counted,
        "test/all_classes": mean.num_classes,
    }


def _without(metrics: dict[str, float], *names: str) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in names}


def classes_of(settings: Any) -> list[str]:
    """The classes that a detector's machines know."""
    names: list[str] = read_json(Path(settings["cell"]["machines"]) / "classes.json")
    return names
