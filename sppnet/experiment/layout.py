"""From a table's axes and a command line to its cells: what each is called and whether it is done.

Pure functions over configurations: no torch, no files but those that say what is done.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser

from sppnet.errors import ConfigError
from sppnet.experiment.command_line import did_you_mean, plain_value
from sppnet.experiment.installation import conf_dir

ONLY_COLUMN = "result"
# Keys and groups whose value is read once for all cells.
_OF_TABLES: Final = frozenset(
    {"experiment", "preset", "table", "reduced", "jobs", "progress", "stale", "plan"}
    | {"paths.runs", "paths.cache", "hydra", "hydra/launcher", "run_directory"}
)


class Layout(NamedTuple):
    """Which axes there are and how they make rows and columns."""

    axes: dict[str, list[str]]  # axis -> the values of this sweep
    shown: dict[str, list[str]]  # axis -> all values the table has, of the experiment and of this sweep
    fixed: list[str]  # overrides that are alike for all cells
    columns: str | None
    rows: list[str]
    declared: frozenset[str]  # axes of the experiment: their values are the keys of the paper's numbers
    repeats: str  # the axis over whose values a cell's mean and deviation are taken
    skip: list[dict[str, Any]]  # choices that the table does not have: axis -> its values
    spelt: Mapping[str, str]  # axes that the command line adds or forces: +backbone.rate

    def name(self, axis: str, value: str) -> str:
        """What a value is called in a table: 5 training images a class are `per_class=5`."""
        value = plain_value(value).replace("$\\{", "${").replace("\\}", "}")  # as Hydra hands ${KEY} on
        speaks_for_itself = axis in self.declared or value[:1].isalpha()
        return value if speaks_for_itself else f"{axis.rpartition('.')[2]}={value}"


class Cell(NamedTuple):
    """One run to be."""

    overrides: list[str]
    row: str
    column: str
    repeat: int  # the seed, or whatever axis cells repeat over
    choice: Mapping[str, str] = {}  # its value on each other axis


def lay_out(table: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader | None = None) -> Layout:
    """Merge an experiment's axes with the command line's.

    `backbone=zf5` narrows an axis of the experiment, `backbone=zf5,overfeat7` replaces its values,
    `data.per_class=5,10` adds an axis; everything else holds for all cells.

    Raises:
        ConfigError: The table names an axis for its rows or columns that it does not have, or a key is swept
            that holds for a whole table.
    """
    axes: dict[str, list[str]] = {
        name: [str(value) for value in values] for name, values in table["axes"].items()
    }
    shown = {name: list(values) for name, values in axes.items()}
    fixed: list[str] = []
    spelt: dict[str, str] = {}
    for override in OverridesParser.create(loader).parse_overrides(list(arguments)):
        prefixed = str(override.get_key_element())
        key = prefixed.lstrip("+~")
        if override.is_sweep_override():
            if key in _OF_TABLES or key.partition(".")[0] in _OF_TABLES:
                raise ConfigError(
                    f"{override.input_line}: holds for a whole table and cannot be swept; give one, and run "
                    f"the command again for the next (a comma in a name goes between quotes)"
                )
            if not override.is_discrete_sweep():
                raise ConfigError(
                    f"{override.input_line}: only lists of values can be swept, e.g. seed=0,1,2"
                )
            axes[key] = list(override.sweep_string_iterator())
            if not axes[key]:
                raise ConfigError(
                    f"{override.input_line}: no value fits; sppnet --help lists options of groups"
                )
        elif key in axes and not override.is_delete():
            axes[key] = [override.get_value_element_as_str()]
        else:
            fixed.append(str(override.input_line))
            continue
        if prefixed != key != table["repeats"]:
            spelt[key] = prefixed
        shown[key] = list(dict.fromkeys([*shown.get(key, []), *axes[key]]))
    for part in ("rows", "columns"):
        if table[part] is not None and table[part] not in axes:
            raise ConfigError(
                f"table.{part}={table[part]}: not an axis of this sweep ({', '.join(axes) or 'none'})"
            )
    for axis in (axis for rule in table["skip"] for axis in rule if axis not in axes):
        raise ConfigError(
            f"table.skip: {axis} is not an axis of this sweep{did_you_mean(axis, [*axes])}; there are "
            f"{', '.join(axes) or 'none'}"
        )
    free: list[str] = [name for name in axes if name != table["repeats"]]
    columns: str | None = table["columns"] or (free[-1] if len(free) > 1 else None)
    rows = [name for name in free if name != columns]
    if table.get("curve") is not None and not all(map(_is_number, shown.get(columns or "", ["none"]))):
        raise ConfigError(
            f"table.curve={table['curve']}: a curve needs columns that are numbers; table.columns="
            f"{columns or 'null'} has {', '.join(shown.get(columns or '', ['one column']))}"
        )
    declared = frozenset(table["axes"])
    return Layout(axes, shown, fixed, columns, rows, declared, table["repeats"], table["skip"], spelt)


def cells(layout: Layout, *, default_repeat: int) -> list[Cell]:
    """All cells of a sweep, rows outermost, repeats innermost.

    Raises:
        ConfigError: The table has none of them, or a repeat is no whole number.
    """
    names = sorted(layout.axes, key=lambda name: (name == layout.repeats, list(layout.axes).index(name)))
    made = []
    for values in itertools.product(*(layout.axes[name] for name in names)):
        choice = dict(zip(names, values, strict=True))
        if _is_skipped(layout, choice):
            continue
        overrides = [f"{layout.spelt.get(name, name)}={value}" for name, value in choice.items()]
        place = _place(layout, choice)
        repeat = choice.pop(layout.repeats, str(default_repeat))
        if not repeat.isdecimal():
            raise ConfigError(f"{layout.repeats}={repeat}: must be a whole number of 0 or more")
        made.append(Cell([*layout.fixed, *overrides], *place, int(repeat), choice))
    if not made:
        asked = ", ".join(f"{name}={','.join(values)}" for name, values in layout.axes.items())
        raise ConfigError(f"the table has none of the cells {asked}; see table.skip in its experiment file")
    return made


def skipping(layout: Layout, unwanted: Iterable[Cell]) -> str:
    """What on a command line leaves some cells out, beside those that the table does not have."""
    rules = [{axis: list(map(str, values)) for axis, values in rule.items()} for rule in layout.skip]
    rules += [{axis: [value] for axis, value in cell.choice.items()} for cell in unwanted]
    texts = dict.fromkeys(
        "{" + ",".join(f"{axis}:[{','.join(values)}]" for axis, values in rule.items()) + "}"
        for rule in rules
    )
    return f"'table.skip=[{','.join(texts)}]'"


def skipped_places(layout: Layout) -> list[tuple[str, str]]:
    """Rows and columns where the table has no cell."""
    names = [*layout.rows, *([layout.columns] if layout.columns else [])]
    choices = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(layout.shown[name] for name in names))
    ]
    return [_place(layout, choice) for choice in choices if _is_skipped(layout, choice)]


def skipped_repeats(layout: Layout) -> list[tuple[str, str, int]]:
    """Rows and columns with the repeats that their cells do not have: VOC 2007 has no second split."""
    names = [*layout.rows, *([layout.columns] if layout.columns else []), layout.repeats]
    if layout.repeats not in layout.shown:
        return []
    choices = [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(layout.shown[name] for name in names))
    ]
    return [
        (*_place(layout, choice), int(choice[layout.repeats]))
        for choice in choices
        if _is_skipped(layout, choice)
    ]


def _place(layout: Layout, choice: Mapping[str, str]) -> tuple[str, str]:
    """Row and column of a choice."""
    row = _row_id([layout.name(axis, choice[axis]) for axis in layout.rows])
    return row, layout.name(layout.columns, choice[layout.columns]) if layout.columns else ONLY_COLUMN


def _is_skipped(layout: Layout, choice: Mapping[str, str]) -> bool:
    return any(
        all(
            plain_value(choice.get(axis, "")) in [str(value) for value in values]
            for axis, values in rule.items()
        )
        for rule in layout.skip
    )


def check_settings(layout: Layout) -> None:
    """Refuse a group on the command line that a setting of the sweep chooses as well.

    Hydra would take the command line's word, and the table would be labelled with the setting's.

    Raises:
        ConfigError: Names the setting and the group.
    """
    given = {override.partition("=")[0] for override in layout.fixed} | set(layout.axes)
    for setting in layout.axes.get("setting", []):
        file = conf_dir() / "setting" / f"{setting}.yaml"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        for group in re.findall(r"^\s*- override /(\w+):", text, flags=re.MULTILINE):
            if given & {group, *(key for key in given if key.startswith(f"{group}."))}:
                raise ConfigError(
                    f"{group} is what setting={setting} chooses; to choose it yourself leave the experiment "
                    f"out and sweep {group} as an axis"
                )


def row_ids(layout: Layout) -> list[str]:
    """Every row of the table, whether this sweep runs it or not."""
    named = ([layout.name(axis, value) for value in layout.shown[axis]] for axis in layout.rows)
    return [_row_id(values) for values in itertools.product(*named)]


def column_ids(layout: Layout) -> list[str]:
    """Every column of the table."""
    if layout.columns is None:
        return [ONLY_COLUMN]
    return [layout.name(layout.columns, value) for value in layout.shown[layout.columns]]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _row_id(values: Sequence[str]) -> str:
    return ", ".join(values) or "run"
