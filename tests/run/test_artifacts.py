"""The one writer: whole files or none, whenever it is killed."""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sppnet.artifacts import (
    content_key,
    lock_file,
    read_json,
    write_atomic,
    write_json,
    write_named_by_digest,
    write_sealed_json,
    write_text,
)
from sppnet.damage import digest_matches
from sppnet.errors import ArtifactError, ResourceError
from sppnet.models.weights import read_part, save_part

WRITER = """
import sys
from pathlib import Path
from sppnet.artifacts import write_json
for version in range(10**9):
    write_json(Path(sys.argv[1]), {"version": version, "filling": "x" * 200_000})
    print(version, flush=True)
"""
OWNER = """
import sys
from pathlib import Path
from sppnet.artifacts import lock_file
lock = lock_file(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
"""


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path):
    path = tmp_path / "state.json"
    generator = random.Random(0)
    for _ in range(15):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(generator.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().split() if line)])
        writer.wait()
        stored = json.loads(path.read_text())
        assert stored["version"] in (acknowledged, acknowledged + 1)
        assert len(stored["filling"]) == 200_000


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path: Path):
    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})

    def fail(stream):
        stream.write(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomic(path, fail)
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def in_a_full_disk(limit: int, write) -> int:
    """The exit code of a child whose files end at `limit` bytes: 6 is an error that says so, of one file."""
    resource = pytest.importorskip("resource")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        code = 0
        try:
            write()
        except ResourceError as error:
            code = 6 if "GB free" in str(error) and "big" in str(error) else 1
        except BaseException:
            code = 2
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_full_disk_is_named_with_what_is_free(tmp_path: Path):
    assert in_a_full_disk(1000, lambda: write_json(tmp_path / "big.json", "x" * 10_000)) == 6
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 1, 100, 4096, 20_000, 79_000, 80_500])
def test_a_disk_that_fills_up_anywhere_inside_of_a_checkpoint_is_named(tmp_path: Path, limit: int):
    state = {f"layer{number}": torch.ones(2000) for number in range(10)}

    def save() -> None:
        write_named_by_digest(tmp_path, "big", ".ckpt", lambda stream: torch.save(state, stream))

    assert in_a_full_disk(limit, save) == 6
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ResourceError, match=r"lock: cannot be locked \(Function not.*with flock"):
        lock_file(tmp_path / "lock")


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(ResourceError, match="choose another paths.runs"):
        write_json(tmp_path / "runs" / "status.json", {})


def test_a_name_made_of_the_digest_finds_every_flipped_byte(tmp_path: Path):
    path = write_named_by_digest(
        tmp_path, "checkpoint-00000012", ".ckpt", lambda s: s.write(b"weights" * 100)
    )
    assert path.name.startswith("checkpoint-00000012-")
    assert digest_matches(path)
    content = bytearray(path.read_bytes())
    for position in range(0, len(content), 97):
        content[position] ^= 1
        path.write_bytes(content)
        assert not digest_matches(path)
        content[position] ^= 1


def test_a_key_depends_on_content_and_not_on_order():
    assert content_key({"a": 1, "b": [1.5, None]}) == content_key({"b": [1.5, None], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_a_broken_json_file_is_named(tmp_path: Path):
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"status\.json"):
        read_json(tmp_path / "status.json")


def test_a_lock_belongs_to_one_process_until_it_lets_go_or_dies(tmp_path: Path):
    path = tmp_path / "folder" / ".lock"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "True\n"
    assert lock_file(path) is None
    assert lock_file(path, shared=True) is None
    owner.kill()
    owner.communicate()
    with lock_file(path) as held:
        assert held is not None
        assert lock_file(path) is None  # not even this process twice
    with lock_file(path, shared=True), lock_file(path, shared=True, wait=True):
        assert lock_file(path) is None


def test_a_lock_that_is_a_symbolic_link_is_not_followed(tmp_path: Path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError, match="lock"):
        lock_file(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_part_is_none_and_said_and_the_next_one_takes_its_place(tmp_path: Path, caplog):
    place = tmp_path / "checkpoint-100.safetensors"
    assert read_part(place) is None
    save_part({"boxes": torch.ones(3)}, place)
    save_part({"boxes": torch.zeros(3)}, place)
    (file,) = tmp_path.iterdir()
    assert read_part(place)["boxes"].tolist() == [0, 0, 0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 64
    file.write_bytes(content)
    assert read_part(place) is None
    assert "made again" in caplog.text
    assert read_part(tmp_path / "checkpoint-10.safetensors") is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 6000, "NaN", '{"a": -Infinity}', "\0", ""]
)
def test_json_that_we_never_write_is_damage(tmp_path: Path, text: str):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"x\.json: not readable as JSON"):
        read_json(tmp_path / "x.json")


def test_a_seal_finds_a_changed_number(tmp_path: Path):
    file = tmp_path / "table.json"
    write_sealed_json(file, {"paper": 43.0, "rows": ("a", "b")})
    assert read_json(file) == {"paper": 43.0, "rows": ["a", "b"]}
    file.write_text(file.read_text().replace("43.0", "53.0"))
    with pytest.raises(ArtifactError, match="not what its sha256 vouches for"):
        read_json(file)


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path):
    (tmp_path / "out").symlink_to("/dev/null")
    write_text(tmp_path / "out", "a table")
    assert (tmp_path / "out").is_symlink()
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="disk is full"):
        write_text(tmp_path / "full", "a table")
    assert (tmp_path / "full").is_symlink()
