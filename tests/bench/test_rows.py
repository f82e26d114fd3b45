"""Benchmark rows compare equal results, and are listed without torch."""

import subprocess
import sys

import pytest

from sppnet.bench.contests import CONTESTS
from sppnet.bench.rows import ROWS, run_bench
from sppnet.errors import ConfigError


def test_every_row_listed_has_a_contest():
    assert set(ROWS) == set(CONTESTS)


@pytest.mark.parametrize("name", ["pyramid", "pyramid_backward", "lrn_backward"])
def test_both_sides_compute_the_same(name):
    assert CONTESTS[name]().difference < 1e-5


def test_listing_the_rows_does_not_import_torch():
    code = "import sys, sppnet.bench.rows; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_whole_maps_are_pooled_faster_than_by_the_stock_modules():
    (row,) = run_bench(["pyramid"])
    assert row.ratio > 2  # 9 to 12 when measured; a regression to one pooling per level gives 1


def test_an_unknown_row_lists_those_there_are():
    with pytest.raises(ConfigError, match="no benchmark lnr; there are pyramid"):
        run_bench(["lnr"])
