"""A killed run ends with the same weights, bit for bit, and the same log, line for line."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

from sppnet.artifacts import write_named_by_digest
from sppnet.errors import ArtifactError
from sppnet.run.checkpoints import DigestCheckpointIO, newest_checkpoint
from sppnet.run.progress import MetricsFile

# Every batch is followed by a checkpoint: wherever the kill falls, there is one in mid-epoch.
ALWAYS = "trainer.checkpoint_minutes=0"


def only_run(folder: Path) -> Path:
    (run,) = [path for path in folder.glob("runs/networks/*") if path.is_dir()]
    return run


def train(
    start, folder: Path, *arguments: str, kill_after_lines: int | None = None, number: int = signal.SIGKILL
) -> int:
    process = start(*arguments)
    while kill_after_lines is not None and process.poll() is None:
        log = next(folder.glob("runs/networks/*/metrics.jsonl"), None)
        if log is not None and len(log.read_bytes().splitlines()) >= kill_after_lines:
            process.send_signal(number)
            break
        time.sleep(0.005)
    return process.wait(timeout=120)


@pytest.mark.parametrize("sizes", ["multi", pytest.param("random", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_weights_and_log(tmp_path: Path, tiny, sppnet, start, sizes: str):
    arguments = [
        *tiny,
        "backbone=zf5",
        f"train_sizes={sizes}",
        "training.epochs=6",
        "trainer.every_steps=1",
        "paths.runs=runs",
    ]
    assert sppnet(*arguments) == 0
    undisturbed = only_run(tmp_path)
    weights = (undisturbed / "model.safetensors").read_bytes()
    lines = (undisturbed / "metrics.jsonl").read_text()
    (tmp_path / "runs").rename(tmp_path / "undisturbed")

    for kill_after_lines in (2, 9):  # in the first and in a later epoch
        assert (
            train(start, tmp_path, *arguments, ALWAYS, kill_after_lines=kill_after_lines) == -signal.SIGKILL
        )
    assert sppnet(*arguments) == 0
    resumed = only_run(tmp_path)
    assert "going on from checkpoint-" in (resumed / "run.log").read_text()
    assert (resumed / "model.safetensors").read_bytes() == weights
    assert (resumed / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        (signal.SIGUSR2, 140),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_whatever_asks_to_stop_a_training_has_it_saved_and_says_so(tmp_path: Path, tiny, start, number, code):
    arguments = [*tiny, "backbone=zf5", "training.epochs=50", "trainer.every_steps=1", "paths.runs=runs"]
    assert train(start, tmp_path, *arguments, kill_after_lines=3, number=number) == code
    run = only_run(tmp_path)
    assert newest_checkpoint(run) is not None
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"


@pytest.mark.parametrize("payload", ["pickle", {}, [1], {"state_dict": {}}])
def test_a_well_named_checkpoint_of_anything_else_is_named_and_not_run(tmp_path: Path, payload):
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return Path.touch, (canary,)

    content = Payload() if payload == "pickle" else payload
    path = write_named_by_digest(tmp_path, "checkpoint-00000001", ".ckpt", lambda s: torch.save(content, s))
    with pytest.raises(ArtifactError, match=r"checkpoint-00000001-\w+\.ckpt: no checkpoint of ours"):
        DigestCheckpointIO().load_checkpoint(path)
    assert not canary.exists()


@pytest.mark.parametrize("damage", [b"", b"null", b"\xff\xfe", b'{"epoch": 9}\n' * 99])
def test_lines_that_a_checkpoint_does_not_know_are_refused(tmp_path: Path, damage: bytes):
    written = MetricsFile(directory=tmp_path, every_steps=1)
    written.path.write_bytes(b'{"epoch": 0}\n{"epoch": 1}\n{"epoch": 2}\n')
    written.num_lines = 2
    state = written.state_dict()
    again = MetricsFile(directory=tmp_path, every_steps=1)
    again.load_state_dict(state)
    assert again.num_lines == 2
    written.path.write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl: its first 2 lines are not"):
        again.load_state_dict(state)


def checkpoints(folder: Path) -> list[Path]:
    for step in (10, 20, 30):
        DigestCheckpointIO().save_checkpoint({"step": step}, folder / f"checkpoint-{step:08d}")
    return sorted(folder.glob("*.ckpt"))


def test_the_two_newest_checkpoints_are_kept(tmp_path: Path):
    assert [path.name[:19] for path in checkpoints(tmp_path)] == [
        "checkpoint-00000020",
        "checkpoint-00000030",
    ]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path, caplog):
    older, newer = checkpoints(tmp_path)
    newer.write_bytes(newer.read_bytes()[:-10])
    assert newest_checkpoint(tmp_path) == older
    assert newer.name in caplog.text
    assert torch.load(older, weights_only=True) == {"step": 20}


def test_when_all_checkpoints_are_damaged_training_does_not_silently_start_anew(tmp_path: Path):
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="all 2 checkpoints are damaged"):
        newest_checkpoint(tmp_path)
