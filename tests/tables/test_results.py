import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.artifacts import read_json, write_json, write_sealed_json, write_text
from sppnet.cli import status
from sppnet.errors import ArtifactError, ConfigError, DataError
from sppnet.tables.per_class import per_class_table
from sppnet.tables.render import to_markdown
from sppnet.tables.results import read_table, table_directories
from sppnet.tables.wording import ours_text, paper_text

HEADLINE = "test/top1_error"


def _cell(sweep, row="no_spp", column="zf5"):
    return read_table(sweep.directory).cells[row, column]


def test_one_seed_is_printed_in_percent_beside_the_papers_number(sweep):
    sweep.describe()
    # Equal to the last digit: 100 * 0.285 is 28.499999999999996 in binary, and is not printed so.
    sweep.run("no_spp", "zf5", 0.285)
    one = _cell(sweep).measured[HEADLINE]
    assert (one.ours, one.std, one.n, one.paper, one.difference) == (28.5, None, 1, 35.99, -7.49)


def test_three_seeds_give_mean_and_sample_standard_deviation(sweep):
    sweep.describe(seeds=[0, 1, 2])
    for seed, error in enumerate([0.30, 0.31, 0.35]):
        sweep.run("no_spp", "zf5", error, seed=seed)
    one = _cell(sweep).measured[HEADLINE]
    # Deviations from 32: -2, -1, 3; their squares sum to 14, over n - 1 = 2.
    assert (one.ours, one.n) == (32.0, 3)
    assert one.std == pytest.approx(7**0.5)


def test_a_number_that_is_no_percentage_is_printed_as_it_is_on_disk(sweep):
    seconds = {"key": "s", "id": "s", "label": "s", "unit": "seconds", "lower_is_better": True}
    sweep.describe(metrics=[seconds], paper={})
    sweep.run("no_spp", "zf5", {"s": 0.382})
    assert _cell(sweep).measured["s"].ours == 0.382


def test_the_paper_may_print_a_whole_number(sweep):
    sweep.describe(paper={HEADLINE: {"no_spp": {"zf5": 36, "overfeat7": None}}})
    sweep.run("no_spp", "zf5", 0.312)
    assert _cell(sweep).measured[HEADLINE].difference == -4.8


def test_a_complete_run_that_lacks_a_metric_says_not_measured_not_missing(sweep):
    sweep.describe()
    sweep.run("no_spp", "zf5", {"test/other": 0.3})
    cell = _cell(sweep)
    assert (cell.status, cell.measured[HEADLINE].ours, cell.measured[HEADLINE].n) == ("complete", None, 0)


def test_every_row_and_column_has_one_cell_even_before_anything_ran(sweep):
    sweep.describe()
    table = read_table(sweep.directory)
    assert list(table.cells) == [
        ("no_spp", "zf5"),
        ("no_spp", "overfeat7"),
        ("spp_single", "zf5"),
        ("spp_single", "overfeat7"),
    ]
    assert {cell.status for cell in table.cells.values()} == {"missing"}


def test_some_seeds_make_a_cell_partial(sweep):
    sweep.describe(seeds=[0, 1])
    sweep.run("no_spp", "zf5", 0.3)
    sweep.stopped("no_spp", "zf5", "failed", seed=1, error="out of memory")
    cell = _cell(sweep)
    assert (cell.status, cell.seeds) == ("partial", {0: "complete", 1: "failed"})
    assert cell.measured[HEADLINE].ours == 30.0


@pytest.mark.parametrize(
    ("state", "pid", "host", "expected"),
    [
        ("failed", 1, None, "failed"),
        ("interrupted", 1, None, "interrupted"),
        ("running", os.getpid(), None, "running"),
        ("running", 2**22 + 1, None, "interrupted"),  # above Linux' largest pid
        ("running", os.getpid(), "another-machine", "interrupted"),
        ("complete", 1, None, "interrupted"),  # killed before the marker was written
        ("a word of the future", 1, None, "interrupted"),
    ],
    ids=[
        "failed",
        "interrupted",
        "alive",
        "dead",
        "elsewhere",
        "no-marker",
        "unknown",
    ],  # alike in every process
)
def test_a_run_without_its_marker_is_what_its_process_says(sweep, state, pid, host, expected):
    sweep.describe()
    sweep.stopped("no_spp", "zf5", state, pid=pid, **({"host": host} if host else {}))
    assert _cell(sweep).status == expected


