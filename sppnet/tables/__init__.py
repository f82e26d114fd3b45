"""Results on disk, one table beside the paper's (all numbers in the printed unit).

runs.py and provenance.py read run directories, results.py joins them into a `Table`, claims.py judges what
the paper says of it, render.py and terminal.py print it in the words of wording.py, curves.py draws it,
publish.py keeps it.

Why it reads files only: disk is the truth. A table can be printed while its sweep runs, after it was
killed, or on a machine without torch; nothing here imports torch, so an answer takes a moment.
"""
