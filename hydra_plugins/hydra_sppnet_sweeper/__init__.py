"""Hydra finds sweepers only in the hydra_plugins namespace; ours runs a table of the paper."""
