"""`sppnet detect` with a detector that was trained here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from scipy.optimize import linear_sum_assignment

from sppnet.data.targets import ShapesVocTarget
from sppnet.run.directory import RunDirectory, sealed

EVERYTHING = "-10"


def of_cell(runs: Path, name: str) -> Path:
    (run,) = runs.glob(f"table9/{name}-seed0-*")
    return run


def test_images() -> list[Path]:
    """The images that the cells were tested on."""
    _, test = ShapesVocTarget("", None, 12, 1).read_boxes()
    return [image.path for image in test.images]


test_images.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["pool-spp_one", "ftfc7_bb-spp_one"])
def test_new_pictures_are_seen_as_the_test_images_were(sppnet, detectors, name, capfd):
    run = of_cell(detectors, name)
    settings = RunDirectory(run).read_config()
    assert settings["detection"]["moved"] == name.startswith("ftfc7_bb")
    kept = load_file(run / "detections.safetensors")
    stop = int(kept["counts"][0])
    picture = test_images()[0]
    shutil.copy(picture, "picture" + picture.suffix)
    words = ["picture" + picture.suffix, "--detector", str(run), "--score-above", EVERYTHING]
    assert sppnet("detect", *words) == 0
    listing = json.loads(Path("detections/detections.json").read_text())
    (image,) = listing["images"]
    assert Image.open(picture).size == (image["width"], image["height"])
    classes = listing["classes"]
    found = np.array(
        [(classes.index(one["class"]), one["score"], *one["box"]) for one in image["detections"]]
    )
    columns = (kept["labels"], kept["scores"], *kept["boxes_xyxy"].T)
    expected = np.stack([column[:stop].double().numpy() for column in columns], axis=1)
    assert len(found) == stop > 0
    # Side by side whatever their order, which is that of scores of which some differ in the last bits only.
    # Two decimals of a pixel are listed.
    allowed = np.array([0, 1e-4, 0.011, 0.011, 0.011, 0.011]) + 1e-4 * np.abs(expected)
    allowed[:, 0] = 0.5
    farthest = (np.abs(found[:, None] - expected) / allowed).max(axis=2)
    assert farthest[linear_sum_assignment(farthest)].max() < 1


def test_a_detector_may_be_moved_with_the_runs_it_builds_on(sppnet, detectors, tmp_path, capfd):
    moved = tmp_path / "elsewhere" / "kept"
    moved.parent.mkdir()
    detectors.rename(moved)
    shutil.copy(test_images()[1], "picture.jpg")
    run = of_cell(moved, "ftfc7_bb-spp_one")
    assert sppnet("detect", "picture.jpg", "--detector", str(run)) == 0
    settings = RunDirectory(run).read_config()
    settings["run"]["below"]["machines"] = ["detectors/gone-00000000"]
    (run / "config.yaml").write_text(sealed(settings))
    assert sppnet("detect", "picture.jpg", "--detector", str(run)) == 4
    assert f"builds on {moved / 'detectors' / 'gone-00000000'}, which is not there" in capfd.readouterr().err


def say(run: Path, **what: str) -> None:
    """Have a run's directory say that it is something else."""
    (run / "config.yaml").write_text(sealed({"run": what}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), "no config.yaml in it"),
        (lambda run: (run / "COMPLETE").unlink(), "not complete"),
        (lambda run: say(run, stage="transfer", key=run.name[-8:], label="x"), "not of a detector"),
        (lambda run: say(run, stage="juggling", key=run.name[-8:], label="x"), "no stage"),
        (lambda run: say(run, a="b"), "not a run of this version"),
    ],
)
def test_what_is_no_detector_is_told_in_one_line(sppnet, detectors, spoil, message, capfd):
    run = of_cell(detectors, "pool-spp_one")
    spoil(run)
    shutil.copy(test_images()[0], "picture.jpg")
    assert sppnet("detect", "picture.jpg", "--detector", str(run)) == 4
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_of_detection_leaves_a_sheet_of_pictures(detectors):
    with Image.open(of_cell(detectors, "pool-spp_one") / "detections.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert min(sheet.size) > 400


def test_a_picture_passes_the_convolutions_once_though_its_boxes_are_moved(detectors, monkeypatch):
    from sppnet.experiment.trained_detector import load_detector
    from sppnet.models.sppnet import SppNet

    detector = load_detector(of_cell(detectors, "ftfc7_bb-spp_one"))
    passes, maps = [], SppNet.maps
    monkeypatch.setattr(SppNet, "maps", lambda net, images: passes.append(len(images)) or maps(net, images))
    found = detector.detect(test_images()[0])
    assert len(found.scores) > 0
    assert passes == [1]  # at its one scale
