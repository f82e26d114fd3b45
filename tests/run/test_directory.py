"""A run's directory: what names it, who holds it, when it is complete."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.artifacts import read_json, write_json
from sppnet.damage import damage_behind
from sppnet.errors import ArtifactError, ResourceError
from sppnet.run.directory import PROVENANCE, RunDirectory, slug

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
    write_json(directory.path / "provenance.json", {"key": CONFIG["run"]["key"]})
    directory.write_complete({}, files=("provenance.json",))
    assert directory.is_complete
    spoil(directory.path / "config.yaml")
    assert "config.yaml" in str(damage_behind(directory.path / "COMPLETE"))  # what `status` asks
    directory.prepare(CONFIG)
    assert directory.is_complete


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
    directory.prepare(CONFIG)
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


def sealed_text(body: str) -> str:
    return f"{body}sha256: {hashlib.sha256(body.encode()).hexdigest()}\n"


HOSTILE = {
    "nothing": "",
    "levels that overflow the parser's stack": sealed_text("run: " + "[" * 50_000),
    "mappings in mappings": sealed_text("run: " + "{a: " * 20_000),
    "anchors": sealed_text("a: &a [x, *a]\nrun: {key: 1}\n"),
    "a tag": sealed_text("run: !!python/object/apply:os.system ['exit 1']\n"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_configuration_is_damage_and_written_anew(tmp_path: Path, what: str):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    with directory.hold():
        directory.write_complete({}, files=())
    (directory.path / "config.yaml").write_text(HOSTILE[what])
    assert "config.yaml: not readable" in str(directory.damage)
    assert not directory.is_complete
    directory.prepare(CONFIG)
    assert directory.read_config() == CONFIG


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "weights.bin"])
@pytest.mark.parametrize("become", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_any_more_is_damage_and_nothing_waits_for_it(tmp_path: Path, name: str, become):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    (directory.path / "weights.bin").write_bytes(b"weights")
    with directory.hold():
        directory.write_complete({}, files=("weights.bin",))
    (directory.path / name).unlink()
    become(directory.path / name)
    assert "cell" in str(directory.damage)


def test_a_directory_under_another_runs_name_is_damaged(tmp_path: Path):
    directory = RunDirectory(tmp_path / "cell-00000000")
    directory.prepare(CONFIG)
    write_json(directory.path / PROVENANCE, {"key": CONFIG["run"]["key"]})
    with directory.hold():
        directory.write_complete({}, files=(PROVENANCE,))
    assert directory.is_complete
    moved = directory.path.rename(tmp_path / "cell-11111111")
    assert "cell-11111111: holds another run ('00000000')" in str(RunDirectory(moved).damage)
    with pytest.raises(ArtifactError, match=r"another run .*config\.yaml"):
        RunDirectory(moved).read_config()
    assert RunDirectory(moved.rename(tmp_path / "any name")).is_complete


@pytest.mark.parametrize(
    "below", [{"network": ["../../etc/x"]}, {"network": ["/etc/x"]}, {"network": 3}, 3, {"a": [4]}]
)
def test_a_run_stands_on_runs_beside_it_only(tmp_path: Path, below):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare({"run": {"key": "0" * 64, "below": below}})
    with pytest.raises(ArtifactError, match=r"config\.yaml: not as this version"):
        directory.read_config()


@pytest.mark.parametrize("name", ["../other/metrics.json", "/etc/hostname"])
def test_a_marker_vouches_for_files_in_its_directory_only(tmp_path: Path, name: str):
    directory = RunDirectory(tmp_path / "cell")
    directory.prepare(CONFIG)
    with directory.hold():
        directory.write_complete({}, files=())
    marker = read_json(directory.path / "COMPLETE")
    write_json(directory.path / "COMPLETE", {"files": {**marker["files"], name: {}}})
    assert f"vouches for {name!r}" in str(directory.damage)