def test_the_marker_outranks_a_status_left_at_running(sweep):
    sweep.describe()
    directory = sweep.run("no_spp", "zf5", 0.3)
    sweep.stopped("no_spp", "zf5", "running", pid=2**22 + 1)
    assert (directory / "COMPLETE").exists()
    assert _cell(sweep).status == "complete"


def _edit(directory: Path) -> None:
    write_json(directory / "metrics.json", {HEADLINE: 0.0})


def _remove(directory: Path) -> None:
    (directory / "metrics.json").unlink()


def _garble_marker(directory: Path) -> None:
    write_text(directory / "COMPLETE", '{"files": []}')


def _truncate_marker(directory: Path) -> None:
    write_text(directory / "COMPLETE", "")


@pytest.mark.parametrize("damage", [_edit, _remove, _garble_marker, _truncate_marker])
def test_a_metrics_file_that_its_marker_does_not_vouch_for_is_damaged_and_named(sweep, damage):
    sweep.describe()
    directory = sweep.run("no_spp", "zf5", 0.3)
    damage(directory)
    table = read_table(sweep.directory)
    cell = table.cells["no_spp", "zf5"]
    assert (cell.status, cell.measured[HEADLINE].ours) == ("damaged", None)
    assert directory.name in table.notes[0]
    assert "the table's command makes the run again" in table.notes[0]


def test_a_flipped_digit_of_equal_length_is_damage_too(sweep):
    sweep.describe()
    directory = sweep.run("no_spp", "zf5", 0.312)
    content = (directory / "metrics.json").read_text()
    write_text(directory / "metrics.json", content.replace("0.312", "0.212"))
    assert _cell(sweep).status == "damaged"


def test_a_status_file_that_cannot_be_read_costs_only_its_own_cell(sweep):
    sweep.describe()
    sweep.run("no_spp", "zf5", 0.3)
    for number, (name, content) in enumerate([("half", '{"state": "ru'), ("no-cell", "{}"), ("list", "[]")]):
        write_text(sweep.directory / name / "status.json", content)
        sweep.list("spp_single", "zf5", number, name)
    table = read_table(sweep.directory)
    assert table.cells["no_spp", "zf5"].status == "complete"
    assert len(table.notes) == 3


def test_a_run_that_no_cell_of_the_table_is_stays_out(sweep):
    sweep.describe(group="ffffffff")
    sweep.run("no_spp", "zf5", 0.3, group="ffffffff")
    sweep.describe()
    sweep.run("no_spp", "zf5", 0.3, seed=7)
    table = read_table(sweep.directory, "ab12cd34")
    assert table.cells["no_spp", "zf5"].status == "missing"


def test_one_run_may_be_a_cell_of_two_tables(sweep):
    sweep.describe(group="00000000")
    run = sweep.run("no_spp", "zf5", 0.3, group="00000000")
    sweep.describe()
    sweep.list("no_spp", "zf5", 0, run.name)
    for group in ("00000000", "ab12cd34"):
        assert read_table(sweep.directory, group).cells["no_spp", "zf5"].measured[HEADLINE].ours == 30.0


def test_every_seeds_value_is_kept(sweep):
    sweep.describe(seeds=[3, 5])
    for seed, error in ((3, 0.30), (5, 0.285)):
        sweep.run("no_spp", "zf5", error, seed=seed)
    assert _cell(sweep).measured[HEADLINE].values == {3: 30.0, 5: 28.5}


def test_a_number_of_code_that_has_changed_since_is_marked(sweep):
    sweep.describe()
    fresh, stale = sweep.run("no_spp", "zf5", 0.3), sweep.run("spp_single", "zf5", 0.2)
    of_code = read_json(stale / "provenance.json") | {"code": {"sppnet.ops.pyramid": "0" * 64}}
    write_json(stale / "provenance.json", of_code)
    table = read_table(sweep.directory)
    assert not table.cells["no_spp", "zf5"].is_stale
    assert table.cells["spp_single", "zf5"].is_stale
    (note,) = table.notes
    assert stale.name in note
    assert fresh.name not in note
    assert "sppnet.ops.pyramid has changed" in note
    assert "20.00 †" in to_markdown(table)


def test_the_newest_group_is_read_and_the_others_are_named(sweep):
    old = sweep.describe(group="00000000", title="old")
    sweep.describe(group="11111111", title="new")
    os.utime(old, (1, 1))
    table = read_table(sweep.directory)
    assert (table.title, table.group) == ("new", "11111111")
    assert "00000000" in table.notes[0]
    assert read_table(sweep.directory, "00000000").title == "old"
    assert read_table(old).title == "old"


