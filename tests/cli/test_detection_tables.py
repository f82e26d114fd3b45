"""Tables 9 to 13 end to end: proposals, maps, networks, SVMs, box regression, and what they find."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from scipy.optimize import linear_sum_assignment
from torchvision.models import get_model
from torchvision.ops import batched_nms, box_iou

from sppnet.data.targets import ShapesVocTarget
from sppnet.data.voc2007 import AnnotatedImages

FOUND = "detections.safetensors"
HALVES = {"proposals": 2, "maps": 2}  # trainval and test


def completed(runs: Path) -> dict[Path, int]:
    """When each run was completed."""
    return {path.parent: path.stat().st_mtime_ns for path in runs.glob("*/*/COMPLETE")}


def stages(paths: Any) -> dict[str, int]:
    """How many runs there are of every stage."""
    configs = [yaml.safe_load((path / "config.yaml").read_text()) for path in paths]
    return dict(Counter(config["run"]["stage"] for config in configs))


def metrics(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text())


def cell(runs: Path, name: str) -> Path:
    (run,) = runs.glob(f"{name}-seed0-*")
    return run


def files(run: Path) -> dict[str, bytes]:
    """What was found, as tensors and as the devkit's files."""
    paths = [run / FOUND, *(run / "results").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def of_images(run: Path) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Boxes, scores and labels of every test image."""
    found = load_file(run / FOUND)
    counts = found["counts"].tolist()
    parts = (found[name].split(counts) for name in ("boxes_xyxy", "scores", "labels"))
    return list(zip(*parts, strict=True))


def overlaps(boxes: torch.Tensor) -> torch.Tensor:
    """IoU of boxes whose ends are inside."""
    ends_outside = boxes.double() + torch.tensor([0, 0, 1, 1])
    return box_iou(ends_outside, ends_outside)


def proposed(runs: Path) -> set[tuple[float, ...]]:
    """The proposals of all images, as rows of float32."""
    return {
        tuple(row)
        for file in runs.glob(".cache/*/*.boxes")
        for row in np.frombuffer(file.read_bytes(), "<f4").reshape(-1, 4).tolist()
    }


@pytest.fixture
def test_images(shapes_root: Path) -> AnnotatedImages:
    return ShapesVocTarget("", str(shapes_root), num_images=12, seed=1).read_boxes()[1]


def test_cells_share_proposals_maps_and_the_network(sppnet, capfd, detectors: Path, table9):
    before = completed(detectors)
    # Fine-tuned fc7 has SVMs of its own; the regressors see what is pooled, which it leaves as it was.
    own = {"network": 1, "finetuning": 1, "machines": 2, "regressors": 1, "detection": 2}
    assert stages(before) == {**HALVES, **own}
    assert len(list(detectors.glob(".cache/*/*.boxes"))) == 12
    assert len(list(detectors.glob(".cache/*/*.safetensors"))) == 12
    capfd.readouterr()
    assert sppnet(*table9) == 0
    assert "2 of 2 cells are complete" in capfd.readouterr().out
    assert completed(detectors) == before


def test_the_devkits_files_say_what_the_tensors_say(detectors: Path, test_images: AnnotatedImages):
    for name in ("pool-spp_one", "ftfc7_bb-spp_one"):
        run = cell(detectors / "table9", name)
        lines = {
            (label, *(float(value) if number else value for number, value in enumerate(line.split())))
            for label, named in enumerate(test_images.classes)
            for line in (run / "results" / f"comp4_det_test_{named}.txt").read_text().splitlines()
        }
        found = [
            (label, image.image_id, score, *box)
            for image, (boxes, scores, labels) in zip(test_images.images, of_images(run), strict=True)
            for label, score, box in zip(
                labels.tolist(), scores.tolist(), (boxes.double() + 1).tolist(), strict=True
            )
        ]
        assert len(lines) == len(found) == metrics(run)["test/num_detections"] > 0
        for label, image in sorted({one[:2] for one in found}):
            told, kept = ([one[2:] for one in part if one[:2] == (label, image)] for part in (lines, found))
            assert len(told) == len(kept)
            # Side by side whatever their order: scores that differ are told as one.
            farthest = np.abs(np.array(told)[:, None] - np.array(kept)).max(axis=2)
            assert farthest[linear_sum_assignment(farthest)].max() <= 1e-3


def test_average_precision_is_told_of_every_class_that_the_test_images_show(
    detectors: Path, test_images: AnnotatedImages
):
    shown = {
        test_images.classes[label]
        for image in test_images.images
        for label, is_difficult in zip(image.labels.tolist(), image.is_difficult.tolist(), strict=True)
        if not is_difficult
    }
    for run in (detectors / "table9").glob("*-seed0-*"):
        found = metrics(run)
        ap = {key.rpartition("/")[2]: value for key, value in found.items() if key.startswith("test/ap/")}
        assert set(ap) == shown
        assert found["test/map"] == pytest.approx(sum(ap.values()) / len(ap))
        assert (found["test/num_classes"], found["test/all_classes"]) == (len(shown), 10)
        assert found["test/num_images"] == 6


def test_what_is_found_overlaps_by_at_most_30_percent_and_regression_moves_it(
    detectors: Path, test_images: AnnotatedImages
):
    windows = proposed(detectors)
    for name, are_windows in (("pool-spp_one", True), ("ftfc7_bb-spp_one", False)):
        run = cell(detectors / "table9", name)
        for image, (boxes, _, labels) in zip(test_images.images, of_images(run), strict=True):
            of_one_class = labels[:, None] == labels
            assert (overlaps(boxes) * of_one_class).fill_diagonal_(0).max() <= 0.3
            assert boxes.min() >= 0
            assert boxes[:, 2].max() <= image.width - 1
            assert boxes[:, 3].max() <= image.height - 1
            assert all(tuple(box) in windows for box in boxes.tolist()) == are_windows


def test_maps_that_are_not_kept_and_two_threads_give_the_same_detections(
    sppnet, detectors: Path, tiny_detection
):
    expected = files(cell(detectors / "table9", "pool-spp_one"))
    for folder in ("maps", "detectors", "table9"):
        shutil.rmtree(detectors / folder)
    one_cell = ("experiment=table9", "detection=pool", "windows=spp_one", *tiny_detection)
    assert sppnet(*one_cell, "data_loading.keep_maps=false", "trainer.threads=2") == 0
    assert files(cell(detectors / "table9", "pool-spp_one")) == expected
    assert not (detectors / "maps").exists()


def test_table_10_detects_by_r_cnn_and_measures_seconds(sppnet, detectors: Path, tiny_detection):
    before = completed(detectors)
    table10 = ("experiment=table10", "detection=pool,time", "windows=spp_one,rcnn", *tiny_detection)
    assert sppnet(*table10) == 0
    # SPP-net's cell is Table 9's under another name; R-CNN needs no maps.
    assert stages(completed(detectors).keys() - before) == {"machines": 1, "detection": 2, "timing": 2}
    spp, rcnn = (cell(detectors / "table10", f"pool-{windows}") for windows in ("spp_one", "rcnn"))
    assert files(spp) == files(cell(detectors / "table9", "pool-spp_one"))
    assert 0 <= metrics(rcnn)["test/map"] <= 1
    assert metrics(rcnn)["test/num_detections"] > 0
    for windows in ("spp_one", "rcnn"):
        seconds = metrics(cell(detectors / "table10", f"time-{windows}"))
        assert not any(key.startswith("test/") for key in seconds)
        for clock in ("seconds", "cpu_seconds"):
            total = seconds[f"timing/total_{clock}"]
            parts = [seconds[f"timing/{part}_{clock}"] for part in ("prepare", "conv", "pooling", "fc")]
            assert all(0 <= part < total for part in parts)
            # The median of two images' sums is the sum of their medians.
            assert total == pytest.approx(sum(parts))
        assert seconds["timing/num_images"] == 2
        # A draw of both images, each as often, says what the whole run says: of the same stage.
        drawn = json.loads((cell(detectors / "table10", f"time-{windows}") / "images.json").read_text())
        for part in ("conv", "fc", "total"):
            told = pytest.approx(seconds[f"timing/{part}_seconds"], rel=1e-5)
            assert any(one == told for one in drawn["replicates"][f"timing/{part}_seconds"])
        assert seconds["timing/end_to_end_seconds"] > seconds["timing/proposal_seconds"] > 0
        assert seconds["timing/num_windows"] <= 60
        if windows == "rcnn":
            assert seconds["timing/num_computed"] == 8


@pytest.mark.slow
def test_table_12_suppresses_the_union_of_two_detectors(sppnet, detectors: Path, tiny_detection):
    before = completed(detectors)
    assert sppnet("experiment=table12", "windows=spp_one", *tiny_detection) == 0
    new = {"network": 1, "maps": 2, "finetuning": 1, "machines": 1, "regressors": 1}
    # The first detector is Table 9's: found again in its own row, and once more for the combination.
    assert stages(completed(detectors).keys() - before) == {**new, "detection": 3, "combination": 2}
    one, two, both = (
        cell(detectors / "table12", f"{setting}-result")
        for setting in ("detector_one", "detector_two", "detectors_together")
    )
    assert files(one) == files(cell(detectors / "table9", "ftfc7_bb-spp_one"))
    assert files(one) != files(two)
    assert metrics(both)["ensemble/num_members"] == 2
    # Each box is of one of the two; so many that a union of what each had kept would be others.
    joined = [
        batched_nms(boxes.double() + torch.tensor([0, 0, 1, 1]), scores.double(), labels, 0.3)
        for boxes, scores, labels in (
            map(torch.cat, zip(*pair, strict=True))
            for pair in zip(of_images(one), of_images(two), strict=True)
        )
    ]
    assert sum(map(len, joined)) != metrics(both)["test/num_detections"] > 0


def test_a_detector_combined_with_itself_finds_what_it_found(sppnet, detectors: Path, tiny_detection):
    before = completed(detectors)
    alone = cell(detectors / "table9", "ftfc7_bb-spp_one")
    itself = ("experiment=table9", "detection=ftfc7_bb", "windows=spp_one", "ensemble=[[],[]]")
    assert sppnet(*itself, *tiny_detection) == 0
    new = completed(detectors).keys() - before
    assert stages(new) == {
        "detection": 1,
        "combination": 1,
    }  # the member is one run, however often it is asked
    for run in new:
        assert files(run) == files(alone)
        assert metrics(run)["test/map"] == metrics(alone)["test/map"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "table", "num_cells"),
    [
        (["experiment=table9"], "table9", 12),
        (["experiment=table10"], "table10", 9),
        (["experiment=table11"], "table11", 4),
        (["experiment=table12", "protocol=release"], "table12", 3),
        (["experiment=edge_boxes", "windows=spp_one"], "edge_boxes", 4),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_the_tables_of_detection_run(sppnet, tmp_path, tiny_detection, arguments, table: str, num_cells: int):
    # The settings of edge_boxes choose the proposals.
    shared = [value for value in tiny_detection if table != "edge_boxes" or not value.startswith("proposals")]
    assert sppnet(*arguments, *shared) == 0
    found = [metrics(path) for path in completed(tmp_path / "runs") if path.parent.name == table]
    assert len(found) == num_cells
    for cell in found:
        assert "timing/total_seconds" in cell or 0 <= cell["test/map"] <= 1


PRETRAINED = ("pretrained_det", "pretrained_det_finer", "pretrained_det_finer_large")


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "num_networks"), [("pretraining", 4), ("table13", 6)])
def test_networks_pretrained_on_objects_detect(
    sppnet, tmp_path, tiny_detection, shapes_root, experiment: str, num_networks: int
):
    # Enough scenes for all classes, and enlarged so that objects fill a region.
    trainval = ShapesVocTarget("", str(shapes_root), num_images=60, seed=1).read_boxes()[0]
    folder = trainval.images[0].path.parents[3]  # of VOCdevkit/VOC2007/JPEGImages
    shared = [value for value in tiny_detection if not value.startswith(("data.", "target."))]
    own = {
        "table13": [
            "target.trainval_set=trainval",
            "data.reader.train_set=trainval",
            "data.reader.test_set=test",
        ],
        "pretraining": ["target.num_images=12", f"setting=pretrained_shapes,{','.join(PRETRAINED)}"],
    }[experiment]
    larger = ("windows=spp_one", "image.short_side=190", "image.object_short_side=210")
    assert sppnet(f"experiment={experiment}", *shared, *own, *larger, f"paths.det={folder}") == 0
    assert stages(completed(tmp_path / "runs"))["network"] == num_networks


@pytest.mark.slow
def test_table_9_of_a_network_with_given_weights_trains_fc_layers_only(sppnet, tmp_path, tiny_detection):
    torch.manual_seed(0)
    file = tmp_path / "squeezenet.safetensors"
    save_file(get_model("squeezenet1_1", weights=None).state_dict(), file)
    given = ("preset=pretrained", f"paths.weights={file}", "target=shapes_voc", "windows=spp_one")
    assert sppnet("experiment=table9_squeezenet", *tiny_detection, *given) == 0
    runs = completed(tmp_path / "runs")
    counted = stages(runs)
    assert (counted["network"], counted["finetuning"], counted["detection"]) == (1, 1, 5)
    (network,) = [path for path in runs if path.parent.name == "networks" and "finetuned" not in path.name]
    assert "train/steps" not in metrics(network)
