"""What a table is once it has been read: settings, cells, measurements and judged claims.

Disk keeps fractions; from here on every number is in the unit that is printed, rounded to ten digits:
binary noise (100 * 0.285 is 28.499999999999996) would turn a tie into a win.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

RunState = Literal["complete", "running", "failed", "interrupted", "damaged"]
# "reference": a row of other methods, which has the paper's numbers only.
CellStatus = Literal[
    "complete", "partial", "running", "failed", "interrupted", "damaged", "missing", "reference"
]


class Setting(NamedTuple):
    """A named row or column."""

    id: str
    label: str


@dataclass(frozen=True)
class Metric:
    """One number a run leaves, and how it is printed.

    Attributes:
        key: Its name in `metrics.json`, `stage/metric`.
        id: Short name.
        label: Heading, with the unit.
        unit: "percent" (a fraction on disk) or anything else (printed as it is on disk).
        lower_is_better: True of errors and times.
        rows: Ids of the rows that measure it; None: all.
    """

    key: str
    id: str
    label: str
    unit: str
    lower_is_better: bool
    rows: tuple[str, ...] | None

    def is_of(self, row: str) -> bool:
        """Whether a row measures it."""
        return self.rows is None or row in self.rows

    def printed(self, value: float) -> float:
        """Convert a value on disk into the printed unit."""
        return 100 * value if self.unit == "percent" else value

    def text(self, value: float) -> str:
        """Print a number of this metric: two decimals, three under one if it is no percentage."""
        decimals = 2 if self.unit == "percent" or abs(value) >= 1 else 3
        text = f"{value:.{decimals}f}"
        return text.lstrip("-") if float(text) == 0 else text

    def signed_text(self, value: float) -> str:
        """Print a difference with its sign; none on a zero."""
        text = self.text(value)
        return text if text.startswith("-") or float(text) == 0 else f"+{text}"


@dataclass(frozen=True)
class Measurement:
    """One metric of one cell, in the printed unit.

    Attributes:
        ours: Mean over the complete seeds; None without any.
        std: Sample standard deviation over them; None under two.
        n: Number of complete seeds that measured it.
        paper: The paper's number, where it gives one.
    """

    ours: float | None
    std: float | None
    n: int
    paper: float | None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        return None if self.ours is None or self.paper is None else round(self.ours - self.paper, 10)


@dataclass(frozen=True)
class Run:
    """One run directory: a cell for one seed.

    Attributes:
        directory: Where it is.
        group: Base configuration it belongs to.
        row: Id of its row.
        column: Id of its column.
        seed: Its seed.
        state: What is on disk, not what the run last said of itself.
        seconds: Time it took, as far as it got.
        error: One line on what went wrong.
        host: Machine that ran it.
        started: When its last take began, seconds since 1970.
        metrics: Finite numbers of its verified `metrics.json`, fractions; empty unless complete.
    """

    directory: Path
    group: str
    row: str
    column: str
    seed: int
    state: RunState
    seconds: float | None
    error: str | None
    host: str | None
    started: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Cell:
    """One row under one column, over all seeds.

    Attributes:
        row: Id of the row.
        column: Id of the column.
        status: "complete" only when every seed of the table is.
        seeds: State of each seed of the table, "missing" included.
        measured: Measurement of every metric of the table, by key.
        num_images: Test images behind the numbers.
    """

    row: str
    column: str
    status: CellStatus
    seeds: Mapping[int, CellStatus]
    measured: Mapping[str, Measurement]
    num_images: int | None


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, judged by our cells.

    Attributes:
        id: Short name.
        text: The statement, with its section.
        holds: None while too few cells are finished.
        detail: By how much in each place, beside the paper, and against the spread.
    """

    id: str
    text: str
    holds: bool | None
    detail: str


@dataclass(frozen=True)
class Table:
    """One table of the paper as one sweep on disk has it.

    Attributes:
        name: "table2".
        title: Its heading, without the preset.
        group: Base configuration the cells share, 8 hex digits.
        preset: "paper" or a reduced one.
        data: Data set in words.
        reduced: What the preset makes smaller, one line each.
        command: Command that runs it.
        commit: Version control revision it ran at.
        created: ISO time of the last sweep that ran anything.
        rows: In printed order.
        columns: In printed order.
        seeds: Seeds (or random splits) each cell should have.
        repeats: What they are: "seed" or "split".
        metrics: The first is the headline.
        cells: One per (row id, column id), rows outermost.
        claims: Judged.
        runs: Every run directory of the group.
        built_on: The runs they look at: networks, features, members of ensembles.
        curve: What the columns measure, if the rows are curves.
        per_class: How the keys of what is measured class by class begin; None if nothing is.
        notes: What the reader should know of the reading: other groups, damaged runs.
    """

    name: str
    title: str
    group: str
    preset: str
    data: str
    reduced: tuple[str, ...]
    command: str
    commit: str | None
    created: str | None
    rows: tuple[Setting, ...]
    columns: tuple[Setting, ...]
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    cells: Mapping[tuple[str, str], Cell]
    claims: tuple[Claim, ...]
    runs: tuple[Run, ...]
    built_on: tuple[Run, ...]
    curve: str | None
    per_class: str | None
    repeats: str
    notes: tuple[str, ...]

    @property
    def heading(self) -> str:
        """The title; a preset that is not the paper's is stated in it."""
        return self.title if self.preset == "paper" else f"{self.title} ({self.scale})"

    @property
    def scale(self) -> str:
        """What the preset says about the numbers."""
        return f"preset {self.preset}" + ("" if self.preset == "paper" else ": not the paper's scale")

    @property
    def seconds(self) -> float:
        """Time of all its runs together, training included."""
        return sum((run.seconds or 0.0 for run in (*self.runs, *self.built_on)), start=0.0)

    @property
    def span(self) -> float:
        """Seconds from the first run's start to the last one's end."""
        runs = (*self.runs, *self.built_on)
        timed = [(run.started, run.seconds) for run in runs if run.started and run.seconds]
        if not timed:
            return 0.0
        return max(start + length for start, length in timed) - min(start for start, _ in timed)
