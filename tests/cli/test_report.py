import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.artifacts import write_json
from sppnet.cli import report, status
from sppnet.errors import ArtifactError, ConfigError, DataError, ResourceError
from sppnet.run.directory import RunDirectory


def _make_table(directory: Path, group: str = "ab12cd34", name: str = "table2") -> Path:
    """One row, two columns: 25 % error under ZF-5, a failure under Overfeat-7."""
    top1 = {"key": "test/top1_error", "id": "top1", "label": "top-1 error (%)", "unit": "percent"}
    write_json(
        directory / f"table-{group}.json",
        {
            "format": 2,
            "table": name,
            "title": f"{name}: errors",
            "group": group,
            "preset": "mini",
            "data": "shapes",
            "reduced": ["few images"],
            "command": f"sppnet experiment={name} preset=mini",
            "rows": [{"id": "no_spp", "label": "(a) no SPP"}],
            "columns": [{"id": "zf5", "label": "ZF-5"}, {"id": "overfeat7", "label": "Overfeat-7"}],
            "seeds": [0],
            "cells": [
                {"row": "no_spp", "column": "zf5", "repeat": 0, "run": "done"},
                {"row": "no_spp", "column": "overfeat7", "repeat": 0, "run": "failed"},
            ],
            "metrics": [{**top1, "lower_is_better": True}],
            "paper": {},
            "claims": [],
        },
    )
    done, failed = directory / "done", directory / "failed"
    cell = {"stage": "evaluation", "pid": 1, "host": socket.gethostname()}
    write_json(done / "status.json", cell | {"state": "complete", "seconds": 12.34, "error": None})
    take = {
        "commit": "abc1234",
        "software": {"python": "3.11.7", "torch": "2.11.0"},
        "machine": "a processor",
    }
    write_json(done / "provenance.json", {"takes": [take], "code": {}, "below": {}})
    RunDirectory(done).write_complete({"test/top1_error": 0.25}, files=())
    error = "OutOfMemory:\n48 GB"
    write_json(
        failed / "status.json",
        cell | {"state": "failed", "seconds": 3, "error": error},
    )
    return directory


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_a_table_is_printed_by_its_directory(runs, capsys):
    _make_table(runs / "table2")
    assert report.main(["runs/table2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("table2: errors (preset mini: not the paper's scale)\n  reduced: few images\n")
    assert "25.00" in out
    assert "failed" in out


def test_without_a_directory_every_table_is_printed_newest_first(runs, capsys):
    _make_table(runs / "table2")
    os.utime(runs / "table2" / "table-ab12cd34.json", (1, 1))
    _make_table(runs / "table6", name="table6")
    report.main([])
    out = capsys.readouterr().out
    assert 0 <= out.index("table6: errors") < out.index("table2: errors")


def test_json_is_an_object_for_a_table_and_a_list_for_a_directory_of_them(runs, capsys):
    _make_table(runs / "table2")
    report.main(["runs/table2", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["cells"][0]["ours"] == 25.0
    report.main(["--format", "json"])
    assert [table["table"] for table in json.loads(capsys.readouterr().out)] == ["table2"]


def test_csv_goes_to_a_file_and_nothing_to_the_terminal(runs, capsys, tmp_path):
    _make_table(runs / "table2")
    report.main(["runs/table2", "--format", "csv", "--out", "deep/er/t.csv"])
    assert capsys.readouterr().out == ""
    with (tmp_path / "deep" / "er" / "t.csv").open(newline="") as stream:
        assert [line["status"] for line in csv.DictReader(stream)] == ["complete", "failed"]


@pytest.mark.parametrize("form", ["terminal", "md", "tex"])
def test_every_format_goes_to_a_file_without_colour(runs, tmp_path, form):
    _make_table(runs / "table2")
    report.main(["runs/table2", "--format", form, "--out", "report"])
    text = (tmp_path / "report").read_text(encoding="utf-8")
    assert "25.00" in text
    assert "\x1b" not in text


def test_a_place_that_cannot_be_written_is_an_error_of_ours(runs):
    _make_table(runs / "table2")
    with pytest.raises(ResourceError, match="cannot write"):
        report.main(["runs/table2", "--out", "runs/table2/table-ab12cd34.json/x"])


def test_a_group_is_chosen_by_name(runs, capsys):
    _make_table(runs / "table2", group="00000000")
    _make_table(runs / "table2", group="11111111")
    os.utime(runs / "table2" / "table-00000000.json", (1, 1))
    report.main(["runs/table2", "--format", "json", "--group", "00000000"])
    assert json.loads(capsys.readouterr().out)["group"] == "00000000"
    with pytest.raises(ConfigError, match="11111111, 00000000"):
        report.main(["runs/table2", "--group", "x"])


@pytest.mark.parametrize("words", [["--format", "csv"], ["--group", "ab12cd34"], ["--publish", "x"]])
def test_what_is_for_one_table_names_the_tables_to_choose_from(runs, words):
    _make_table(runs / "table2")
    _make_table(runs / "table6")
    with pytest.raises(ConfigError, match="table2"):
        report.main(words)


def test_publishing_writes_beside_the_table_and_prints_where(runs, capsys):
    _make_table(runs / "table2")
    report.main(["runs/table2", "--publish", "table2-mini"])
    assert capsys.readouterr().out.split() == [
        "runs/published/table2-mini.md",
        "runs/published/table2-mini.json",
    ]
    published = json.loads((runs / "published" / "table2-mini.json").read_text())
    assert {"python", "torch", "machine", "commit", "published"} <= set(published["environment"])
    assert published["environment"]["commit"] == "abc1234"
    assert published["cells"][0]["metrics"]["test/top1_error"]["values"] == {"0": 25.0}
    # runs/published holds no table-*.json: it is not taken for a table.
    report.main(["--format", "json"])
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_publishing_from_inside_the_tables_directory_goes_to_the_same_place(runs, monkeypatch):
    monkeypatch.chdir(_make_table(runs / "table2"))
    report.main([".", "--publish", "x"])
    assert (runs / "published" / "x.md").is_file()


@pytest.mark.parametrize("verb", [report.main, status.main])
def test_nothing_to_show_says_what_to_run(runs, verb):
    with pytest.raises(DataError, match="sppnet experiment=table2"):
        verb([])
    (runs / "empty").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="sppnet experiment=table2"):
        verb(["runs/empty"])


@pytest.mark.parametrize("verb", [report.main, status.main])
def test_a_word_it_does_not_know_is_a_usage_error(verb):
    with pytest.raises(SystemExit) as stop:
        verb(["--colour"])
    assert stop.value.code == 2


def test_status_has_one_line_per_run_and_a_count(runs, capsys):
    _make_table(runs / "table2")
    (runs / "table2" / "done" / "COMPLETE").unlink()
    assert status.main(["runs/table2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "runs/table2: table2: errors (preset mini: not the paper's scale), group ab12cd34",
        "interrupted    12.3 s  no_spp/zf5/seed 0        runs/table2/done  its COMPLETE marker is gone; the "
        "table's command makes the run again",
        "failed          3.0 s  no_spp/overfeat7/seed 0  runs/table2/failed  OutOfMemory: 48 GB",
        "1 interrupted, 1 failed",
    ]


def test_a_run_that_never_started_is_missing(runs, capsys):
    _make_table(runs / "table2")
    (runs / "table2" / "failed" / "status.json").unlink()
    status.main([])
    assert "missing             -  no_spp/overfeat7/seed 0" in capsys.readouterr().out


def test_a_terminal_of_ascii_gets_its_table_too(runs):
    _make_table(runs / "table2")
    script = "from sppnet.cli import report; report.main(['runs/table2'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert b"25.00" in done.stdout
