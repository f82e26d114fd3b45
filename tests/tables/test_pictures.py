"""What a table has beside its grid: curves, classes, rows of others, gaps by design."""

from dataclasses import replace

import pytest
from PIL import Image

from sppnet.tables.curves import draw_curves
from sppnet.tables.per_class import per_class_table
from sppnet.tables.render import to_json, to_markdown
from sppnet.tables.results import read_table
from sppnet.tables.terminal import to_terminal

SIDES = {"144": "144", "192": "192", "288": "288"}
ROWS = {"single": "single-size", "multi": "multi-size"}


@pytest.fixture
def curve(sweep):
    sweep.describe(rows=ROWS, columns=SIDES, curve="short side (pixels)", paper={})
    for row, errors in {"single": (0.30, 0.40, 0.60), "multi": (0.35, 0.37, 0.45)}.items():
        for column, error in zip(SIDES, errors, strict=True):
            sweep.run(row, column, error)
    return sweep


def test_a_table_of_numbers_becomes_a_picture(curve, tmp_path):
    file = draw_curves(read_table(curve.directory), tmp_path / "curve.png")
    assert Image.open(file).size > (500, 300)


def test_a_table_that_is_no_curve_or_has_one_point_becomes_none(curve, tmp_path):
    table = read_table(curve.directory)
    assert draw_curves(replace(table, curve=None), tmp_path / "a.png") is None
    assert draw_curves(replace(table, columns=table.columns[:1]), tmp_path / "b.png") is None
    assert list(tmp_path.glob("*.png")) == []


def test_rows_of_others_have_the_papers_numbers_and_no_gap_to_fill(sweep):
    others = [{"label": "Howard [36]", "test/top1_error": {"zf5": 37.0}}]
    sweep.describe(others=others)
    table = read_table(sweep.directory)
    cell = table.cells["Howard [36]", "zf5"]
    assert (cell.status, cell.measured["test/top1_error"].paper) == ("reference", 37.0)
    assert "| Howard \\[36\\] | - (37.00) | - |" in to_markdown(table)


def test_cells_that_a_table_does_not_have_are_dashes_and_not_missing(sweep):
    sweep.describe(skipped=[["no_spp", "overfeat7"]])
    table = read_table(sweep.directory)
    assert table.cells["no_spp", "overfeat7"].status == "reference"
    assert table.cells["no_spp", "zf5"].status == "missing"


def test_the_classes_of_every_cell_stand_below_the_table(sweep):
    sweep.describe(per_class="test/ap/")
    for seed, dog in ((0, 0.5), (1, 0.7)):
        sweep.run(
            "no_spp", "zf5", {"test/top1_error": 0.4, "test/ap/dog": dog, "test/ap/cat": 0.25}, seed=seed
        )
    table = read_table(sweep.directory)
    by_class = per_class_table(table)
    assert [column.label for column in by_class.columns] == ["cat", "dog"]
    measured = by_class.cells["no_spp/zf5", "test/ap/dog"].measured["test/ap/"]
    assert (measured.ours, measured.n) == (60.0, 2)
    assert to_json(table)["per_class"][0]["classes"] == {"cat": 25.0, "dog": 60.0}
    assert "by class" in to_markdown(table)
    assert "by class" in to_terminal(table, width=80, is_coloured=False)


def test_a_metric_of_some_rows_is_printed_for_these_alone(sweep):
    top1 = {
        "key": "test/top1_error",
        "id": "top1",
        "label": "top-1",
        "unit": "percent",
        "lower_is_better": True,
    }
    seconds = {**top1, "key": "seconds", "id": "s", "label": "seconds", "unit": "seconds"}
    sweep.describe(
        per_class="test/ap/",
        metrics=[{**top1, "rows": ["no_spp"]}, {**seconds, "rows": ["spp_single"]}],
        paper={},
    )
    sweep.run("no_spp", "zf5", {"test/top1_error": 0.4, "test/ap/dog": 0.5})
    sweep.run("spp_single", "zf5", {"seconds": 0.25})
    text = to_markdown(read_table(sweep.directory))
    assert "not measured" not in text
    assert "40.00" in text and "0.250" in text
    assert "50.00" in text  # the class, though its row is called no_spp/zf5


def test_a_mean_that_lacks_a_class_says_so(sweep):
    sweep.describe()
    metrics = {"test/top1_error": 0.4, "test/num_classes": 19.0, "test/all_classes": 20.0}
    run = sweep.run("no_spp", "zf5", metrics)
    (note,) = read_table(sweep.directory).notes
    assert note.endswith("mean over 19 of 20 classes (the others have no positive image)")
    assert run is None or run.name in note


def test_ten_splits_are_called_splits(sweep):
    sweep.describe(repeats="split", seeds=[0, 1])
    sweep.run("no_spp", "zf5", 0.4, seed=0)
    sweep.run("no_spp", "zf5", 0.5, seed=1)
    assert "of 2 splits" in to_markdown(read_table(sweep.directory))


def test_the_networks_behind_the_cells_count_in_the_time(sweep):
    sweep.describe(built_on=["networks/net-1"])
    sweep.run("no_spp", "zf5", 0.4)
    alone = read_table(sweep.directory).seconds
    from sppnet.artifacts import write_json

    status = {"group": "", "row": "", "column": "", "seed": 0, "state": "complete", "seconds": 100.0}
    write_json(sweep.directory.parent / "networks" / "net-1" / "status.json", status)
    assert read_table(sweep.directory).seconds == alone + 100.0
