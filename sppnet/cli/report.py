"""`sppnet report`: tables from disk, ours beside the paper's."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from sppnet.artifacts import write_text
from sppnet.errors import ConfigError
from sppnet.tables.publish import publish
from sppnet.tables.render import to_csv, to_json, to_latex, to_markdown
from sppnet.tables.results import read_table, table_directories
from sppnet.tables.table import Table

_FORMATS = ("md", "csv", "json", "tex")


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns 0.

    Raises:
        SppnetError: No such table, a damaged one, or nowhere to write.
    """
    arguments = _parser().parse_args(argv)
    directories = table_directories(arguments.directory)
    if len(directories) > 1 and (arguments.group or arguments.publish):
        names = ", ".join(str(directory) for directory in directories)
        raise ConfigError(f"--group and --publish are for one table; name one of {names}")
    suffix = arguments.out.suffix[1:].lower() if arguments.out else ""
    if not arguments.format and suffix not in (*_FORMATS, "", "txt"):
        raise ConfigError(f"--out {arguments.out}: no such format; end it in .{', .'.join(_FORMATS)} or .txt")
    arguments.format = arguments.format or (suffix if suffix in _FORMATS else "terminal")
    if len(directories) > 1 and arguments.format == "csv":
        raise ConfigError(f"csv is for one table; name one of {', '.join(map(str, directories))}")
    tables = [read_table(directory, arguments.group) for directory in directories]
    if arguments.publish:
        for file in _publish(tables[0], directories[0], arguments.publish):
            print(file)
    elif arguments.format == "terminal" and arguments.out is None:
        from sppnet.tables.terminal import print_table

        for position, table in enumerate(tables):
            print("\n" if position else "", end="")
            print_table(table, directories[position])
    else:
        text = _text(tables, arguments.format, is_list=directories != [arguments.directory])
        if arguments.out is None:
            print(text, end="")
        else:
            write_text(arguments.out, text)
    return 0


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names a table: its directory and its group."""
    parser.add_argument(
        "directory",
        metavar="RUNS_DIR",
        nargs="?",
        type=Path,
        default=Path("runs"),
        help="a table's directory such as runs/table2, or a directory of them (default: runs, newest first)",
    )
    parser.add_argument("--group", help="base configuration, 8 hex digits (default: the one written last)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sppnet report", description="Print tables from disk, ours beside the paper's."
    )
    add_table_arguments(parser)
    parser.add_argument(
        "--format",
        choices=["terminal", *_FORMATS],
        help="default: what --out ends in, or terminal; json of a directory of tables is a list",
    )
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--out", type=Path, metavar="FILE", help="write to a file")
    target.add_argument(
        "--publish", metavar="NAME", help="write published/NAME.md and .json beside the table's directory"
    )
    return parser


def _text(tables: Sequence[Table], form: str, *, is_list: bool) -> str:
    """Print tables in one form; JSON as a list where there could be several."""
    from sppnet.tables.terminal import to_terminal

    if form == "json":
        values = [to_json(table) for table in tables]
        return json.dumps(values if is_list else values[0], indent=1, allow_nan=False) + "\n"
    forms: dict[str, Callable[[Table], str]] = {
        "terminal": lambda table: to_terminal(table, width=80, is_coloured=False),
        "md": to_markdown,
        "csv": to_csv,
        "tex": to_latex,
    }
    return "\n".join(forms[form](table) for table in tables)


def _publish(table: Table, directory: Path, name: str) -> tuple[Path, Path]:
    """Publish a table beside its directory: runs/table2 -> runs/published."""
    home = directory.parent if directory.is_file() else directory
    # "." has no parent of its own.
    home = home if home.name else home.resolve()
    return publish(table, home.parent / "published", name=name)
