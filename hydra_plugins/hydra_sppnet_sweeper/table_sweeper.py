"""The table sweeper: run the cells of a table that are not done, then print the table from disk.

What Hydra's own sweeper does not do: it checks every cell before the first one starts, skips what is
complete, says at once what failed and goes on, and ends with the table and an exit code.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sppnet.artifacts import content_key, read_json
from sppnet.cli import plan
from sppnet.cli.planner import PlannedRun, Planner, check_all_differ, in_order, resolved, waves
from sppnet.cli.pool import CellError, CellRun, run_side_by_side, usable_cores
from sppnet.cli.sweep_view import SweepView
from sppnet.cli.table_file import table_file, write_table_file
from sppnet.errors import PartialSweepError, SppnetError
from sppnet.run.directory import identity


@dataclass
class TableSweeperConf:
    """No options: a table's axes stand in `table.axes`."""

    _target_: str = "hydra_plugins.hydra_sppnet_sweeper.table_sweeper.TableSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="table", node=TableSweeperConf, provider="sppnet")


class TableSweeper(Sweeper):
    """Runs what is missing of one table."""

    def __init__(self) -> None:
        super().__init__()
        self.context: HydraContext
        self.config: DictConfig
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the cells that the arguments and the experiment's axes make, but for those that are done.

        Raises:
            ConfigError: A cell could not run; nothing has been started or written.
            PartialSweepError: Some cells failed; the table has been printed all the same.
            Exception: The only cell failed, with this error.
        """
        base = resolved(self.config)
        layout = plan.lay_out(base["table"], arguments)
        plan.check_settings(layout)
        group = self._group(layout)
        planner = Planner(self._compose, repeats=layout.repeats)
        labels = base["table"]["labels"]
        cells = [
            planner.cell(cell, labels=labels, group=group)
            for cell in plan.cells(layout, default_seed=base[layout.repeats])
        ]
        check_all_differ(cells)
        table_dir = Path(base["paths"]["runs"]) / base["table"]["name"]
        num_done = sum(cell.directory.is_complete for cell in cells)
        table = table_file(base, layout, group, cells)
        write_table_file(table_dir / f"table-{group}.json", table, is_done=num_done == len(cells))
        if num_done:
            print(
                f"{num_done} of {len(cells)} cells are complete, {len(cells) - num_done} to run", flush=True
            )
        if num_done < len(cells) and base["preset"] == "paper":
            print("preset=paper: weeks on one GPU with ImageNet; preset=mini takes minutes", file=sys.stderr)
        errors = self._run(in_order(cells), base, cells)
        _print_table(table_dir, group)
        failed = [errors[cell.directory.path] for cell in cells if cell.directory.path in errors]
        if failed and len(cells) == 1:
            raise failed[0]
        if failed:
            raise PartialSweepError(
                f"{len(failed)} of {len(cells)} cells failed (tracebacks in their run.log); "
                f"the same command runs them again"
            )
        if left := sum(not cell.directory.is_complete for cell in cells):
            raise PartialSweepError(
                f"{left} of {len(cells)} cells are left to another process that runs them"
            )

    def _group(self, layout: plan.Layout) -> str:
        """Name what all cells share: the configuration without axes and seed."""
        shared = identity(resolved(self._compose(layout.fixed)))
        # An axis of the command line's own makes another table: other rows or columns.
        own_axes = sorted(set(layout.axes) - layout.declared - {layout.repeats})
        shared.pop(layout.repeats, None)
        return content_key([own_axes, shared])[:8]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        return config

    def _run(
        self, pending: Sequence[PlannedRun], base: dict[str, Any], cells: Sequence[PlannedRun]
    ) -> Mapping[Path, BaseException]:
        """Run what is pending: here one by one or side by side, or all at once on a cluster."""
        if not pending:
            return {}
        is_cluster = type(self.launcher).__name__ != "BasicLauncher"
        widest = max(len(wave) for wave in waves(pending))
        if not is_cluster and (jobs := base["jobs"] or usable_cores()) > 1 and widest > 1:
            return _run_side_by_side(pending, cells, jobs=jobs, is_shown=base["progress"])
        errors: dict[Path, BaseException] = {}
        for runs in waves(pending) if is_cluster else [[run] for run in pending]:
            ready = []
            for run in runs:
                causes = [errors[one.directory.path] for one in run.after if one.directory.path in errors]
                if causes:
                    errors[run.directory.path] = causes[0]
                    mark_lost(run, causes[0])
                    print(_line(run, causes[0]), file=sys.stderr, flush=True)
                else:
                    ready.append(run)
            errors |= self._launch(ready, cells) if ready else {}
        return errors

    def _launch(self, runs: Sequence[PlannedRun], cells: Sequence[PlannedRun]) -> dict[Path, BaseException]:
        """Hand runs to Hydra's launcher."""
        done = sum(cell.directory.is_complete for cell in cells)
        errors = {}
        places = [
            [f"cell.position={done + at}", f"cell.total={len(cells)}"] for at in range(1, len(runs) + 1)
        ]
        overrides = [[*run.overrides, *place] for run, place in zip(runs, places, strict=True)]
        returns = self.launcher.launch(overrides, initial_job_idx=0)
        for run, result in zip(runs, returns, strict=True):
            error = _error_of(result)
            if error is not None:
                errors[run.directory.path] = error
            print(_line(run, error), file=sys.stderr, flush=True)
        return errors


