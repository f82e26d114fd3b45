"""From a configuration to runs: composed, checked, planned, run.

In reading order: compose (Hydra's side), schema and ranges (types), reading (records), checks
(contradictions), layout (axes to cells), stages (the pipeline as data), contents (what paths hold), plan
(cells to runs), sweep (the main loop), runners and workers (where runs run), execution and take (one run),
and the stages' own files. `cli` says what was typed; nothing below here knows that there are runs.
"""