def test_an_unknown_group_is_answered_with_those_there_are(sweep):
    sweep.describe()
    with pytest.raises(ConfigError, match="--group is one of ab12cd34"):
        read_table(sweep.directory, "../../etc/passwd")


def test_a_directory_that_is_not_there_names_the_command_to_run(tmp_path):
    with pytest.raises(DataError, match="sppnet experiment=table2"):
        read_table(tmp_path / "nowhere")


def test_a_directory_without_a_table_says_what_is_missing(tmp_path):
    with pytest.raises(ArtifactError, match="no table-<group>.json"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 1},
        {"rows": {}},
        {"metrics": []},
        {"seeds": ["first"]},
        {"paper": {HEADLINE: {"no_spp": {"zf5": "thirty"}}}},
        {"title": None},
    ],
)
def test_a_table_file_that_is_not_one_is_named(sweep, changes):
    sweep.describe(**changes)
    with pytest.raises(ArtifactError, match=r"table-ab12cd34\.json.*run the table's command again"):
        read_table(sweep.directory)


def test_a_truncated_table_file_is_named(sweep):
    file = sweep.describe()
    write_text(file, file.read_text()[:40])
    with pytest.raises(ArtifactError, match="not readable as JSON"):
        read_table(sweep.directory)


def test_tables_under_a_directory_come_newest_first(sweep, tmp_path):
    os.utime(sweep.describe(), (1, 1))
    other = type(sweep)(tmp_path / "runs" / "table6")
    other.describe()
    assert table_directories(tmp_path / "runs") == [other.directory, sweep.directory]
    assert table_directories(sweep.directory) == [sweep.directory]