def mark_lost(run: PlannedRun, cause: BaseException) -> None:
    """Say in a run's directory that what it builds on has failed."""
    from sppnet.cli.cell import place_of

    line = f"{_kind(cause)}: {(str(cause).splitlines() or [''])[0]}"
    run.directory.write_status("failed", cell=place_of(run.config), started=time.time(), error=line)


def _run_side_by_side(
    pending: Sequence[PlannedRun], cells: Sequence[PlannedRun], *, jobs: int, is_shown: bool
) -> Mapping[Path, BaseException]:
    by_directory = {run.directory.path: run for run in pending}
    tasks = [
        CellRun(run.name, path, run.config, tuple(one.directory.path for one in run.after))
        for path, run in by_directory.items()
    ]
    done = sum(cell.directory.is_complete for cell in cells)
    with SweepView(total=len(cells), done=done, is_shown=is_shown) as view:

        def on_step(task: CellRun, step: dict[str, Any]) -> None:
            view.update(task.label, step["stage"], step["completed"], step["total"], step["detail"])

        def on_end(task: CellRun, error: CellError | None) -> None:
            run = by_directory[task.directory]
            if error is not None and not (task.directory / "status.json").exists():
                mark_lost(run, error)
            view.finish(task.label, _line(run, error), is_cell=run.cell is not None)

        return run_side_by_side(tasks, jobs=jobs, on_step=on_step, on_end=on_end)


def _error_of(result: JobReturn) -> BaseException | None:
    """What a job raised; Hydra's own property would raise it here."""
    if result.status is JobStatus.COMPLETED:
        return None
    error = result._return_value
    return error if isinstance(error, BaseException) else SppnetError(str(error))


def _line(run: PlannedRun, error: BaseException | None) -> str:
    """How a run ended, in one line."""
    if error is None and not run.directory.is_complete:
        return f"left {run.name} to another process that runs it"
    if error is None:
        seconds = read_json(run.directory.path / "status.json").get("seconds", 0.0)
        return f"done {run.name} in {seconds:.0f} s"
    first_line = (str(error).splitlines() or [""])[0]
    return f"FAILED {run.name}: {_kind(error)}: {first_line} (see {run.directory.path / 'run.log'})"


def _kind(error: BaseException) -> str:
    return error.kind if isinstance(error, CellError) else type(error).__name__


def _print_table(table_dir: Path, group: str) -> None:
    from sppnet.cli.report import picture_of
    from sppnet.tables import draw_curves, print_table, read_table

    table = read_table(table_dir, group)
    print_table(table, picture=draw_curves(table, picture_of(table_dir, table)))
