"""What Hydra is given of what was typed: paths in any spelling, options anywhere, nothing it cannot use."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sppnet.errors import ConfigError
from sppnet.experiment.command_line import did_you_mean, quoted, read_command_line, with_homes
from sppnet.experiment.layout import Cell, cells, lay_out, skipping

FREE = {"axes": {}, "rows": None, "columns": None, "repeats": "seed", "skip": []}
PATHS = [
    *(
        "/data/Prüfung (1)/a=b",
        "日本/é",
        "~/pictures",
        'men\'s "shoe"',
        "back\\slash\\",
        "[1] photos",
        "{a}",
        "2007",
    ),
    *(
        "true",
        "100%",
        "a;b",
        "#1",
        "$HOME",
        "nut & bolt",
        " spaces ",
        "a:b",
        "!x",
        "@y",
        "*",
        "x|y",
        "..",
        "-",
    ),
]


def read_by_hydra(override: str) -> object:
    (read,) = OverridesParser.create().parse_overrides([override])
    assert not read.is_sweep_override()
    return getattr(read.value(), "text", read.value())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["data.root", "paths.weights", "+target.root"])
def test_hydra_reads_a_path_as_it_was_typed(tmp_path: Path, monkeypatch, path: str, key: str):
    monkeypatch.chdir(tmp_path)
    assert read_by_hydra(quoted(f"{key}={path}")) == path


def test_a_comma_stands_between_paths_unless_there_is_a_file_of_that_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quoted("data.root=a b,c(d)") == "data.root='a b','c(d)'"
    assert quoted("data.root=a b,c(d)", is_swept=False) == "data.root='a b,c(d)'"
    (tmp_path / "a b,c(d)").mkdir()
    assert quoted("data.root=a b,c(d)") == "data.root='a b,c(d)'"


def test_what_is_quoted_empty_or_a_function_stays_as_it_is():
    for override in (
        "data.root='/x, y'",
        "data.root=null",
        "paths.runs=",
        "data.root=choice(a,b)",
        "seed=0,1",
    ):
        assert quoted(override) == override


def test_lists_of_paths_are_quoted_one_by_one():
    assert quoted("proposals.paths=[~/a (1).mat, 'b,c.mat']") == "proposals.paths=['~/a (1).mat','b,c.mat']"
    assert quoted("proposals.paths=[/ü],[/é]") == "proposals.paths=['/ü'],['/é']"


def test_other_text_that_hydra_could_not_read_is_quoted_too():
    assert quoted("table.title=Größe in %") == "table.title='Größe in %'"
    assert quoted("seed=range(1") == "seed=range(1"


def test_the_home_folder_stands_for_the_tilde_in_paths_only(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ich")
    plain = {
        "paths": {"runs": "~/runs", "data": None},
        "proposals": {"paths": ["~/a"]},
        "table": {"title": "~/x"},
    }
    found = with_homes(plain, "")
    assert found["paths"] == {"runs": "/home/ich/runs", "data": None}
    assert found["proposals"]["paths"] == ["/home/ich/a"]
    assert found["table"]["title"] == "~/x"
    with pytest.raises(ConfigError, match="a list is wanted"):
        with_homes({"proposals": {"paths": "/a.mat"}}, "")


def test_options_may_stand_anywhere():
    line = read_command_line(["seed=1", "--config-dir", "conf", "backbone=zf5", "--cfg=job"])
    assert line.options == ["--config-dir", "conf", "--cfg", "job"]
    assert line.overrides == ["seed=1", "backbone=zf5"]
    assert read_command_line(["--info", "seed=1"]).overrides == ["seed=1"]
    assert read_command_line(["--info", "searchpath"]).options == ["--info", "searchpath"]


def test_a_name_is_found_by_its_end_its_initials_and_its_letters():
    known = ["data.batch_size", "training.batch_size", "training.learning_rate", "backbone"]
    assert did_you_mean("lr", known) == "; did you mean training.learning_rate?"
    assert did_you_mean("batch_size", known).startswith("; did you mean training.batch_size or")
    assert did_you_mean("backbon", known) == "; did you mean backbone?"
    assert did_you_mean("zzzz", known) == ""


def test_a_forced_axis_is_the_axis_itself_and_what_is_added_stays_added():
    laid = lay_out(FREE, ["++seed=0,1", "+backbone.rate=1,2"])
    made = cells(laid, default_repeat=0)
    assert [(cell.row, cell.repeat) for cell in made] == [
        ("rate=1", 0), ("rate=1", 1), ("rate=2", 0), ("rate=2", 1)
    ]  # fmt: skip
    assert made[-1].overrides == ["+backbone.rate=2", "seed=1"]


def test_cells_that_cannot_run_are_left_out_by_what_the_message_says():
    arguments = ["pyramid=none,bins50", "train_sizes=single,multi"]
    laid = lay_out(FREE, arguments)
    unwanted = [
        cell
        for cell in cells(laid, default_repeat=0)
        if cell.choice == {"pyramid": "none", "train_sizes": "multi"}
    ]
    said = skipping(laid, unwanted)
    assert said == "'table.skip=[{pyramid:[none],train_sizes:[multi]}]'"
    (read,) = OverridesParser.create().parse_overrides([said.strip("'")])
    left = cells(lay_out({**FREE, "skip": read.value()}, arguments), default_repeat=0)
    assert len(left) == 3
    assert unwanted[0] not in left
    assert isinstance(left[0], Cell)
