"""The command line in a process of its own that has nothing left to import.

`python -m sppnet.cli.main` spends five seconds on importing torch and Lightning before it trains anything.
Here a server imports them once, uses neither, and every command is a fork of it.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

IMPORTS = ["torch", "torchvision", "torchdata.stateful_dataloader", "pytorch_lightning", "hydra", "numba"]


class Command:
    """One command under way, started in a folder; its group of processes is its own."""

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTS)
        self._output = folder / "output.txt"
        self._process = context.Process(
            target=_run, args=(list(arguments), folder, self._output, dict(os.environ))
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, minus the signal where one ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float = 120) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise TimeoutError(f"still running after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def said(self) -> str:
        """All that it has printed."""
        return self._output.read_text()


def _run(arguments: list[str], folder: Path, output: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb", buffering=0) as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv = ["sppnet", *arguments]
    from sppnet.cli.main import main

    main()