def test_reading_a_table_imports_nothing_heavy():
    heavy = {"torch", "pytorch_lightning", "torchvision", "omegaconf", "hydra", "rich"}
    script = (
        "import sys, sppnet.tables, sppnet.cli.report, sppnet.cli.status;"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "left, shown",
    [
        (61.0, "steps 3/9, 0.5 a second, about 0:01:01 left"),
        (1e300, "runs"),
        ("soon", "runs"),
        (None, "0.5 a second"),
    ],
)
def test_status_says_how_far_a_run_is_and_nothing_of_what_is_damaged(sweep, capsys, left, shown):
    sweep.describe()
    run = sweep.stopped("no_spp", "zf5", "running", pid=os.getpid())
    step = {"stage": "steps", "completed": 3, "total": 9, "detail": "", "rate": 0.5, "seconds_left": left}
    write_json(run / "progress.json", step)
    assert status.main([str(sweep.directory)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("running"))
    assert shown in line


def test_a_cell_that_has_fewer_splits_than_others_is_complete_with_them(sweep):
    """Table 8: VOC 2007 has one split, Caltech-101 ten."""
    lacking = [["no_spp", "zf5", 1], ["no_spp", "zf5", 2]]
    sweep.describe(seeds=[0, 1, 2], repeats="split", skipped_repeats=lacking)
    sweep.run("no_spp", "zf5", 0.36)
    sweep.run("no_spp", "overfeat7", 0.36)
    table = read_table(sweep.directory)
    one, three = table.cells["no_spp", "zf5"], table.cells["no_spp", "overfeat7"]
    assert (one.status, three.status) == ("complete", "partial")
    assert (ours_text(table, one, table.metrics[0]), one.measured["test/top1_error"].std) == ("36.00", None)
    assert ours_text(table, three, table.metrics[0]) == "36.00 (1 of 3 splits)"


def test_a_metric_may_be_how_many_times_as_much_one_column_has(sweep):
    """The speed-up of Table 10: 14.46 s of R-CNN over 0.142 s."""
    seconds = {"key": "timing/total_seconds", "id": "total", "label": "all (s)", "unit": "seconds"}
    speedup = {"key": "speedup", "of": "timing/total_seconds", "over": "rcnn", "id": "speedup"}
    shared = {"lower_is_better": False}
    sweep.describe(
        rows={"time": "time"},
        columns={"spp": "SPP", "rcnn": "R-CNN"},
        seeds=[0, 1],
        metrics=[{**seconds, **shared}, {**speedup, "label": "times as fast", "unit": "times", **shared}],
        paper={"speedup": {"time": {"spp": 102}}},
    )
    for seed, (ours, theirs) in enumerate([(0.5, 10.0), (0.25, 10.0)]):
        sweep.run("time", "spp", {"timing/total_seconds": ours}, seed=seed)
        sweep.run("time", "rcnn", {"timing/total_seconds": theirs}, seed=seed)
    table = read_table(sweep.directory)
    found = table.cells["time", "spp"].measured["speedup"]
    assert (dict(found.values), found.ours, found.paper) == ({0: 20.0, 1: 40.0}, 30.0, 102.0)
    assert table.cells["time", "rcnn"].measured["speedup"].ours == 1.0


def test_the_deviation_that_a_paper_gives_is_printed_with_its_number(sweep):
    sweep.describe(others=[{"label": "VQ", "test/top1_error": {"zf5": [74.41, 1.0], "overfeat7": 56.07}}])
    table = read_table(sweep.directory)
    texts = [
        paper_text(table.cells["VQ", column].measured["test/top1_error"], table.metrics[0])
        for column in ("zf5", "overfeat7")
    ]
    assert texts == ["74.41 ± 1.00", "56.07"]


def test_the_papers_numbers_of_classes_stand_beside_ours_and_other_methods_below(sweep):
    known = {
        "classes": ["cat", "dog"],
        "cells": {"no_spp": {"zf5": [39.4, 26.4]}, "DPM": {"zf5": [23.0, 12.7]}},
    }
    dpm = [{"label": "DPM", "test/top1_error": {"zf5": 33.7}}]
    sweep.describe(columns={"zf5": "ZF-5"}, per_class="test/ap/", paper_per_class=known, others=dpm)
    sweep.run("no_spp", "zf5", {"test/top1_error": 0.4, "test/ap/cat": 0.4, "test/ap/cow": 0.1})
    by_class = per_class_table(read_table(sweep.directory))
    cat, cow = (
        by_class.cells["no_spp/zf5", f"test/ap/{name}"].measured["test/ap/"] for name in ("cat", "cow")
    )
    assert (cat.ours, cat.paper, cat.difference, cow.paper) == (40.0, 39.4, 0.6, None)
    assert [row.label for row in by_class.rows] == ["(a) no SPP", "DPM"]
    assert by_class.cells["DPM/zf5", "test/ap/cat"].measured["test/ap/"].paper == 23.0


@pytest.mark.parametrize("value", [None, [], "x", float(10**300), 10**400, {"a": 1}, True])
def test_metrics_that_are_no_numbers_hide_no_other_run(sweep, value):
    sweep.describe()
    sweep.run("spp_single", "zf5", 0.25)
    run = sweep.run("no_spp", "zf5", 0.5)
    for content in (value, {"test/top1_error": value}):
        (run / "metrics.json").write_text(json.dumps(content))
        data = (run / "metrics.json").read_bytes()
        entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_json(run / "COMPLETE", {"files": {"metrics.json": entry}})
        cells = read_table(sweep.directory).cells
        assert cells["spp_single", "zf5"].measured["test/top1_error"].values == {0: 25.0}


def test_a_damaged_status_does_not_hide_what_a_marker_vouches_for(sweep):
    sweep.describe()
    run = sweep.run("no_spp", "zf5", 0.5)
    (run / "status.json").write_text("{")
    assert read_table(sweep.directory).cells["no_spp", "zf5"].status == "complete"


def test_a_number_of_the_papers_that_was_changed_is_damage(sweep):
    file = sweep.describe()
    write_sealed_json(file, read_json(file))
    assert read_table(sweep.directory).cells["no_spp", "zf5"].measured["test/top1_error"].paper == 35.99
    file.write_text(file.read_text().replace("35.99", "25.99"))
    with pytest.raises(ArtifactError, match=r"table-ab12cd34\.json: .*vouches for"):
        read_table(sweep.directory)


@pytest.mark.parametrize(("num_classes", "shown"), [(5, ["top1"]), (6, ["top1", "top5"])])
def test_five_best_of_five_classes_are_no_result(sweep, num_classes, shown):
    top1 = {"key": "test/top1_error", "id": "top1", "label": "", "unit": "percent", "lower_is_better": True}
    sweep.describe(metrics=[top1, {**top1, "key": "test/top5_error", "id": "top5"}])
    sweep.run(
        "no_spp", "zf5", {"test/top1_error": 0.4, "test/top5_error": 0.0, "test/num_classes": num_classes}
    )
    assert [metric.id for metric in read_table(sweep.directory).metrics] == shown
