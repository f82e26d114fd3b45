"""One run: held, logged, and complete at its end, whatever its stage does."""

import logging
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sppnet.cli.stage import Stage
from sppnet.cli.stages import STAGES
from sppnet.cli.sweep_view import SweepView
from sppnet.errors import ResourceError
from sppnet.run.directory import RunDirectory
from sppnet.run.interrupts import Interrupted, Interruption

if TYPE_CHECKING:  # import torch and Lightning
    from sppnet.run.progress import Report

log = logging.getLogger(__name__)


def run_cell(config: DictConfig) -> None:
    """Run the cell whose directory Hydra has chosen, in this process; called by Hydra's launcher."""
    with SweepView(total=config.cell.total, done=config.cell.position - 1, is_shown=config.progress) as view:
        run_in(
            Path(HydraConfig.get().runtime.output_dir),
            config,
            report=lambda step: view.update(config.cell.label, *step),
        )


def run_in(path: Path, config: DictConfig, *, report: "Report") -> None:
    """Run one cell in its directory, unless it is complete or another process runs it.

    Args:
        path: The run's directory.
        config: The whole configuration.
        report: Is told how far the cell is.

    Raises:
        SppnetError: What a user can mend; the status file and run.log say it too.
        Interrupted: A signal asked to stop; the same command goes on from the checkpoint.
    """
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    settings = {str(key): value for key, value in plain.items()}
    directory = RunDirectory(path)
    interruption = Interruption()
    # A run without a place in a table is one that others build on: worth waiting for.
    wait = None if settings["cell"]["group"] else interruption.raise_if_requested
    with interruption.listen(), directory.hold(settings, wait=wait) as ours:
        if not ours:
            log.warning("%s: another process runs this cell; left to it", directory.path)
        elif not directory.is_complete:
            _run_held(Stage(config, settings, directory, interruption, report))


def _run_held(stage: Stage) -> None:
    settings, directory, interruption = stage.settings, stage.directory, stage.interruption
    cell = place_of(settings)
    started = time.time()
    directory.write_status("running", cell=cell, started=started, error=None)
    try:
        with _log_to(directory.path / "run.log"):
            outcome = STAGES[settings["cell"]["stage"]](stage)
            directory.write_complete(outcome.metrics, files=outcome.files)
    except Interrupted:
        directory.write_status("interrupted", cell=cell, started=started, error=None)
        raise
    except Exception as error:
        if interruption.signal_number is not None:  # what a stopping process stumbles over is not a failure
            directory.write_status("interrupted", cell=cell, started=started, error=None)
            raise Interrupted(interruption.signal_number) from error
        line = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        directory.write_status("failed", cell=cell, started=started, error=line)
        if isinstance(error, MemoryError):
            raise ResourceError(f"out of memory ({line}); lower training.batch_size") from error
        raise
    directory.write_status("complete", cell=cell, started=started, error=None)
    for checkpoint in directory.path.glob("checkpoint-*"):
        checkpoint.unlink()  # the result has the weights; the optimiser's state has served
    interruption.raise_if_requested()  # too late for this cell, in time for the next


def place_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's status says of its place: in its table, and behind which network."""
    cell = settings["cell"]
    place = {key: cell[key] for key in ("group", "row", "column")}
    return {**place, "seed": cell["repeat"], "network": Path(cell["network"]).name}


@contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Send the log to the run's own file as well, with the traceback when the block raises."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        # To the file only: the terminal gets one line, from the sweep.
        handler.emit(log.makeRecord(log.name, logging.ERROR, __file__, 0, traceback.format_exc(), (), None))
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
