"""What a running sweep shows: a bar for the sweep and one for each cell; plain lines without a terminal."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from sppnet.experiment.plan import PlannedRun, built_on
from sppnet.progress_bar import LINE_EVERY_SECONDS, time_left
from sppnet.tables.escape import clean

_WIDE: Final = 100  # columns with room for a bar
_MOST_NAMES: Final = 20  # runs of a plan that fit a screen


def plan_lines(cells: Sequence[PlannedRun], pending: Sequence[PlannedRun], *, is_full: bool) -> Iterator[str]:
    """Say what would run: every run if there are few, or a line for each stage.

    Args:
        cells: Of the table.
        pending: The runs that are to be made, each behind what it stands on.
        is_full: Whether every run is named, however many there are.
    """
    runs = [*built_on(cells), *cells]
    is_named = is_full or len(runs) <= _MOST_NAMES
    waves: dict[Path, int] = {}  # what is in one waits for those before it
    for run in pending:
        waves[run.directory.path] = 1 + max(
            (waves.get(one.directory.path, 0) for one in run.after), default=0
        )
    states: dict[str, Counter[str]] = {}
    steps: dict[str, set[int]] = {}
    for run in runs:
        state = "complete" if run.directory.is_complete else "not needed"
        if wave := waves.get(run.directory.path):
            state = "goes on" if any(run.directory.path.glob("checkpoint-*")) else "to run"
            steps.setdefault(run.plan.stage, set()).add(wave)
        states.setdefault(run.plan.stage, Counter())[state] += 1
        if is_named:
            yield f"{state:10}  {run.plan.stage:10}  {clean(run.plan.label)}"
    for stage in () if is_named else sorted(states, key=lambda stage: max(steps.get(stage, {0}))):
        ends = sorted({min(steps[stage]), max(steps[stage])}) if stage in steps else ["-"]
        told = ", ".join(f"{count} {state}" for state, count in states[stage].items())
        yield f"wave {'-'.join(map(str, ends)):4}  {stage:11}  {told}"
    number = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    in_waves = f", in {max(waves.values())} waves that wait for one another" if not is_named and waves else ""
    more = "" if is_named else "; plan=names names each run"
    yield f"{number}; {len(pending)} of {len(runs)} runs to make{in_waves}; plan=true starts none{more}"


@final
class SweepView:
    """Bars on a terminal; elsewhere a line for every finished cell and one every half minute.

    Args:
        total: Cells of the sweep.
        done: Cells that are complete already.
        is_shown: False says nothing but the lines of finished cells.

    Attributes:
        bars: Are shown while they are entered.
    """

    def __init__(self, *, total: int, done: int, is_shown: bool) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.total, self.done = total, done
        self.is_shown = is_shown
        # What is long gives way: names and details end in an ellipsis, clocks stay whole.
        name = Column(no_wrap=True, overflow="ellipsis", ratio=2)
        detail = Column(no_wrap=True, overflow="ellipsis", ratio=3)
        clock = Column(no_wrap=True, min_width=7)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=name),
            *([BarColumn(bar_width=12)] if self.console.width >= _WIDE else []),
            TextColumn(
                "{task.completed:.0f}/{task.total:.0f} {task.fields[detail]}",
                markup=False,
                table_column=detail,
            ),
            TimeElapsedColumn(table_column=clock),
            TimeRemainingColumn(table_column=clock),
            expand=True,
            get_time=time.monotonic,
            speed_estimate_period=600,  # an image may take half a minute
            console=self.console,
            transient=True,
            disable=not (is_shown and self.console.is_terminal),
        )
        self._cells: dict[str, TaskID] = {}
        self._sweep = self.bars.add_task("sweep", total=total, completed=done, detail="cells")
        self._said_at = time.monotonic()

    def update(self, label: str, stage: str, completed: int, total: int, detail: str) -> None:
        """One batch of a cell is done."""
        if label not in self._cells:
            self._cells[label] = self.bars.add_task(clean(label), total=total, detail="")
        self.bars.update(
            self._cells[label], completed=completed, total=total, detail=f"{stage} {detail}".rstrip()
        )
        is_quiet = self.console.is_terminal or not self.is_shown
        if not is_quiet and time.monotonic() - self._said_at >= LINE_EVERY_SECONDS:
            self._said_at = time.monotonic()
            left = next((one.time_remaining for one in self.bars.tasks if one.id == self._cells[label]), None)
            self._say(f"{label}: {stage} {completed}/{total} {detail}".rstrip() + time_left(left))

    def finish(self, label: str, line: str, *, is_cell: bool) -> None:
        """A run has ended, well or not: a cell of the table, or what cells build on."""
        if label in self._cells:
            self.bars.remove_task(self._cells.pop(label))
        self.done += is_cell
        self.bars.update(self._sweep, completed=self.done)
        self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(f"[{self.done}/{self.total}] {clean(line)}", markup=False)
