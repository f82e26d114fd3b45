"""From a directory of runs to one table: which cells there are, and what each measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sppnet.artifacts import read_json
from sppnet.errors import ArtifactError, ConfigError, DataError
from sppnet.tables.cells import build
from sppnet.tables.claims import judge
from sppnet.tables.escape import clean
from sppnet.tables.runs import read_cells, read_named
from sppnet.tables.table import Table

FORMAT = 2
_FIRST = "run a table first: sppnet experiment=table2 preset=mini"


def read_table(directory: Path, group: str | None = None) -> Table:
    """Read a table and every run that belongs to it.

    Args:
        directory: `runs/<table>`, or one `table-<group>.json` in it.
        group: Base configuration, 8 hex digits; None for the one written last.

    Raises:
        DataError: No such directory.
        ArtifactError: It holds no table, or the table file is damaged or of another format.
        ConfigError: It has no such group.
    """
    if directory.is_file():
        directory, group = directory.parent, group or _group_of(directory)
    files = {_group_of(file): file for file in table_files(directory)}
    if group is not None and group not in files:
        raise ConfigError(f"{directory}: no group {group!r}; --group is one of {', '.join(files)}")
    group = group or next(iter(files))
    others = [other for other in files if other != group]
    notes = [_others(directory, others)] if others else []
    raw = read_json(files[group])
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise ArtifactError(
            f"{files[group]}: format {found!r}, this sppnet reads {FORMAT}; run the table's command again"
        )
    try:
        runs, run_notes = read_cells(directory, raw["cells"])
        built_on = read_named(directory.parent, raw.get("built_on", []))
        table = build(raw, group, runs, built_on, [*notes, *run_notes])
        return replace(table, claims=judge(table, raw["claims"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        found = clean(f"{type(error).__name__}: {error}")
        raise ArtifactError(
            f"{files[group]}: not a table file ({found}); run the table's command again"
        ) from error


def table_files(directory: Path) -> list[Path]:
    """List the table files of one directory, newest first.

    Raises:
        DataError: No such directory.
        ArtifactError: It holds none.
    """
    if not directory.is_dir():
        there_are = sorted({file.parent.name for file in directory.parent.glob("*/table-*.json")})
        step = f"there are {', '.join(there_are)}" if there_are else _FIRST
        raise DataError(f"{directory}: no such directory; {step}")
    files = sorted(directory.glob("table-*.json"), key=_age_order)
    if not files:
        raise ArtifactError(
            f"{directory}: no table-<group>.json in it; name a directory such as runs/table2, or {_FIRST}"
        )
    return files


def table_directories(root: Path) -> list[Path]:
    """List `root` if it is or holds a table, else its children that do, newest table first.

    Raises:
        DataError: No such directory.
        ArtifactError: No table in it or one level below.
    """
    files = sorted(root.glob("*/table-*.json"), key=_age_order)
    if root.is_file() or any(root.glob("table-*.json")):
        return [root]
    if not files:
        table_files(root)
    return list(dict.fromkeys(file.parent for file in files))


def _others(directory: Path, groups: Sequence[str]) -> str:
    """Say what else is in a directory of tables."""
    number = "an earlier table" if len(groups) == 1 else f"{len(groups)} earlier tables"
    more = f" ... {groups[-1]}" if len(groups) > 3 else ""
    return (
        f"{directory} also holds {number} of other settings: sppnet report {directory} --group "
        f"{' or '.join(groups[:3])}{more}; table.name=NAME keeps the next one apart"
    )


def _age_order(file: Path) -> tuple[int, str]:
    return -file.stat().st_mtime_ns, file.name


def _group_of(table_file: Path) -> str:
    return table_file.stem.removeprefix("table-")
