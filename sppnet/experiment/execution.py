"""One take of a run, from its directory: held, logged, set up as its row says, and complete at its end."""

import contextlib
import ctypes
import logging
import platform
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sppnet.artifacts import content_key, read_json, write_json
from sppnet.damage import PROVENANCE
from sppnet.errors import ArtifactError, ResourceError
from sppnet.experiment.installation import code_version, machine, software
from sppnet.experiment.making import code_named, require_allowed
from sppnet.experiment.reading import read_conf
from sppnet.experiment.stages import STAGES, Stage
from sppnet.experiment.take import RunPlan, Take
from sppnet.run.directory import PROGRESS, RunDirectory
from sppnet.run.interrupts import Interrupted, Interruption
from sppnet.sources import code_of, module_of
from sppnet.tables.escape import CleanFormatter

if TYPE_CHECKING:  # import torch and Lightning
    from sppnet.run.progress import Report

# glibc's mallopt: M_MMAP_MAX and M_TRIM_THRESHOLD.
_KEEPING: Final = {-4: 0, -1: 2**31 - 1}
_DEFAULTS: Final = {-4: 65536, -1: 128 * 1024}
log = logging.getLogger(__name__)
logging.raiseExceptions = False  # a log that cannot be written stops nothing, and prints no tracebacks


def run_in(path: Path, *, report: "Report") -> None:
    """Run what a directory's `config.yaml` says, unless it is complete or another process runs it.

    Args:
        path: The run's directory.
        report: Is told how far the run is.

    Raises:
        SppnetError: What a user can mend; the status file and run.log say it too.
        Interrupted: A signal asked to stop; the same command goes on from the checkpoint.
    """
    directory = RunDirectory(path)
    plan, config = read_plan(directory)
    interruption = Interruption()
    wait = interruption.raise_if_requested if plan.is_waited_for else None
    with interruption.listen(), directory.hold(wait=wait) as is_ours:
        if not is_ours:
            log.warning("%s: another process runs this cell; left to it", directory.path)
        elif not directory.is_complete:
            given = {key: value for key, value in config.items() if key not in ("run", "identity")}
            code = _entries(plan, config["identity"])
            _run_held(Take(plan, read_conf(given), directory, interruption, directory.noting(report)), code)


def read_plan(directory: RunDirectory) -> tuple[RunPlan, dict[str, Any]]:
    """What the run in a directory is, and all that its `config.yaml` holds.

    Raises:
        ArtifactError: Its configuration is damaged, of another version of sppnet, or names what may not run.
    """
    config = directory.read_config()
    require_allowed(config, f"{directory.path}/config.yaml", ArtifactError)
    try:
        plan = RunPlan(**config["run"])
    except TypeError as error:
        raise ArtifactError(f"{directory.path}: not a run of this version ({error}); remove it") from error
    if plan.stage not in STAGES:
        raise ArtifactError(f"{directory.path}: no stage {plan.stage!r} in this version; remove it")
    return plan, config


def _entries(plan: RunPlan, identity: Mapping[str, Any]) -> list[str]:
    """Where the code of a run begins: its stage's function, and the classes that its configuration names."""
    does = STAGES[plan.stage].does
    named = sorted(map(module_of, code_named(identity["settings"])))
    return [f"{does.__module__}:{does.__name__}", *named]


