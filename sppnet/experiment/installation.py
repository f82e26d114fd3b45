"""What runs here: where the YAML files are, which version of the code, on which software and machine.

Nothing heavy is imported: versions are read from the packages' metadata.
"""

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from sppnet.errors import ConfigError, ResourceError

_PACKAGES: Final = (
    *("torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy", "numba", "pillow"),
    *("opencv-contrib-python-headless", "safetensors", "torchmetrics"),
)
_MOST_JOBS: Final = 8
_SHARED: Final = Path("/dev/shm")
_command: Final[list[str]] = []  # of this process
_ROOT: Final = Path(__file__).resolve().parents[2]


def conf_dir() -> Path:
    """The folder of YAML files: inside the installed package, or beside it in a checkout."""
    installed = _ROOT / "sppnet" / "conf"
    return installed if installed.is_dir() else _ROOT / "conf"


def usable_cores() -> int:
    """Cores this process may use, eight at most: a cell needs about two gigabytes."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_JOBS, available)


@functools.cache
def device_of(accelerator: str) -> str:
    """What a trainer's accelerator is on this machine: cpu, cuda or mps."""
    if accelerator == "auto":
        return _fastest_device()
    return "cuda" if accelerator == "gpu" and sys.platform != "darwin" else accelerator


def require_device(accelerator: str) -> None:
    """Refuse a GPU that this machine does not have.

    Raises:
        ConfigError: Says what it has.
    """
    if accelerator != "cpu" and device_of(accelerator) != _fastest_device():
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch finds no such device here, but {_fastest_device()}; "
            f"choose trainer=cpu or trainer=auto"
        )


def require_shared_memory(num_bytes: int, workers: int) -> None:
    """Refuse loaders whose batches do not fit into the memory that processes share: they would stand still.

    Raises:
        ResourceError: Says what is there, and what is needed.
    """
    if not _SHARED.is_dir():
        return
    free = os.statvfs(_SHARED).f_bavail * os.statvfs(_SHARED).f_frsize
    if free < num_bytes:
        raise ResourceError(
            f"{_SHARED}: {free / 1e6:.1f} MB are free, and the batches of data_loading.workers={workers} "
            f"take {num_bytes / 1e6:.1f}; lower data_loading.workers (0 needs none) or training.batch_size, "
            f"or give more (docker run --shm-size=...)"
        )


@functools.cache
def _fastest_device() -> str:
    has_driver = any(Path(file).exists() for file in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))
    if not (has_driver or sys.platform in ("darwin", "win32")):
        return "cpu"  # found out without torch, which takes seconds to import
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def remember_command(arguments: Sequence[str]) -> None:
    """Keep the command as it was typed, before Hydra is given it."""
    _command[:] = arguments


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["sppnet", *_command])


@functools.cache
def code_version() -> dict[str, Any]:
    """The installed version and, in a checkout, its commit and whether files differ from it."""
    version: dict[str, Any] = {"version": _version("sppnet"), "commit": None, "is_dirty": None}
    if (_ROOT / ".git").exists():
        try:
            version["commit"] = _git("rev-parse", "--short=12", "HEAD")
            version["is_dirty"] = bool(_git("status", "--porcelain", "--", "sppnet", "hydra_plugins", "conf"))
        except (OSError, subprocess.SubprocessError):
            pass  # no git here, or none that reads this checkout
    return version


@functools.cache
def software() -> dict[str, str]:
    """Versions of the packages that count."""
    return {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}


@functools.cache
def machine() -> str:
    """The processor in words, without names or addresses."""
    return f"{_processor()}, {os.cpu_count()} cores"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
