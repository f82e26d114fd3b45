"""A run's directory: what names it, who holds it, when it is complete."""

import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.artifacts import read_json, write_json
from sppnet.errors import ArtifactError, ResourceError
from sppnet.run.directory import RunDirectory, slug

CONFIG = {"run": {"key": "0" * 64}, "training": {"epochs": 3}}


def test_a_directory_that_holds_another_configuration_is_refused(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    assert directory.read_config() == CONFIG
    directory.prepare(CONFIG)
    with pytest.raises(ArtifactError, match="another configuration"):
        directory.prepare({"run": {"key": "1" * 64}})


@pytest.mark.parametrize("text", ["run: [", "[]", "seed: 0", "run: 1"])
def test_a_damaged_configuration_is_named(tmp_path: Path, text: str):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"config\.yaml.*remove the directory"):
        RunDirectory(tmp_path).read_config()


@pytest.mark.parametrize("spoil", [lambda file: file.write_text("run: ["), lambda file: file.unlink()])
def test_a_damaged_configuration_of_a_finished_run_is_seen_and_written_again(tmp_path: Path, spoil):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    write_json(directory.path / "provenance.json", {})
    directory.write_complete({}, files=("provenance.json",))
    assert directory.is_complete
    spoil(directory.path / "config.yaml")
    assert "config.yaml" in str(directory.damage)
    directory.prepare(CONFIG)
    assert directory.read_config() == CONFIG


def test_a_second_process_leaves_a_running_cell_alone(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from sppnet.run.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).hold() as ours: print(ours)"
    )
    directory = RunDirectory(tmp_path / "cell")
    command = [sys.executable, "-c", code, str(directory.path)]
    with directory.hold():
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


def test_only_the_marker_makes_a_run_complete_and_it_vouches_for_the_metrics(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell")
    with directory.hold():
        directory.write_status("running", about={"stage": "network"}, started=0.0, error=None)
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


def test_what_killed_writers_left_goes_when_the_directory_is_next_held(tmp_path: Path):
    left = tmp_path / "cell" / ".checkpoint-00000012.ckpt.4711.0a1b2c3d.tmp"
    left.parent.mkdir()
    left.write_bytes(b"half a checkpoint")
    with RunDirectory(left.parent).hold():
        assert not left.exists()


def test_what_another_process_writes_while_it_holds_the_directory_is_left_alone(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    with directory.hold():
        (directory.path / ".config.yaml.4711.0a1b2c3d.tmp").write_bytes(b"under way")
        RunDirectory(directory.path).prepare(CONFIG)
        assert (directory.path / ".config.yaml.4711.0a1b2c3d.tmp").exists()


@pytest.mark.parametrize("planted", ["single", "single/cell", "single/cell/run.log", "single/cell/results"])
def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path, planted: str):
    elsewhere, runs = tmp_path / "elsewhere", tmp_path / "runs"
    elsewhere.mkdir()
    (runs / planted).parent.mkdir(parents=True)
    (runs / planted).symlink_to(elsewhere)
    with pytest.raises(ResourceError, match="symbolic link"):
        RunDirectory(runs / "single" / "cell").prepare(CONFIG)
    assert list(elsewhere.iterdir()) == []


def test_the_folder_of_runs_may_be_a_link_itself(tmp_path: Path):
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large")
    RunDirectory(tmp_path / "runs" / "single" / "cell").prepare(CONFIG)
    assert (tmp_path / "large" / "single" / "cell" / "config.yaml").is_file()
