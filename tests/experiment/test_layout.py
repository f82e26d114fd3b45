"""From axes and a command line to cells."""

import pytest

from sppnet.errors import ConfigError
from sppnet.experiment.layout import Cell, cells, column_ids, lay_out, row_ids, skipped_places

TABLE2 = {
    "axes": {"setting": ["no_spp", "spp_single"], "backbone": ["zf5", "overfeat7"]},
    "rows": "setting",
    "columns": "backbone",
    "repeats": "seed",
    "skip": [],
}
FREE = {"axes": {}, "rows": None, "columns": None, "repeats": "seed", "skip": []}


def places(table, *arguments: str) -> list[tuple[str, str, int]]:
    return [
        (cell.row, cell.column, cell.repeat) for cell in cells(lay_out(table, arguments), default_repeat=7)
    ]


def test_a_tables_axes_make_its_cells():
    assert places(TABLE2, "preset=mini") == [
        ("no_spp", "zf5", 7),
        ("no_spp", "overfeat7", 7),
        ("spp_single", "zf5", 7),
        ("spp_single", "overfeat7", 7),
    ]


def test_the_command_line_narrows_an_axis_and_the_table_keeps_its_shape():
    layout = lay_out(TABLE2, ["backbone=zf5", "preset=mini"])
    assert [(cell.row, cell.column) for cell in cells(layout, default_repeat=0)] == [
        ("no_spp", "zf5"),
        ("spp_single", "zf5"),
    ]
    assert row_ids(layout) == ["no_spp", "spp_single"]
    assert column_ids(layout) == ["zf5", "overfeat7"]
    assert layout.fixed == ["preset=mini"]


def test_seeds_multiply_cells_but_not_rows_or_columns():
    layout = lay_out(TABLE2, ["seed=0,1,2"])
    assert len(cells(layout, default_repeat=0)) == 12
    assert row_ids(layout) == ["no_spp", "spp_single"]
    assert {cell.repeat for cell in cells(layout, default_repeat=0)} == {0, 1, 2}


def test_an_axis_of_ones_own_is_named_where_its_values_do_not_speak_for_themselves():
    arguments = ["pyramid=bins30,bins50", "data.per_class=5,10"]
    assert places(FREE, *arguments) == [
        ("bins30", "per_class=5", 7),
        ("bins30", "per_class=10", 7),
        ("bins50", "per_class=5", 7),
        ("bins50", "per_class=10", 7),
    ]


def test_a_single_configuration_is_a_table_of_one_cell():
    assert cells(lay_out(FREE, ["backbone=zf5"]), default_repeat=0) == [
        Cell(overrides=["backbone=zf5"], row="run", column="result", repeat=0)
    ]


def test_three_axes_make_rows_of_two():
    assert places(FREE, "a=x,y", "b=u", "c=p,q", "d=1,2")[0] == ("x, p", "d=1", 7)


def test_a_table_may_lack_cells_and_repeat_over_another_axis_than_the_seed():
    table = {**TABLE2, "repeats": "split", "skip": [{"setting": ["no_spp"], "backbone": ["overfeat7", "x"]}]}
    layout = lay_out(table, ["split=3,4"])
    assert [(cell.row, cell.column, cell.repeat) for cell in cells(layout, default_repeat=0)] == [
        (row, column, split)
        for row, column in [("no_spp", "zf5"), ("spp_single", "zf5"), ("spp_single", "overfeat7")]
        for split in (3, 4)
    ]
    assert skipped_places(layout) == [("no_spp", "overfeat7")]


def test_what_cannot_be_a_table_is_refused():
    with pytest.raises(ConfigError, match="only lists of values"):
        lay_out(FREE, ["training.learning_rate=interval(0,1)"])
    with pytest.raises(ConfigError, match="table.rows=setting"):
        lay_out({**FREE, "rows": "setting"}, [])
