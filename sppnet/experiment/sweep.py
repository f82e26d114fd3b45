"""The main loop: plan the cells of a table, run those that are not done, print the table from disk.

Every command that is not a verb comes here, through Hydra: `cli.main` hands the command line to
`compose.run_experiment`, Hydra reads it and calls its sweeper, hydra_plugins/hydra_sppnet_sweeper, which
calls `sweep`. What Hydra's own sweeper does not do: every cell is checked before the first one starts, what
is complete is skipped, failures are told at once and the others go on, and it ends with the table and an exit
code.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from sppnet.artifacts import content_key, read_json
from sppnet.errors import ConfigError, PartialSweepError, ResourceError
from sppnet.experiment import layout
from sppnet.experiment.checks import check_images
from sppnet.experiment.compose import allowed, plain_of
from sppnet.experiment.contents import Contents
from sppnet.experiment.detector_testing import SHEET
from sppnet.experiment.installation import device_of, require_device, usable_cores
from sppnet.experiment.plan import PlannedRun, Planner, built_on, check_all_differ, in_order
from sppnet.experiment.reading import deciding, narrowed, read_conf
from sppnet.experiment.runners import Ended, Here, Launch, Launched, RunError, run_all
from sppnet.experiment.schema import Conf
from sppnet.experiment.stages import STAGES, read_by_tables_of
from sppnet.experiment.sweep_view import SweepView, plan_lines
from sppnet.experiment.table_file import table_file, write_table_file
from sppnet.experiment.workers import SideBySide
from sppnet.tables.provenance import changes_since
from sppnet.tables.results import read_table
from sppnet.tables.terminal import print_table

_DoneT = TypeVar("_DoneT")


def sweep(
    master: DictConfig,
    arguments: Sequence[str],
    *,
    compose: Callable[[Sequence[str]], DictConfig],
    loader: ConfigLoader,
    launch: Launch | None,
) -> None:
    """Run the cells that the arguments and the experiment's axes make, but for those that are done.

    Args:
        master: The configuration without what is swept.
        arguments: Of the command line.
        compose: From a cell's overrides to its configuration.
        loader: Knows the options of groups, for `pyramid=glob(bins*)`.
        launch: Starts jobs elsewhere; None runs here.

    Raises:
        ConfigError: A cell could not run; nothing has been started or written.
        PartialSweepError: Some cells failed; the table has been printed all the same.
        RunError: The only cell failed.
    """
    base = allowed(plain_of(master))
    conf = read_conf(base)
    laid = layout.lay_out(base["table"], arguments, loader)
    layout.check_settings(laid)
    contents = Contents(Path(conf.paths.cache))
    planner = Planner(compose, laid.repeats, contents)
    made = layout.cells(laid, default_repeat=base[laid.repeats])
    cells = _all_of(laid, made, lambda number: planner.cell(made[number], labels=conf.table.labels))
    check_all_differ(cells)
    group = _group(plain_of(planner.composed(laid.fixed)), laid, contents, cells[0].plan.stage)
    pending = _pending(cells, reruns_stale=conf.stale == "rerun" and not conf.plan)
    if pending:
        from sppnet.experiment.network import check_geometry  # imports torch to check, so not before

        waiting = [cell for cell in cells if cell in pending]
        places = [cell.cell for cell in waiting if cell.cell is not None]
        _all_of(laid, places, lambda number: check_geometry(waiting[number].conf))
    if launch is None:
        for run in pending:
            require_device(run.given["trainer"].get("accelerator", "cpu"))  # proposals need none
    _check_images(pending, is_said=bool(conf.plan))
    if conf.plan:
        print("\n".join(plan_lines(cells, pending, is_full=conf.plan == "names")))
        return
    with contextlib.suppress(ResourceError):  # costs the next command some time only
        contents.keep()
    num_done = len(cells) - sum(cell in pending for cell in cells)
    table_dir = Path(conf.paths.runs) / conf.table.name
    table = table_file(conf, laid, group, cells)
    write_table_file(table_dir / f"table-{group}.json", table, is_done=num_done == len(cells))
    if num_done:
        print(f"{num_done} of {len(cells)} cells are complete, {len(cells) - num_done} to run", flush=True)
    if num_done < len(cells) and conf.preset == "paper":
        print("preset=paper: weeks on one GPU with ImageNet; preset=mini takes minutes", file=sys.stderr)
    errors = _run(pending, cells, conf, launch)
    print_table(read_table(table_dir, group), table_dir)
    if any(table_dir.glob(f"*/{SHEET}")):
        print(f"what was detected: {table_dir}/*/{SHEET}")
    _end(cells, errors)


def _all_of(
    laid: layout.Layout, cells: Sequence[layout.Cell], do: "Callable[[int], _DoneT]"
) -> "list[_DoneT]":
    """Do something for every cell, given its place.

    Raises:
        ConfigError: Some cannot run; says how the others can.
    """
    done: list[_DoneT] = []
    refused: list[tuple[layout.Cell, ConfigError]] = []
    for number, cell in enumerate(cells):
        try:
            done.append(do(number))
        except ConfigError as error:
            refused.append((cell, error))
    if not refused:
        return done
    first, cause = refused[0]
    if not done:
        raise cause
    raise ConfigError(
        f"{cause} (so says {first.row}, {first.column}; {len(refused)} of {len(cells)} cells cannot run: "
        f"leave them out with {layout.skipping(laid, [cell for cell, _ in refused])})"
    ) from cause


def _check_images(pending: Sequence[PlannedRun], *, is_said: bool) -> None:
    """List what pending runs will look at, each folder once: what is missing is found before anything runs.

    Raises:
        SppnetError: The images are not what a run needs.
    """
    looked: set[str] = set()
    before = logging.root.manager.disable
    logging.disable(before if is_said else logging.WARNING)  # what is strange in them their runs will say
    try:
        for run in pending:
            for name in {"data", "target"}.intersection(STAGES[run.plan.stage].reads):
                part = {
                    key: value for key, value in vars(run.conf)[name].items() if key not in ("seed", "sizes")
                }
                key = json.dumps([name, part, run.given.get("transfer")], sort_keys=True)
                if key not in looked:
                    looked.add(key)
                    check_images(run.conf, name)
    finally:
        logging.disable(before)


def _group(base: dict[str, Any], laid: layout.Layout, contents: Contents, stage: str) -> str:
    """Name what all cells share: the configuration that their stages read, without axes and repeats."""
    base["trainer"]["accelerator"] = device_of(base["trainer"]["accelerator"])
    reads = read_by_tables_of(stage)
    shared = deciding(contents.named(narrowed(base, reads)), reads)
    shared.pop(laid.repeats, None)
    # An axis of the command line's own makes another table: other rows or columns.
    own_axes = sorted(set(laid.axes) - laid.declared - {laid.repeats})
    return content_key([own_axes, shared])[:8]


def _pending(cells: Sequence[PlannedRun], *, reruns_stale: bool) -> list[PlannedRun]:
    """The runs that are to be made, each once and behind all it stands on.

    Nothing below what is complete, but for what is damaged.
    """
    damaged = []
    for run in [*built_on(cells), *cells]:
        if damage := run.directory.damage:
            damaged.append(run)
            print(f"damaged: {damage}; the run is made again", file=sys.stderr)
        elif reruns_stale and run.directory.is_complete and changes_since(run.directory.path):
            run.directory.reopen()
    return in_order([*damaged, *cells], lambda run: not run.directory.is_complete)


def _run(
    pending: Sequence[PlannedRun], cells: Sequence[PlannedRun], conf: Conf, launch: Launch | None
) -> dict[Path, RunError]:
    """Run what is pending, and show it."""
    if not pending:
        return {}
    done = sum(cell.directory.is_complete for cell in cells)
    view = SweepView(total=len(cells), done=done, is_shown=conf.progress)
    with view.bars:

        def on_step(run: PlannedRun, step: dict[str, Any]) -> None:
            view.update(run.plan.label, step["stage"], step["completed"], step["total"], step["detail"])

        told: set[str] = set()

        def on_end(ended: Ended) -> None:
            line = _line(ended, told, is_told_last=len(cells) == 1)
            view.finish(ended.run.plan.label, line, is_cell=ended.run.cell is not None)

        if launch is not None:
            return run_all(pending, Launched(launch), on_end)
        room = min(conf.jobs or usable_cores(), len(pending))
        if room == 1 or _is_a_chain(pending):
            return run_all(pending, Here(on_step), on_end)
        with SideBySide.with_workers(room, on_step) as runner:
            return run_all(pending, runner, on_end)


def _is_a_chain(pending: Sequence[PlannedRun]) -> bool:
    """Whether each run stands on the one before it, so that nothing could run beside another."""
    return all(before in run.after for before, run in zip(pending, pending[1:], strict=False))


def _line(ended: Ended, told: set[str], *, is_told_last: bool) -> str:
    """How a run ended, in one line; a cause is told once, and the only cell's when all has ended."""
    name, path = ended.run.plan.label, ended.run.directory.path
    if ended.error is not None:
        cause = "of the same" if str(ended.error) in told else ended.error.line
        told.add(str(ended.error))
        see = f" (see {path / 'run.log'})" if (path / "run.log").exists() else ""
        return f"FAILED {name}{see}" if is_told_last else f"FAILED {name}: {cause}{see}"
    if not ended.run.directory.is_complete:
        return f"left {name} to another process that runs it"
    return f"done {name} in {read_json(path / 'status.json').get('seconds', 0.0):.0f} s"


def _end(cells: Sequence[PlannedRun], errors: dict[Path, RunError]) -> None:
    failed = [errors[cell.directory.path] for cell in cells if cell.directory.path in errors]
    if errors and (len(cells) == 1 or not failed):  # or what complete cells stand on is damaged, and stays so
        raise (failed or [*errors.values()])[0]
    if failed:
        raise PartialSweepError(
            f"{len(failed)} of {len(cells)} cells failed (tracebacks in their run.log); "
            f"the same command runs them again"
        )
    if left := sum(not cell.directory.is_complete for cell in cells):
        raise PartialSweepError(f"{left} of {len(cells)} cells are left to another process that runs them")
