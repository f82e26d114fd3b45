"""Find the objects in the test images, or combine what several found (paper §4)."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sppnet.artifacts import read_json, reading, write_atomic
from sppnet.errors import ArtifactError, DataError
from sppnet.experiment.detection_inputs import annotated, frozen_network, proposed, windows_of
from sppnet.experiment.detector_training import MACHINES, REGRESSORS
from sppnet.experiment.making import require_allowed
from sppnet.experiment.reading import read_conf
from sppnet.experiment.take import Outcome, RunPlan, Take
from sppnet.run.directory import RunDirectory

if TYPE_CHECKING:  # import torch
    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.data.window_labels import DetectionImage
    from sppnet.experiment.schema import Conf
    from sppnet.metrics.detection_ap import Detections
    from sppnet.models.sppnet import SppNet
    from sppnet.tasks.detector import Detector

_DETECTIONS: Final = "detections.safetensors"
_PART: Final = 100  # images whose detections are kept together while the others are still looked at
_RESULTS: Final = "results"
SHEET: Final = "detections.jpg"
_SHEET_IMAGES, _SHEET_COLUMNS, _SHEET_SIDE = 20, 4, 400  # as many as Fig. 6 has in a column or two; pixels
_SHOW_ABOVE: Final = -0.5  # as `sppnet detect` does


def find(take: Take) -> Outcome:
    """Detect objects in the test images, and judge what was found."""
    take.progress("reading images")
    found_images = annotated(take, "test")
    trained = frozen_network(take)
    machines, regressors = take.one_below("machines"), take.below("regressors")
    detector = read_detector(take.conf, trained.net, machines, regressors)
    began = time.perf_counter()
    judged, files = _found_by(take, found_images, [detector], [proposed(take, found_images)])
    metrics = {
        **{name: value for name, value in trained.metrics.items() if name != "train/seconds"},
        **judged,
        "detect/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, files)


def combine(take: Take) -> Outcome:
    """Detect with several detectors together: suppress the union of all windows that they score (§4.4).

    The members' runs keep what survived their own suppression, which is not enough: a window that one of them
    suppressed may be among the best once its better neighbour is suppressed by another's. All scored windows
    of a member would take up to k numbers a window; they are scored again instead.
    """
    take.progress("reading images")
    found_images = annotated(take, "test")
    from sppnet.experiment.network import how_members_learned

    members = [_member(take, path, found_images) for path in take.below("members")]
    detectors, images_of = zip(*members, strict=True)
    began = time.perf_counter()
    judged, files = _found_by(take, found_images, detectors, images_of)
    seconds = round(time.perf_counter() - began, 3)
    metrics = {
        **how_members_learned(take.below("members")),
        **judged,
        "ensemble/num_members": len(members),
        "detect/seconds": seconds,
    }
    return Outcome(metrics, files)


def _member(
    take: Take, path: Path, found_images: "AnnotatedImages"
) -> "tuple[Detector, list[DetectionImage]]":
    """A detector of a combination, from the directory of the run that tested it; images as it sees them."""
    directory = RunDirectory(path)
    with reading(path / "config.yaml"):
        config = directory.read_config()
        require_allowed(config, f"{path}/config.yaml", ArtifactError)
        conf = read_conf({key: value for key, value in config.items() if key not in ("run", "identity")})
        plan = RunPlan(**config["run"])
    # Where things are kept, on which device and how many at a time is for the combination to say.
    conf.paths, conf.data_loading, conf.trainer = take.conf.paths, take.conf.data_loading, take.conf.trainer
    its = dataclasses.replace(take, plan=plan, conf=conf, directory=directory)
    net, machines = frozen_network(its).net, its.one_below("machines")
    return read_detector(conf, net, machines, its.below("regressors")), proposed(its, found_images)


def read_detector(
    conf: "Conf", net: "SppNet", machines: Path, regressors: Sequence[Path], *, upright: bool = False
) -> "Detector":
    """Read what a detector has learned from the runs it stands on.

    Args:
        conf: `detection` and `windows`.
        net: The frozen network, on its device.
        machines: The run of its SVMs.
        regressors: Of its box regressors, if it has any.
        upright: As for `windows_of`.

    Raises:
        ArtifactError: They are not of these classes and lengths of vectors.
    """
    import torch

    from sppnet.models.weights import read_tensors_like
    from sppnet.tasks.detector import Detector, Machines, Regressors

    assert conf.detection is not None
    source = windows_of(conf, net, conf.detection.layer, upright=upright)
    pooled = windows_of(conf, net, "pool", upright=upright, beside=source)
    k = len(read_json(machines / "classes.json"))
    svms = {
        "coef": torch.empty(k, source.dim), "intercept": torch.empty(k), "feature_scale": torch.empty(())
    }  # fmt: skip
    boxes = {
        "weights": torch.empty(k, pooled.dim, 4, dtype=torch.float64),
        "bias": torch.empty(k, 4, dtype=torch.float64),
        "num_windows": torch.empty(k, dtype=torch.int64),
        "feature_scale": torch.empty(()),
    }
    return Detector(
        Machines(**read_tensors_like(machines / MACHINES, svms)),
        Regressors.from_state(read_tensors_like(regressors[0] / REGRESSORS, boxes)) if regressors else None,
        source,
        pooled,
    )


def _found_by(
    take: Take,
    found_images: "AnnotatedImages",
    detectors: "Sequence[Detector]",
    images_of: "Sequence[Sequence[DetectionImage]]",
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Find and judge the objects in images, which each detector sees with its own proposals."""
    from sppnet.models.weights import read_part, save_part
    from sppnet.tasks.detector import Picture, Suppression, detect, pack, unpack

    pictures = [
        [Picture(one.image.path, one.proposals, (one.image.height, one.image.width)) for one in images]
        for images in images_of
    ]
    num_images = len(found_images.images)
    suppression = Suppression(**vars(take.conf.suppression))
    found: list[Detections] = []
    for start in range(0, num_images, _PART):
        file = take.path / f"checkpoint-{start}.safetensors"
        if (part := read_part(file)) is not None:
            found += unpack(part)
            continue
        some: list[Detections] = []
        given = [one[start : start + _PART] for one in pictures]
        for one in detect(detectors, given, suppression, workers=take.workers):
            some.append(one)
            take.progress("detecting", start + len(some), num_images, "images")
        save_part(pack(some), file)
        found += some
    return _judged(take, found_images, images_of[0], found)


