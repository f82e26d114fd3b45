"""Hydra finds sweepers only in the hydra_plugins namespace; ours is a table of the paper."""

from hydra_plugins.hydra_sppnet_sweeper.table_sweeper import TableSweeper

__all__ = ["TableSweeper"]
