"""Labels, errors and commands come from files: make them harmless where they are shown."""

import logging
import re

_MARKDOWN = {character: f"\\{character}" for character in r"\`*_[]|~$#"} | {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "§": r"\S{}",
}
# A quoted path may hold spaces; a bare one ends at a space or at a bracket, comma or equals sign.
# "//" begins neither: it is the middle of a web address.
_QUOTED_PATH = re.compile(r"""(['"])([^'"\s/]*=)?/(?!/)(?:[^'"]*/)?([^'"/]+)/*\1""")
_BARE_PATH = re.compile(
    r"""(?:file://|(?<![\w./~]))/(?!/)(?:[^\s/'",=:\[\]{}()]+/)*([^\s/'",=:\[\]{}()]+)/*"""
)


def clean(text: str) -> str:
    """Replace what could move a terminal's cursor, turn the writing direction or break a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def clean_lines(text: str) -> str:
    """As `clean`, but lines stay lines."""
    return "\n".join(map(clean, text.split("\n")))


class CleanFormatter(logging.Formatter):
    """For logs, which tell of names that others have chosen: of files, classes, runs."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as text that is harmless in a terminal."""
        return clean_lines(super().format(record))


def markdown(text: str) -> str:
    """Escape text for a cell or a line of GitHub Markdown."""
    return "".join(_MARKDOWN.get(character, character) for character in text)


def latex(text: str) -> str:
    r"""Escape text for LaTeX; after a `\\`, a leading bracket or star would be read as its argument."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def csv_text(text: str) -> str:
    """Keep a spreadsheet from running text as a formula."""
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text


def without_machine_paths(text: str) -> str:
    """Shorten every absolute path to its last component; relative ones stay as they were typed."""
    return _BARE_PATH.sub(r"\1", _QUOTED_PATH.sub(r"\1\2\3\1", text))