def _judged(
    take: Take,
    annotated_images: "AnnotatedImages",
    images: "Sequence[DetectionImage]",
    found: "Sequence[Detections]",
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Write what was found, here and as the devkit's files; return its average precision, and the files."""
    from sppnet.metrics.average_precision import mean_ap
    from sppnet.metrics.replicates import image_names, image_weights, write_images
    from sppnet.metrics.voc_results import write_results
    from sppnet.models.weights import save_tensors
    from sppnet.tasks.detector import judged, pack

    classes = annotated_images.classes
    save_tensors(pack(found), take.path / _DETECTIONS)
    results = write_results(
        take.path / _RESULTS,
        image_set="test",
        image_ids=[image.image.image_id for image in images],
        classes=classes,
        detections=found,
    )
    _draw_sheet(take, images, found, classes)
    metric = judged(images, found, num_classes=len(classes))
    of_class = metric.compute()
    mean = mean_ap(of_class)
    if not mean.num_counted:
        name = (take.conf.target or {})["name"]
        raise DataError(f"{name}: no object in the test images that counts")
    names = image_names(image.image.path for image in images)
    drawn = write_images(take.path, names, {"test/map": metric.replicates(image_weights(names))})
    known = {name: float(value) for name, value in zip(classes, of_class, strict=True)}
    files = (_DETECTIONS, drawn, SHEET, *(f"{_RESULTS}/{file.name}" for file in results))
    metrics = {
        "test/map": mean.value,
        **{f"test/ap/{name}": value for name, value in known.items() if not math.isnan(value)},
        "test/num_images": len(images),
        "test/num_detections": sum(len(one.scores) for one in found),
        "test/num_classes": mean.num_counted,
        "test/all_classes": mean.num_classes,
    }
    return metrics, files


def _draw_sheet(
    take: Take, images: "Sequence[DetectionImage]", found: "Sequence[Detections]", classes: Sequence[str]
) -> None:
    """Draw what was found in the first images and, in dashed lines, the objects that are there (Fig. 6)."""
    from sppnet.data.images import read_image
    from sppnet.figures.detections import contact_sheet, draw_detections

    drawn = [
        draw_detections(
            read_image(image.image.path, upright=False, max_pixels=take.conf.data_loading.max_pixels),
            detections,
            classes,
            show_above=_SHOW_ABOVE,
            truth=image.truth,
        )
        for image, detections in list(zip(images, found, strict=True))[:_SHEET_IMAGES]
    ]
    sheet = contact_sheet(drawn, columns=_SHEET_COLUMNS, side=_SHEET_SIDE)
    write_atomic(take.path / SHEET, lambda stream: sheet.save(stream, "JPEG", quality=90))
