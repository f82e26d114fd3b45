"""Results on disk, one table beside the paper's (all numbers in the printed unit).

runs.py and provenance.py read run directories, results.py joins them into a `Table`, claims.py judges what
the paper says of it, render.py and terminal.py print it in the words of wording.py, curves.py draws it,
publish.py keeps it.

Why it reads files only: disk is the truth. A table can be printed while its sweep runs, after it was
killed, or on a machine without torch; nothing here imports torch, so an answer takes a moment.
"""

from sppnet.tables.curves import draw_curves, picture_of
from sppnet.tables.publish import publish
from sppnet.tables.render import print_table, to_csv, to_json, to_latex, to_markdown
from sppnet.tables.results import read_table, table_directories
from sppnet.tables.table import Cell, Claim, Measurement, Metric, Run, Setting, Table

__all__ = [
    "Cell",
    "Claim",
    "Measurement",
    "Metric",
    "Run",
    "Setting",
    "Table",
    "draw_curves",
    "picture_of",
    "print_table",
    "publish",
    "read_table",
    "table_directories",
    "to_csv",
    "to_json",
    "to_latex",
    "to_markdown",
]
