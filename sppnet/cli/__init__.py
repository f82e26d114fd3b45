"""The command `sppnet`: one file per verb, and the way from a command line to a finished table.

main -> a verb (report, status, ...), or Hydra and then `sppnet.experiment.sweep`.
Nothing heavy is imported at the top of these files: `sppnet --help` answers at once, and finding out
that a sweep is done costs no torch import.
"""
