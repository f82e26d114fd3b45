"""What several test folders share: command lines small enough for a test, nothing left behind."""

import contextlib
import copy
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Command
from hydra._internal import config_loader_impl
from hydra._internal.config_repository import IConfigRepository
from omegaconf import DictConfig

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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bring the tests of a fixture that keeps what it made into one process (--dist loadgroup).

    xdist reads the group off the end of a test's id; what it writes there itself, pytest 9.2 does not see.
    """
    for item in items:
        for name in KEPT:
            if config.getoption("loadgroup", False) and name in getattr(item, "fixturenames", ()):
                item._id = type(item._id).parse(f"{item.nodeid}@{name}")  # type: ignore[attr-defined]


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
    """Generated images; all processes of the tests draw into one folder."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shapes"


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


def state_of(repo: IConfigRepository) -> tuple[object, ...]:
    """The files below Hydra's search path as they are now."""
    folders = [source.path for source in repo.get_sources()]
    files = [
        file for folder in folders if Path(folder).is_absolute() for file in Path(folder).rglob("*.yaml")
    ]
    states = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files)]
    return (*folders, *states)


def remember_composing() -> None:
    """Merge the files of one choice of options once: most tests choose what another one has chosen.

    What a command line sets beside options is put into a copy, by Hydra as ever; mistakes are not remembered.
    """
    loader = config_loader_impl.ConfigLoaderImpl
    list_defaults = config_loader_impl.create_defaults_list
    merge = loader._compose_config_from_defaults_list
    listed: dict[tuple[object, ...], Any] = {}
    merged: dict[int, DictConfig] = {}

    def list_once(repo, config_name, overrides_list, **how):
        options, values = [], []
        for one in overrides_list:
            is_option = repo.group_exists(one.key_or_group) and not isinstance(one.value(), dict)
            (options if one.is_sweep_override() or is_option else values).append(one)
        key = (state_of(repo), config_name, *(one.input_line for one in options), *how.values())
        if key not in listed:
            listed[key] = list_defaults(repo, config_name, options, **how)
        return replace(listed[key], config_overrides=values)

    def merge_once(self, defaults, repo):
        if id(defaults) not in merged:  # the lists are kept above
            merged[id(defaults)] = merge(self, defaults, repo)
        return copy.deepcopy(merged[id(defaults)])

    config_loader_impl.create_defaults_list = list_once
    loader._compose_config_from_defaults_list = merge_once  # type: ignore[method-assign]


remember_composing()
