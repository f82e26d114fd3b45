"""The table sweeper: run the cells of a table that are not done, then print the table from disk.

What Hydra's own sweeper does not do: it checks every cell before the first one starts, skips what is
complete, says at once what failed and goes on, and ends with the table and an exit code.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from sppnet.artifacts import content_key, read_json, write_json
from sppnet.cli import plan
from sppnet.cli.pool import CellError, CellRun, run_side_by_side, usable_cores
from sppnet.cli.provenance import command_line, commit
from sppnet.cli.sweep_view import SweepView
from sppnet.cli.validate import validate
from sppnet.errors import ConfigError, PartialSweepError, SppnetError
from sppnet.run.directory import RunDirectory, identity


@dataclass
class TableSweeperConf:
    """No options: a table's axes stand in `table.axes`."""

    _target_: str = "hydra_plugins.hydra_sppnet_sweeper.table_sweeper.TableSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="table", node=TableSweeperConf, provider="sppnet")


@dataclass
class Job:
    """A cell with its directory and the overrides Hydra starts it with."""

    cell: plan.Cell
    directory: RunDirectory
    config: dict[str, Any]  # resolved
    overrides: list[str]
    name: str


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
        base = _resolved(self.config)
        layout = plan.lay_out(base["table"], arguments)
        plan.check_settings(layout)
        group = self._group(layout)
        jobs = [self._job(cell, base, group) for cell in plan.cells(layout, default_seed=base["seed"])]
        _check_all_differ(jobs)
        table_dir = Path(base["paths"]["runs"]) / base["table"]["name"]
        pending = [job for job in jobs if not job.directory.is_complete]
        _write_table_file(table_dir / f"table-{group}.json", _table_file(base, layout, group, jobs), pending)
        if len(pending) < len(jobs):
            print(
                f"{len(jobs) - len(pending)} of {len(jobs)} cells are complete, {len(pending)} to run",
                flush=True,
            )
        if pending and base["preset"] == "paper":
            print("preset=paper: weeks on one GPU with ImageNet; preset=mini takes minutes", file=sys.stderr)
        errors = self._run(pending, base, total=len(jobs))
        _print_table(table_dir, group)
        if errors and len(jobs) == 1:
            raise errors[0]
        if errors:
            raise PartialSweepError(
                f"{len(errors)} of {len(jobs)} cells failed (tracebacks in their run.log); "
                f"the same command runs them again"
            )
        if left := sum(not job.directory.is_complete for job in jobs):
            raise PartialSweepError(f"{left} of {len(jobs)} cells are left to another process that runs them")

    def _group(self, layout: plan.Layout) -> str:
        """Name what all cells share: the configuration without axes and seed."""
        shared = identity(_resolved(self._compose(layout.fixed)))
        # An axis of the command line's own makes another table: other rows or columns.
        own_axes = sorted(set(layout.axes) - layout.declared - {plan.SEED_AXIS})
        return content_key([own_axes, {key: value for key, value in shared.items() if key != "seed"}])[:8]

    def _job(self, cell: plan.Cell, base: dict[str, Any], group: str) -> Job:
        config = _resolved(self._compose(cell.overrides))
        validate(config)
        directory = plan.run_directory(config, cell)
        labels = base["table"]["labels"]
        names = [labels.get(name, name) for name in (cell.row, cell.column) if name != plan.ONLY_COLUMN]
        label = " · ".join(names)
        place = {"row": cell.row, "column": cell.column, "group": group, "label": label}
        overrides = [
            *cell.overrides,
            *(f"cell.{key}={_quoted(value)}" for key, value in place.items()),
            f"hydra.sweep.subdir={_quoted(directory.path.name)}",
        ]
        config["cell"] = {**config["cell"], **place}
        return Job(cell, directory, config, overrides, f"{label}, seed {cell.seed}")

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config: DictConfig = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        return config

    def _run(self, pending: Sequence[Job], base: dict[str, Any], *, total: int) -> list[BaseException]:
        """Run the pending cells: here one by one or side by side, or all at once on a cluster."""
        if not pending:
            return []
        if type(self.launcher).__name__ != "BasicLauncher":
            return self._launch(pending, total=total)
        if (jobs := base["jobs"] or usable_cores()) == 1 or len(pending) == 1:
            return [error for job in pending for error in self._launch([job], total=total)]
        return _run_side_by_side(pending, jobs=jobs, total=total, is_shown=base["progress"])

    def _launch(self, jobs: Sequence[Job], *, total: int) -> list[BaseException]:
        """Hand cells to Hydra's launcher."""
        done = total - sum(not job.directory.is_complete for job in jobs)
        errors = []
        places = [[f"cell.position={done + at}", f"cell.total={total}"] for at in range(1, len(jobs) + 1)]
        overrides = [[*job.overrides, *place] for job, place in zip(jobs, places, strict=True)]
        returns = self.launcher.launch(overrides, initial_job_idx=0)
        for job, result in zip(jobs, returns, strict=True):
            error = _error_of(result)
            errors += [error] if error is not None else []
            print(_line(job, error), file=sys.stderr, flush=True)
        return errors


