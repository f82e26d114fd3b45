"""A table to keep: its numbers with what made them, and nothing that tells whose machine it was."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sppnet.artifacts import write_json, write_text
from sppnet.errors import ConfigError
from sppnet.tables import escape
from sppnet.tables.curves import draw_curves
from sppnet.tables.render import to_json, to_markdown
from sppnet.tables.table import Table

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def publish(table: Table, directory: Path, *, name: str) -> tuple[Path, Path]:
    """Write `<name>.md` and `<name>.json`, and `<name>.png` of a table with curves.

    Versions, commits and machines are those of the runs, not of this installation. Absolute paths are
    shortened to their last component everywhere; hosts are never written.

    Args:
        table: To be published.
        directory: Where to; made when missing.
        name: File name without suffix: letters, digits, and . _ - after the first.

    Returns:
        The two files.

    Raises:
        ConfigError: `name` is not a plain file name.
        ResourceError: The files cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--publish {name!r}: expected letters, digits, '.', '_' or '-', such as table2-mini"
        )
    made = {
        **table.made_by,
        "seconds of all runs together": f"{table.seconds:.0f}",
        "seconds from the first start to the last end": f"{table.span:.0f}",
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    picture = draw_curves(table, directory / f"{name}.png")
    pictures = [f"![{escape.markdown(table.heading)}]({name}.png)", ""] if picture else []
    lines = [to_markdown(table), *pictures, "Made with:", ""]
    lines += [
        f"- {escape.markdown(key)}: {escape.markdown(escape.clean(value))}" for key, value in made.items()
    ]
    document, data = directory / f"{name}.md", directory / f"{name}.json"
    write_text(document, escape.without_machine_paths("\n".join(lines)) + "\n")
    write_json(data, _shortened({**to_json(table), "environment": made}))
    return document, data


def _shortened(value: Any) -> Any:
    """Shorten the paths of every text in plain containers."""
    if isinstance(value, str):
        return escape.without_machine_paths(value)
    if isinstance(value, dict):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return value
