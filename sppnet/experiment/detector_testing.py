"""Find the objects in the test images, combine what several found, or measure seconds (paper §4)."""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sppnet.artifacts import read_json, write_atomic
from sppnet.errors import DataError
from sppnet.experiment.detection_inputs import annotated, frozen_network, proposed, windows_of
from sppnet.experiment.detector_training import MACHINES, REGRESSORS
from sppnet.experiment.take import Outcome, Take

if TYPE_CHECKING:  # import torch
    from sppnet.data.voc2007 import AnnotatedImages
    from sppnet.data.window_labels import DetectionImage
    from sppnet.experiment.schema import Conf
    from sppnet.metrics.detection_ap import Detections
    from sppnet.tasks.detector import DetectorParts

_DETECTIONS: Final = "detections.safetensors"
_PART: Final = 100  # images whose detections are kept together while the others are still looked at
_RESULTS: Final = "results"
SHEET: Final = "detections.jpg"
_SHEET_IMAGES, _SHEET_COLUMNS, _SHEET_SIDE = 20, 4, 400  # as many as Fig. 6 has in a column or two; pixels
_SHOW_ABOVE: Final = -0.5  # as `sppnet detect` does


def find(take: Take) -> Outcome:
    """Detect objects in the test images, and judge what was found."""
    from sppnet.models.weights import read_part, save_part
    from sppnet.tasks.detector import Picture, detect, pack, unpack

    assert take.conf.detection is not None
    take.progress("reading images")
    found_images = annotated(take, "test")
    images = proposed(take, found_images)
    trained = frozen_network(take)
    source = windows_of(take.conf, trained.net, take.conf.detection.layer)
    pooled = windows_of(take.conf, trained.net, "pool", beside=source)
    dims = source.dim, pooled.dim
    parts = read_parts(take.conf, take.one_below("machines"), take.below("regressors"), dims)
    pictures = [
        Picture(image.image.path, image.proposals, (image.image.height, image.image.width))
        for image in images
    ]
    began = time.perf_counter()
    found: list[Detections] = []
    for start in range(0, len(images), _PART):
        file = take.path / f"checkpoint-{start}.safetensors"
        if (part := read_part(file)) is not None:
            found += unpack(part)
            continue
        some: list[Detections] = []
        for one in detect(parts, source, pooled, pictures[start : start + _PART], workers=take.workers):
            some.append(one)
            take.progress("detecting", start + len(some), len(images), "images")
        save_part(pack(some), file)
        found += some
    judged, files = _judged(take, found_images, images, found)
    metrics = {
        **{name: value for name, value in trained.metrics.items() if name != "train/seconds"},
        **judged,
        "detect/seconds": round(time.perf_counter() - began, 3),
    }
    return Outcome(metrics, files)


def combine(take: Take) -> Outcome:
    """Suppress the union of what several detectors have found (§4.4)."""
    import torch

    from sppnet.data.window_labels import DetectionImage
    from sppnet.models.weights import read_tensors
    from sppnet.tasks import detector
    from sppnet.tasks.detector import unpack

    found_images = annotated(take, "test")
    members = [unpack(read_tensors(member / _DETECTIONS)) for member in take.below("members")]
    suppression = detector.Suppression(**vars(take.conf.suppression))
    num_classes = len(found_images.classes)
    found = [detector.combine(one, num_classes, suppression) for one in zip(*members, strict=True)]
    images = [DetectionImage(image, torch.empty(0, 4)) for image in found_images.images]
    judged, files = _judged(take, found_images, images, found)
    return Outcome({**judged, "ensemble/num_members": len(members)}, files)


