"""The proof of crash states sees what it is there for: a missing fsync, a swapped order, a lost directory."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crash.disk import record
from crash.states import Proof

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

# A run of two files and a marker, as every stage writes it.
WRITER = """
import os, stat
from pathlib import Path
from sppnet import artifacts
from sppnet.run.directory import RunDirectory
fsync, replace = os.fsync, Path.replace
{fault}
run = RunDirectory(Path("runs/table/run"))
with run.hold():
    artifacts.write_json(run.path / "status.json", {{"state": "running"}})
    artifacts.write_text(run.path / "metrics.jsonl", "")
    for step in range(3):
        artifacts.append_line(run.path / "metrics.jsonl", str(step))
        artifacts.write_named_by_digest(run.path, "checkpoint", ".ckpt", lambda file: file.write(b"x" * 9999))
    artifacts.write_text(run.path / "config.yaml", "run: {{below: {{}}}}")
    artifacts.write_json(run.path / "status.json", {{"state": "complete"}})
    run.write_complete({{"test/score": 1.0}}, files=())
"""
IS_DIRECTORY = "stat.S_ISDIR(os.fstat(fd).st_mode)"
FAULTS = {
    "files are not synchronised": f"os.fsync = lambda fd: fsync(fd) if {IS_DIRECTORY} else None",
    "directories are not synchronised": f"os.fsync = lambda fd: None if {IS_DIRECTORY} else fsync(fd)",
    "a new directory is not synchronised": "artifacts.make_directory = lambda d: d.mkdir(0o777, True, True)",
    "the marker comes before what it vouches for": """
def early(path, target):
    if target.name == "metrics.json":
        import hashlib
        entry = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        artifacts.write_json(target.with_name("COMPLETE"), {"files": {"metrics.json": entry}})
    return replace(path, target)
Path.replace = early""",
}


def proof_of(tmp_path: Path, fault: str) -> Proof:
    folder = tmp_path / "work"
    folder.mkdir()
    ops = record([sys.executable, "-c", WRITER.format(fault=fault)], folder, tmp_path / "trace")
    return Proof(ops, folder, tmp_path).run()


def test_a_run_is_whole_or_absent_in_every_state(tmp_path: Path):
    proof = proof_of(tmp_path, "")
    assert proof.bad == []
    assert proof.num_states > 20


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_writer_is_seen(tmp_path: Path, fault: str):
    assert proof_of(tmp_path, FAULTS[fault]).bad


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_leave_no_other_state():
    subprocess.run(
        [sys.executable, "-m", "crash.states", "--sample", "3"], cwd=Path(__file__).parents[1], check=True
    )
