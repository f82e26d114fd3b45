"""What a running sweep shows: a bar for the sweep and one for each cell; plain lines without a terminal."""

import time
from typing import Final, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from sppnet.tables.escape import clean

_LINE_EVERY_SECONDS: Final = 30.0
_WIDE: Final = 100  # columns with room for a bar


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
        if not is_quiet and time.monotonic() - self._said_at >= _LINE_EVERY_SECONDS:
            self._said_at = time.monotonic()
            self._say(f"{label}: {stage} {completed}/{total} {detail}".rstrip())

    def finish(self, label: str, line: str, *, is_cell: bool) -> None:
        """A run has ended, well or not: a cell of the table, or what cells build on."""
        if label in self._cells:
            self.bars.remove_task(self._cells.pop(label))
        self.done += is_cell
        self.bars.update(self._sweep, completed=self.done)
        self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(f"[{self.done}/{self.total}] {clean(line)}", markup=False)