def measure_seconds(take: Take) -> Outcome:
    """Seconds an image, medians of wall-clock time: to pooled windows, and from there to fc7 (§4.3).

    On the CPU torch has all the threads of the trainer, for SPP-net as for R-CNN.
    """
    import torch

    from sppnet.artifacts import stable_seed
    from sppnet.tasks.timing import over_images, time_detection

    take.progress("measuring seconds")
    images = proposed(take, annotated(take, "test"))
    wanted = take.conf.timing
    generator = torch.Generator().manual_seed(stable_seed(take.conf.seed, "timing"))
    usable = [image for image in images if len(image.proposals)]
    order = torch.randperm(len(usable), generator=generator)[: wanted.num_images].tolist()
    chosen = [usable[number] for number in order]
    net = frozen_network(take).net
    watches = time_detection(
        windows_of(take.conf, net, "fc7", max_windows=wanted.max_windows),
        [(image.image.path, image.proposals) for image in chosen],
        device=net.device,
        num_warmup=wanted.num_warmup,
    )
    wall = over_images(statistics.median, [watch.wall for watch in watches])
    # The fairer ones on a machine shared with others.
    cpu = over_images(statistics.median, [watch.cpu for watch in watches])
    return Outcome(
        {
            "timing/conv_seconds": wall.to_pooled,
            "timing/fc_seconds": wall.fc,
            "timing/total_seconds": wall.total,
            "timing/conv_cpu_seconds": cpu.to_pooled,
            "timing/fc_cpu_seconds": cpu.fc,
            "timing/total_cpu_seconds": cpu.total,
            "timing/mean_total_seconds": over_images(
                statistics.fmean, [watch.wall for watch in watches]
            ).total,
            "timing/decode_seconds": wall.decode,
            "timing/num_images": len(chosen),
            "timing/num_windows": sum(len(image.proposals) for image in chosen) / len(chosen),
            "timing/num_computed": sum(watch.num_computed for watch in watches) / len(chosen),
            "timing/num_threads": torch.get_num_threads(),
        }
    )


def read_parts(
    conf: "Conf", machines: Path, regressors: Sequence[Path], dims: tuple[int, int]
) -> "DetectorParts":
    """Read what a detector has learned from the runs it stands on.

    Args:
        conf: The detector's.
        machines: The run of its SVMs.
        regressors: That of its box regressors, if it has some.
        dims: Length of the vectors that its SVMs are given, and of pooled ones.

    Raises:
        ArtifactError: They are not of these classes and lengths, or not finite.
    """
    import torch

    from sppnet.models.weights import read_tensors_like
    from sppnet.tasks.detector import DetectorParts, Machines, Regressors, Suppression

    k, (dim, pooled_dim) = len(read_json(machines / "classes.json")), dims
    svms = {"coef": torch.empty(k, dim), "intercept": torch.empty(k), "feature_scale": torch.empty(())}
    boxes = {
        "weights": torch.empty(k, pooled_dim, 4, dtype=torch.float64),
        "bias": torch.empty(k, 4, dtype=torch.float64),
        "num_windows": torch.empty(k, dtype=torch.int64),
        "feature_scale": torch.empty(()),
    }
    return DetectorParts(
        Machines(**read_tensors_like(machines / MACHINES, svms)),
        Regressors.from_state(read_tensors_like(regressors[0] / REGRESSORS, boxes)) if regressors else None,
        Suppression(**vars(conf.suppression)),
    )


def _judged(
    take: Take,
    annotated_images: "AnnotatedImages",
    images: "Sequence[DetectionImage]",
    found: "Sequence[Detections]",
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Write what was found, here and as the devkit's files; return its average precision, and the files."""
    from sppnet.metrics.average_precision import mean_ap
    from sppnet.metrics.voc_results import write_results
    from sppnet.models.weights import save_tensors
    from sppnet.tasks.detector import average_precision, pack

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
    of_class = average_precision(images, found, num_classes=len(classes))
    mean = mean_ap(of_class)
    if not mean.num_counted:
        name = (take.conf.target or {})["name"]
        raise DataError(f"{name}: no object in the test images that counts")
    known = {name: float(value) for name, value in zip(classes, of_class, strict=True)}
    files = (_DETECTIONS, SHEET, *(f"{_RESULTS}/{file.name}" for file in results))
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
