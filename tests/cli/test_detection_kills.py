"""A detector killed in any stage, and started again, is the one that was never killed: byte for byte."""

import json
import logging
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file
from scipy.io import savemat

from sppnet.data.targets import ShapesVocTarget
from sppnet.run.directory import RunDirectory

FOUND = "detections.safetensors"
# Whatever can be saved is saved on every occasion: wherever the kill falls, there is something to go on from.
ALWAYS = "trainer.checkpoint_minutes=0"


class Kill(NamedTuple):
    """When to kill, and from where on to start."""

    stage: str
    removed: tuple[str, ...]  # the stage's own runs and all behind them; what was kept on disk for it
    sign: str  # of work under way that the next start can use
    num_signs: int


BEHIND_MAPS = ("networks/*finetuned*", "detectors", "table9")
MAPS = ("maps", ".cache/*/entry.json", ".cache/*/*.safetensors")
KILLS = [
    Kill("proposals", ("proposals", ".cache/*/*.boxes", *BEHIND_MAPS), ".cache/*/*.boxes", 3),
    Kill("network", ("networks", *MAPS, *BEHIND_MAPS), "networks/*/checkpoint-*.ckpt", 1),
    Kill("maps", (*MAPS, *BEHIND_MAPS), ".cache/*/*.safetensors", 2),
    Kill("finetuning", ("networks/*finetuned*", *BEHIND_MAPS), "networks/*finetuned*/checkpoint-*.ckpt", 1),
    Kill("machines", ("detectors", "table9"), "detectors/*/checkpoint-mining.safetensors", 1),
    Kill("regressors", ("detectors/*boxes*", "table9/ftfc7_bb*"), "detectors/*/checkpoint-class*", 3),
    Kill("detection", ("table9",), "table9/*/checkpoint-*.safetensors", 1),
]


def products(runs: Path) -> dict[str, bytes]:
    """Everything that stages leave: weights, SVMs, regressors, detections, the devkit's files."""
    parts = ("networks", "detectors", "table9")
    names = ("*.safetensors", "results/*.txt")
    files = [file for part in parts for name in names for file in runs.glob(f"{part}/*/{name}")]
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def remove(runs: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in list(runs.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def kill_at(start, runs: Path, sign: str, num_signs: int, *arguments: str) -> None:
    """Start a command in a process group of its own, and kill all of it once the signs are there."""
    process = start(*arguments, ALWAYS)
    try:
        while len(list(runs.glob(sign))) < num_signs:
            assert process.poll() is None, "it came to its end before it could be killed"
            time.sleep(0.001)
    finally:
        process.kill_group()


def under_way(runs: Path) -> Path:
    """The one run that was killed."""
    statuses = [(file.parent, json.loads(file.read_text())["state"]) for file in runs.glob("*/*/status.json")]
    (run,) = [path for path, state in statuses if state == "running"]
    assert not RunDirectory(run).is_complete
    return run


def stage_of(run: Path) -> str:
    stage: str = yaml.safe_load((run / "config.yaml").read_text())["run"]["stage"]
    return stage


def killed_and_again(sppnet, start, runs: Path, kill: Kill, *arguments: str) -> Path:
    """Remove, start, kill, start again; returns the run that was killed."""
    expected = products(runs)
    remove(runs, kill.removed)
    kill_at(start, runs, kill.sign, kill.num_signs, *arguments)
    run = under_way(runs)
    assert stage_of(run) == kill.stage
    assert sppnet(*arguments) == 0
    assert products(runs) == expected
    assert not list(runs.glob("*/*/checkpoint-*"))
    return run


@pytest.mark.slow
def test_a_signal_stops_proposals_behind_the_picture_under_way(start, detectors: Path, table9):
    remove(detectors, KILLS[0].removed)
    process = start(*table9)
    while len(list(detectors.glob(KILLS[0].sign))) < 2:
        assert process.poll() is None, process.said()
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    states = [json.loads(file.read_text())["state"] for file in detectors.glob("proposals/*/status.json")]
    assert states == ["interrupted"]
    assert 2 <= len(list(detectors.glob(KILLS[0].sign))) <= 4  # of 12 pictures


@pytest.mark.slow
def test_mining_goes_on_behind_the_image_it_was_killed_at(sppnet, start, detectors: Path, table9, caplog):
    caplog.set_level(logging.INFO)
    mining = Kill("machines", ("detectors/*-pool-*", "table9/pool-*"), "detectors/*/checkpoint-mining*", 1)
    run = killed_and_again(sppnet, start, detectors, mining, *table9, "detection=pool")
    log = (run / "run.log").read_text()
    assert "going on behind image" in log
    assert int(log.partition("behind image ")[2].split()[0]) in range(1, 6)  # of 6 images


@pytest.mark.slow
@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: kill.stage)
def test_a_kill_in_any_stage_changes_no_byte(sppnet, start, detectors: Path, table9, kill: Kill):
    killed_and_again(sppnet, start, detectors, kill, *table9)


def write_grid(file: Path, images, side: int = 24) -> None:
    """R-CNN's proposals file with windows of two sizes all over every image."""
    boxes = np.empty((1, len(images)), dtype=object)
    for number, image in enumerate(images):
        boxes[0, number] = np.array(
            [
                [y + 1, x + 1, y + size, x + size]
                for size in (side, 2 * side)
                for y in range(0, image.height - size, 2 * side)
                for x in range(0, image.width - size, 2 * side)
            ],
            dtype=np.uint16,
        )
    ids = np.empty((len(images), 1), dtype=object)
    ids[:, 0] = [image.image_id for image in images]
    savemat(file, {"images": ids, "boxes": boxes})


@pytest.mark.slow
def test_detection_keeps_what_it_found_in_the_first_hundred_images(
    sppnet, start, tmp_path: Path, tiny_detection, shapes_root: Path
):
    for images, name in zip(
        ShapesVocTarget("", str(shapes_root), num_images=220, seed=1).read_boxes(), ("a", "b"), strict=True
    ):
        write_grid(tmp_path / f"{name}.mat", images.images)
    files = ("proposals=mat", "proposals.max_proposals=500", "proposals.paths=[a.mat,b.mat]")
    one_cell = ("experiment=table9", "detection=pool", "windows=spp_one", *tiny_detection)
    arguments = (*one_cell, *files, "target.num_images=220")
    runs = tmp_path / "runs"
    assert sppnet(*arguments) == 0
    (undisturbed,) = (load_file(file) for file in runs.glob(f"table9/*/{FOUND}"))
    remove(runs, ("table9",))
    kill_at(start, runs, "table9/*/checkpoint-0.safetensors", 1, *arguments)
    part = under_way(runs) / "checkpoint-0.safetensors"
    counts = undisturbed["counts"]
    assert load_file(part)["counts"].equal(counts[:100])
    # Nothing found, in place of what was: these images are not looked at again.
    save_file({name: value[:0] for name, value in undisturbed.items()} | {"counts": counts[:100] * 0}, part)
    assert sppnet(*arguments) == 0
    (found,) = (load_file(file) for file in runs.glob(f"table9/*/{FOUND}"))
    assert found["counts"].tolist() == [0] * 100 + counts[100:].tolist()
    assert found["boxes_xyxy"].equal(undisturbed["boxes_xyxy"][counts[:100].sum() :])
