"""What a table is once it has been read: settings, cells, measurements and judged claims.

Disk keeps fractions; from here on every number is in the unit that is printed, rounded to ten digits:
binary noise (100 * 0.285 is 28.499999999999996) would turn a tie into a win.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from sppnet.tables.judgement import Claim, Learned, unlearned
from sppnet.tables.provenance import Provenance

RunState = Literal["complete", "running", "failed", "interrupted", "damaged"]
# "reference": a row of other methods, which has the paper's numbers only.
CellStatus = Literal[RunState, "partial", "missing", "reference"]
MARK_OF_STALE: Final = "†"


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
        of: Key of the number in `metrics.json` that this one compares, if it is how many times ...
        over: ... as much of that the cell of this column has in the same row.
    """

    key: str
    id: str
    label: str
    unit: str
    lower_is_better: bool
    rows: tuple[str, ...] | None
    of: str | None = None
    over: str | None = None

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
        values: Of every complete seed (or split), by its number.
        is_comparable: Whether ours was measured on the data that the paper's was.
        paper_std: The deviation that the paper gives of its number.
    """

    ours: float | None
    std: float | None
    n: int
    paper: float | None
    values: Mapping[int, float]
    is_comparable: bool = True
    paper_std: float | None = None

    @classmethod
    def of(
        cls, values: Mapping[int, float], *, paper: float | None = None, is_comparable: bool = True
    ) -> "Measurement":
        """Mean and deviation over seeds (or splits) of values in the printed unit."""
        rounded = {repeat: round(value, 10) for repeat, value in values.items()}
        return cls(
            ours=round(statistics.fmean(rounded.values()), 10) if rounded else None,
            std=round(statistics.stdev(rounded.values()), 10) if len(rounded) > 1 else None,
            n=len(rounded),
            paper=paper,
            values=rounded,
            is_comparable=is_comparable,
        )

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's; None where they are of different data."""
        if self.ours is None or self.paper is None or not self.is_comparable:
            return None
        return round(self.ours - self.paper, 10)


@dataclass(frozen=True)
class Run:
    """One run directory: a cell for one seed, or what cells stand on.

    Attributes:
        directory: Where it is.
        row: Id of its row, of a table's cell.
        column: Id of its column.
        repeat: Its seed, or split.
        stage: What it does.
        state: What is on disk, not what the run last said of itself.
        seconds: Time it took, as far as it got.
        error: One line on what went wrong.
        host: Machine that ran it.
        started: When its last take began, seconds since 1970.
        metrics: Finite numbers of its verified `metrics.json`, fractions; empty unless complete.
        provenance: What made it; None if it does not say.
        changes: What of its code, or of the runs below it, has changed since: it is stale if there is any.
        replicates: Metrics over test images drawn anew, a number a draw; fractions.
        hits: Of metrics that are shares of images, "1" for every image that counts, in their order.
    """

    directory: Path
    row: str
    column: str
    repeat: int
    stage: str
    state: RunState
    seconds: float | None
    error: str | None
    host: str | None
    started: float | None
    metrics: Mapping[str, float]
    provenance: Provenance | None
    changes: tuple[str, ...]
    replicates: Mapping[str, Sequence[float]]
    hits: Mapping[str, str]

    @property
    def first_change(self) -> str:
        """What has changed since, in short; nothing of a fresh run."""
        more = f" and {len(self.changes) - 1} more" if len(self.changes) > 1 else ""
        return f"{self.changes[0]}{more}" if self.changes else ""


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
        is_stale: Whether a number in it was made by code that has changed since.
    """

    row: str
    column: str
    status: CellStatus
    seeds: Mapping[int, CellStatus]
    measured: Mapping[str, Measurement]
    num_images: int | None
    is_stale: bool = False


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
        created: ISO time of the last sweep that ran anything.
        rows: In printed order.
        columns: In printed order.
        seeds: Seeds (or random splits) each cell should have.
        repeats: What they are: "seed" or "split".
        metrics: The first is the headline.
        cells: One per (row id, column id), rows outermost.
        claims: Judged.
        runs: Every run that is a cell of it.
        built_on: The runs they look at: networks, features, members of ensembles.
        curve: What the columns measure, if the rows are curves.
        paper_data: What the paper's numbers were measured on.
        per_class: How the keys of what is measured class by class begin; None if nothing is.
        paper_per_class: The paper's numbers of classes, by row (or other method) and column.
        notes: What the reader should know of the reading: other groups, damaged runs.
        is_demonstration: Whether the images are generated: no claim of the paper is of those.
        learned: What networks must have come to.
        plans: What was to be compared and how, by digest, with the time it was written down: before the runs.
    """

    name: str
    title: str
    group: str
    preset: str
    data: str
    reduced: tuple[str, ...]
    command: str
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
    paper_data: tuple[str, ...]
    per_class: str | None
    paper_per_class: Mapping[tuple[str, str], Mapping[str, float]]
    repeats: str
    notes: tuple[str, ...]
    is_demonstration: bool
    learned: Learned
    plans: tuple[Mapping[str, Any], ...]

    def unlearned(self, row: str, column: str) -> str | None:
        """Say why a cell's networks had not learned to the end; None if they had, or come from elsewhere."""
        names = {setting.id: setting.label for setting in (*self.rows, *self.columns)}
        label = " · ".join(names[one] for one in (row, column) if one != "result")
        for run in self.runs:
            if (run.row, run.column) == (row, column) and run.state == "complete":
                said = unlearned(run.metrics, self.learned)
                if said is not None:
                    return f"{label}: {said}"
        return None

    def has_paper(self, metric: Metric) -> bool:
        """Whether the paper has a number of a metric."""
        return any(cell.measured[metric.key].paper is not None for cell in self.cells.values())

    def is_compared(self, metric: Metric) -> bool:
        """Whether some number of ours and the paper's are of the same data, so that they are subtracted."""
        cells = (cell for cell in self.cells.values() if cell.status != "reference")
        return any(cell.measured[metric.key].is_comparable for cell in cells)

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
    def made_by(self) -> dict[str, str]:
        """What made its runs, each with all the values there are: commits, versions, machines."""
        takes = [
            take for run in (*self.runs, *self.built_on) if run.provenance for take in run.provenance.takes
        ]
        commits = [run.provenance.commit for run in (*self.runs, *self.built_on) if run.provenance]
        packages = dict.fromkeys(name for take in takes for name in take.get("software", {}))
        made = {"commit": commits} | {
            name: [str(take.get("software", {}).get(name, "unknown")) for take in takes] for name in packages
        }
        made |= {name: [str(take.get(name)) for take in takes] for name in ("machine", "device", "precision")}
        return {name: ", ".join(dict.fromkeys(values)) or "unknown" for name, values in made.items()}

    @property
    def span(self) -> float:
        """Seconds from the first run's start to the last one's end."""
        runs = (*self.runs, *self.built_on)
        timed = [(run.started, run.seconds) for run in runs if run.started and run.seconds]
        if not timed:
            return 0.0
        return max(start + length for start, length in timed) - min(start for start, _ in timed)
