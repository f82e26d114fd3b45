"""What several test folders share: command lines small enough for a test, nothing left behind."""

import contextlib
import copy
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import Command
from omegaconf import OmegaConf

os.environ.setdefault("WANDB_MODE", "offline")

from sppnet.cli.main import run

# Whoever runs the tests under nohup must not make them deaf.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

Sppnet = Callable[..., int]
Start = Callable[..., Command]

TINY = (
    "preset=mini",
    "logger=none",
    "trainer=cpu",
    "trainer.threads=1",
    "progress=false",
    "image.short_side=124",
    "image.size=120",
    "image.small_size=112",
    "image.test_sides=[120,124,140]",
    "image.curve_sides=[112,124]",
    "width=0.05",
    "head.width=16",
    "training.epochs=2",
    "training.batch_size=8",
    "data.per_class=3",
    "data.test_per_class=2",
    "data.reader.detection_images=2",
)

# Fixtures of many seconds that keep what they made for the next test.
KEPT = ("detectors", "swept", "undisturbed")


@pytest.hookimpl(tryfirst=True)  # before xdist names the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests of a fixture that keeps what it made into one process (--dist loadgroup)."""
    for item in items:
        for name in KEPT:
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(scope="session", autouse=True)
def _a_core_each() -> None:
    """Two processes with two threads each would wait for one another on two cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _numbers_of_its_own() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


@pytest.fixture
def tiny(tmp_path: Path, shapes_root: Path) -> tuple[str, ...]:
    """Overrides that make any experiment a matter of a second; runs go to tmp_path/runs."""
    return (*TINY, f"data.root={shapes_root}", f"paths.runs={tmp_path / 'runs'}")


@pytest.fixture
def sppnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sppnet:
    """The command line in this process, started in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPPNET_ALLOW_TARGETS", raising=False)
    return lambda *arguments: run(list(arguments))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """The command line in a process of its own, started in tmp_path; what still runs at the end is killed."""
    commands: list[Command] = []

    def begin(*arguments: str) -> Command:
        commands.append(Command(arguments, tmp_path))
        return commands[-1]

    yield begin
    for command in commands:
        if command.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                command.kill_group()


def remember_yaml(load: Callable[..., object]) -> Callable[..., object]:
    """Parse a file once, until it changes: Hydra reads some 40 whenever it composes a configuration."""
    known: dict[tuple[str, int, int], object] = {}

    def load_once(file):
        path = getattr(file, "name", file)
        if not Path(path).is_file():  # a file inside a package, called by its name in it
            return load(file)
        state = Path(path).stat()
        key = (str(path), state.st_mtime_ns, state.st_size)
        if key not in known:
            known[key] = load(file)
        return copy.deepcopy(known[key])

    return load_once


OmegaConf.load = staticmethod(remember_yaml(OmegaConf.load))  # type: ignore[method-assign]