def _run_side_by_side(
    pending: Sequence[Job], *, jobs: int, total: int, is_shown: bool
) -> list[BaseException]:
    by_label = {job.name: job for job in pending}
    tasks = [CellRun(job.name, job.directory.path, job.config) for job in pending]
    with SweepView(total=total, done=total - len(pending), is_shown=is_shown) as view:

        def on_step(task: CellRun, step: dict[str, Any]) -> None:
            view.update(task.label, step["stage"], step["completed"], step["total"], step["detail"])

        def on_end(task: CellRun, error: CellError | None) -> None:
            view.finish(task.label, _line(by_label[task.label], error))

        return list(run_side_by_side(tasks, jobs=jobs, on_step=on_step, on_end=on_end))


def _check_all_differ(jobs: Sequence[Job]) -> None:
    """Refuse a sweep in which two cells are one and the same run.

    Raises:
        ConfigError: Names the two cells.
    """
    first: dict[str, Job] = {}
    for job in jobs:
        key = job.directory.path.name.rpartition("-")[2]
        if key in first:
            raise ConfigError(
                f"the cells {first[key].name} and {job.name} have the same configuration: a value on the "
                f"command line overrides what makes them differ"
            )
        first[key] = job


def _error_of(result: JobReturn) -> BaseException | None:
    """What a job raised; Hydra's own property would raise it here."""
    if result.status is JobStatus.COMPLETED:
        return None
    error = result._return_value
    return error if isinstance(error, BaseException) else SppnetError(str(error))


def _line(job: Job, error: BaseException | None) -> str:
    """How a cell ended, in one line."""
    if error is None and not job.directory.is_complete:
        return f"left {job.name} to another process that runs it"
    if error is None:
        seconds = read_json(job.directory.path / "status.json").get("seconds", 0.0)
        return f"done {job.name} in {seconds:.0f} s"
    kind = error.kind if isinstance(error, CellError) else type(error).__name__
    first_line = (str(error).splitlines() or [""])[0]
    return f"FAILED {job.name}: {kind}: {first_line} (see {job.directory.path / 'run.log'})"


def _resolved(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container = OmegaConf.to_container(plain, resolve=True, enum_to_str=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _table_file(base: dict[str, Any], layout: plan.Layout, group: str, jobs: Sequence[Job]) -> dict[str, Any]:
    """What `sppnet report` needs to know of a table beside its runs."""
    table = base["table"]
    labels = table["labels"]
    return {
        "format": 1,
        "table": table["name"],
        "title": table["title"],
        "group": group,
        "preset": base["preset"],
        "reduced": base["reduced"],
        "data": base["data"]["name"],
        "created": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "commit": commit(),
        "rows": [{"id": row, "label": labels.get(row, row)} for row in plan.row_ids(layout)],
        "columns": [
            {"id": column, "label": labels.get(column, column)} for column in plan.column_ids(layout)
        ],
        "seeds": sorted({job.cell.seed for job in jobs}),
        "metrics": table["metrics"],
        "paper": table["paper"],
        "claims": table["claims"],
    }


def _write_table_file(file: Path, new: dict[str, Any], pending: Sequence[Job]) -> None:
    """Write the table's description; of an earlier one keep the rows, columns and seeds it had more.

    The command and the commit are those of the last sweep that ran anything.
    """
    if file.exists():
        old = read_json(file)
        for part in ("rows", "columns", "seeds"):
            new[part] = old[part] + [value for value in new[part] if value not in old[part]]
        if not pending:
            new |= {key: old[key] for key in ("created", "command", "commit")}
    write_json(file, new)


def _quoted(text: str) -> str:
    """A string as Hydra's override grammar takes it, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _print_table(table_dir: Path, group: str) -> None:
    from sppnet.tables import print_table, read_table

    print_table(read_table(table_dir, group))
