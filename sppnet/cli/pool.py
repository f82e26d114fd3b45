"""Runs cells side by side on this machine, one process each, and stops them together.

Narrow networks gain little from a second core and lose much when it is busy elsewhere; two cells on a
core each are twice as fast as one on two.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sppnet.errors import SppnetError
from sppnet.run.interrupts import Interrupted, Interruption

_POLL_SECONDS = 0.2
_MOST_JOBS = 8


class CellRun(NamedTuple):
    """One run for the pool."""

    label: str
    directory: Path
    config: dict[str, Any]  # resolved, plain
    after: tuple[Path, ...]  # directories of the runs it builds on


class CellError(SppnetError):
    """What a cell raised in its own process, with that error's exit code."""

    def __init__(self, kind: str, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code  # type: ignore[misc]


class Event(NamedTuple):
    """What a worker said."""

    worker: int
    content: dict[str, Any]


def usable_cores() -> int:
    """Cores this process may use, eight at most: a cell needs about two gigabytes."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_JOBS, available)


def run_side_by_side(
    tasks: Sequence[CellRun],
    *,
    jobs: int,
    on_step: Callable[[CellRun, dict[str, Any]], None],
    on_end: Callable[[CellRun, CellError | None], None],
) -> dict[Path, CellError]:
    """Run all tasks, `jobs` at a time, none before those it builds on; returns what failed.

    A task that builds on a failed one fails with its error.

    Raises:
        Interrupted: A signal came; every running cell has saved and stopped.
    """
    waiting = list(tasks)
    errors: dict[Path, CellError] = {}
    events: queue.Queue[Event] = queue.Queue()
    running: dict[int, CellRun] = {}
    interruption = Interruption()
    with interruption.listen(), _workers(min(jobs, len(waiting)), events) as workers:
        _give_all(workers, running, waiting)
        while running:
            if interruption.requested:
                _stop(workers, interruption)
            try:
                number, content = events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if content["event"] == "step":
                on_step(running[number], content)
                continue
            if (task := running.pop(number, None)) is None:
                continue
            if content["event"] == "gone":  # the process died: the next run gets a new one
                workers[number] = _start(number, events)
            error = _error_of(content)
            on_end(task, error)
            if error:
                errors[task.directory] = error
                for lost in _builds_on(waiting, task.directory):
                    waiting.remove(lost)
                    errors[lost.directory] = error
                    on_end(lost, error)
            _give_all(workers, running, waiting)
    return errors


def _builds_on(waiting: Sequence[CellRun], directory: Path) -> list[CellRun]:
    """Tasks that need a directory, directly or through others."""
    direct = [task for task in waiting if directory in task.after]
    further = [task for one in direct for task in _builds_on(waiting, one.directory)]
    return list({task.directory: task for task in (*direct, *further)}.values())


def _give_all(
    workers: Sequence[subprocess.Popen[str]], running: dict[int, CellRun], waiting: list[CellRun]
) -> None:
    """Give every idle worker the first task whose predecessors are through; a clock runs alone."""
    for number in range(len(workers)):
        unfinished = {task.directory for task in (*waiting, *running.values())}
        ready = (
            task
            for task in waiting
            if not unfinished.intersection(task.after) and not (running and _is_timing(task))
        )
        if any(map(_is_timing, running.values())):
            return
        if number not in running and (task := next(ready, None)) is not None:
            waiting.remove(task)
            running[number] = task
            _give(workers[number], task)


def _is_timing(task: CellRun) -> bool:
    """Whether a run measures seconds, which others beside it would change."""
    return bool(task.config["cell"]["stage"] == "timing")


def _give(worker: subprocess.Popen[str], task: CellRun) -> None:
    job = {"directory": str(task.directory), "config": task.config}
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its reader says "gone"
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()


def _error_of(content: dict[str, Any]) -> CellError | None:
    if content["event"] == "done":
        return None
    if content["event"] == "failed":
        return CellError(content["kind"], content["error"], content["exit_code"])
    code = content["code"]
    killed = f"by signal {-code}, perhaps for want of memory" if code < 0 else f"with exit code {code}"
    return CellError("ResourceError", f"the cell's process ended {killed}", 6 if code < 0 else 1)


@contextlib.contextmanager
def _workers(count: int, events: "queue.Queue[Event]") -> Iterator[list[subprocess.Popen[str]]]:
    workers = [_start(number, events) for number in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            assert worker.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
        for worker in workers:
            worker.wait()


def _start(number: int, events: "queue.Queue[Event]") -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "sppnet.cli.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C reaches only us, and we pass it on once
    )
    threading.Thread(target=_listen, args=(number, worker, events), daemon=True).start()
    return worker


def _listen(number: int, worker: subprocess.Popen[str], events: "queue.Queue[Event]") -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        content = json.loads(line)
        if content["event"] != "interrupted":
            events.put(Event(number, content))
    events.put(Event(number, {"event": "gone", "code": worker.wait()}))


def _stop(workers: Sequence[subprocess.Popen[str]], interruption: Interruption) -> None:
    """Pass the signal on, wait until every cell has saved, and stop ourselves."""
    assert interruption.signal_number is not None
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.Signals(interruption.signal_number))
    for worker in workers:
        worker.wait()
    raise Interrupted(interruption.signal_number)