def _run_held(take: Take, code: Sequence[str]) -> None:
    row, directory, interruption = STAGES[take.plan.stage], take.directory, take.interruption
    about = describe(take.plan)
    started = time.time()
    directory.write_status("running", about=about, started=started, error=None)
    try:
        with _log_to(directory), _set_up(take, row):
            provenance = _begin_provenance(take, code, started)
            with interruption.heard_at_once():
                outcome = row.does(take)
            ended = datetime.now(tz=UTC).isoformat(timespec="seconds")
            write_json(take.path / PROVENANCE, {**provenance, "ended": ended})
            directory.write_complete(outcome.metrics, files=(PROVENANCE, *outcome.files))
    except Interrupted:
        directory.write_status("interrupted", about=about, started=started, error=None)
        raise
    except Exception as error:
        if interruption.signal_number is not None:  # what a stopping process stumbles over is not a failure
            directory.write_status("interrupted", about=about, started=started, error=None)
            raise Interrupted(interruption.signal_number) from error
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        directory.write_status("failed", about=about, started=started, error=line)
        if isinstance(error, MemoryError) or re.search(r"allocat\w* .*memory|[Oo]ut of memory", str(error)):
            raise ResourceError(
                f"out of memory ({line}); lower training.batch_size, head.width or data_loading.workers"
            ) from error
        raise
    directory.write_status("complete", about=about, started=started, error=None)
    for checkpoint in (*directory.path.glob("checkpoint-*"), directory.path / PROGRESS):
        checkpoint.unlink(missing_ok=True)  # the result has the weights; the optimiser's state has served
    interruption.raise_if_requested()  # too late for this run, in time for the next


def describe(plan: RunPlan) -> dict[str, Any]:
    """What a run's status says of it: what it does, and behind which network."""
    network = plan.below.get("network", [""])[0].rpartition("/")[2]
    return {"stage": plan.stage, "label": plan.label, "network": network}


@contextmanager
def _set_up(take: Take, row: Stage) -> Iterator[None]:
    """Torch's threads and the memory's policy for the time of a stage; then as they were."""
    import torch

    trainer = take.conf.trainer
    before = torch.get_num_threads()
    wanted = trainer.threads if row.is_threaded else 1
    torch.set_num_threads(wanted or before)
    try:
        with _freed_memory_kept(trainer.keep_memory):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _freed_memory_kept(wanted: bool) -> Iterator[None]:
    """While the block runs, glibc's malloc keeps large blocks, if that is wanted; then it gives them back.

    Large activations otherwise come fresh from the kernel at every step and pay a page fault per 4 KB: a
    training step of ZF-5 takes half the time without them. The price is that the process gives memory back
    only when it ends, so the configuration decides (`trainer.keep_memory`).
    """
    if not wanted or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for option, value in _KEEPING.items():
        libc.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in _DEFAULTS.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _begin_provenance(take: Take, code: Sequence[str], started: float) -> dict[str, Any]:
    """Write down what makes this run: code, software, machine, command; and the takes it goes on from."""
    import torch

    takes: list[dict[str, Any]] = []
    if any(take.path.glob("checkpoint-*")):  # otherwise nothing of them is left
        with contextlib.suppress(ArtifactError, KeyError, TypeError):
            takes = read_json(take.path / PROVENANCE)["takes"]
    digests = code_of(code)
    this = {
        **code_version(),
        "code": content_key(digests)[:16],
        "software": software(),
        "machine": machine(),
        "device": vars(take.conf.trainer).get("accelerator", "cpu"),
        "threads": torch.get_num_threads(),
        "workers": take.workers,
        "precision": vars(take.conf.trainer).get("precision", "32-true"),
        "command": take.plan.command,
        "started": datetime.fromtimestamp(started, tz=UTC).isoformat(timespec="seconds"),
    }
    provenance = {"key": take.plan.key, "takes": [*takes, this], "code": digests, "below": take.plan.below}
    write_json(take.path / PROVENANCE, provenance)
    return provenance


@contextmanager
def _log_to(directory: RunDirectory) -> Iterator[None]:
    """Send the log to the run's own file as well, with the traceback when the block raises."""
    stream = directory.open_log()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(CleanFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)  # in a process that somebody else has set up, too
    try:
        yield
    except Exception:
        # To the file only: the terminal gets one line, from the sweep.
        handler.emit(log.makeRecord(log.name, logging.ERROR, __file__, 0, traceback.format_exc(), (), None))
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with contextlib.suppress(OSError):  # a log that cannot be written stops nothing
            stream.close()
