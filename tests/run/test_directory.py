"""A run's directory: what names it, who holds it, when it is complete."""

import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.artifacts import read_json
from sppnet.errors import ArtifactError
from sppnet.run.directory import RunDirectory, identity_key, slug

CONFIG = {
    "seed": 0,
    "training": {"epochs": 3},
    "paths": {"runs": "runs"},
    "data": {"root": "here", "workers": 0},
}


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"training": {"epochs": 4}}, {"data": {"root": "there", "workers": 0}}, {"new": 1}],
)
def test_whatever_decides_the_result_changes_the_name(change):
    assert identity_key({**CONFIG, **change}) != identity_key(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        {"paths": {"runs": "elsewhere"}},
        {"logger": {"_target_": "x"}},
        {"data": {"root": "here", "workers": 8}},
        {"cell": {"position": 7}},
        {"jobs": 2},
    ],
)
def test_what_does_not_decide_the_result_does_not(change):
    assert identity_key({**CONFIG, **change}) == identity_key(CONFIG)


def test_a_directory_that_holds_another_configuration_is_refused(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell")
    with directory.hold(CONFIG) as ours:
        assert ours
    with pytest.raises(ArtifactError, match="another configuration"), directory.hold({**CONFIG, "seed": 1}):
        pass


def test_a_second_process_leaves_a_running_cell_alone(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from sppnet.run.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).hold({'seed': 0}) as ours: print(ours)"
    )
    directory = RunDirectory(tmp_path / "cell")
    command = [sys.executable, "-c", code, str(directory.path)]
    with directory.hold({"seed": 0}):
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_only_the_marker_makes_a_run_complete_and_it_vouches_for_the_metrics(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell")
    with directory.hold(CONFIG):
        directory.write_status("running", cell={"row": "a"}, started=0.0, error=None)
        assert not directory.is_complete
        directory.write_complete({"test/top1_error": 0.25}, files=())
    assert directory.is_complete
    entry = read_json(directory.path / "COMPLETE")["files"]["metrics.json"]
    assert entry["bytes"] == (directory.path / "metrics.json").stat().st_size


@pytest.mark.parametrize("hostile", ["../../etc/passwd", "a/b\0c", "x" * 400, "…", " "])
def test_any_label_becomes_a_harmless_file_name(hostile: str):
    name = slug(hostile)
    assert name
    assert len(name) <= 80
    assert not set("/\0") & set(name)
    assert not name.startswith(".")
