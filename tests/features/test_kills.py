"""Extraction that is killed, and extraction by several processes at once."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sppnet.features.extract import extract
from sppnet.features.specs import FeatureSpec
from sppnet.store.entry import ROWS, Entry, Images, shard_files
from sppnet.store.feature_cache import FeatureCache, entries
from sppnet.store.housekeeping import gc

SPECS = [FeatureSpec.parse("conv4@3,1"), FeatureSpec.parse("fc7")]
SHARD_IMAGES = 2


@pytest.fixture
def run(make_net, make_view, paths, tmp_path) -> Callable[[], int]:
    """Extract into tmp_path/shared; returns how many shards this process computed."""

    def extract_all() -> int:
        cache = FeatureCache(tmp_path / "shared", shard_images=SHARD_IMAGES)
        extract(make_net(), paths, SPECS, make_view(), cache=cache)
        return cache.counts.computed

    return extract_all


@pytest.fixture
def expected(make_net, make_view, paths, tmp_path) -> dict[str, bytes]:
    """Every shard of an undisturbed extraction."""
    cache = FeatureCache(tmp_path / "undisturbed", shard_images=SHARD_IMAGES)
    extract(make_net(), paths, SPECS, make_view(), cache=cache)
    return contents(cache.root)


def contents(root: Path) -> dict[str, bytes]:
    files = [file for entry in entries(root) for file in shard_files(entry)] if root.exists() else []
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}


def inodes(root: Path) -> dict[str, int]:
    return {name: (root / name).stat().st_ino for name in contents(root)}


def fork(work: Callable[[], int]) -> int:
    """Run `work` in a child whose exit code is what it returns."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_again_and_again(run, expected, root: Path, kills: int) -> None:
    generator = random.Random(kills)
    start = time.perf_counter()
    assert exit_code(fork(run)) == len(expected)
    duration = time.perf_counter() - start
    survived = 0
    for round_number in range(kills):
        if contents(root) == expected and round_number:
            for name in generator.sample(sorted(expected), len(expected) - 1):
                (root / name).unlink()
        before = inodes(root)
        child = fork(run)
        time.sleep(generator.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
        survived += exit_code(child) == -signal.SIGKILL
        after = contents(root)
        assert after.items() <= expected.items()
        assert before.items() <= inodes(root).items()  # nothing whole was written again
    assert survived > 0
    kept = len(contents(root))
    assert exit_code(fork(run)) == len(expected) - kept
    assert contents(root) == expected
    assert not list(root.rglob("*.tmp"))


def test_a_killed_extraction_goes_on_where_it_stopped(run, expected, tmp_path):
    kill_again_and_again(run, expected, tmp_path / "shared", 10)


@pytest.mark.slow
def test_three_hundred_kills(run, expected, tmp_path):
    kill_again_and_again(run, expected, tmp_path / "shared", 300)


def run_together(run, number: int, *, kill: bool, generator: random.Random) -> tuple[int, list[int]]:
    """Start `number` extractions at once, perhaps kill one; returns deaths, and the others' counts."""
    read, write = os.pipe()

    def wait_and_run() -> int:
        os.close(write)
        os.read(read, 1)  # returns when the parent closes its end
        return run()

    children = [fork(wait_and_run) for _ in range(number)]
    os.close(read)
    os.close(write)
    if kill:
        time.sleep(generator.uniform(0, 0.2))
        os.kill(children[0], signal.SIGKILL)
    codes = [exit_code(child) for child in children]
    assert 255 not in codes
    counts = [code for code in codes if code >= 0]
    return len(codes) - len(counts), counts


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("kill", [False, True])
def test_processes_on_one_empty_cache_share_the_work(run, expected, tmp_path, number, kill):
    killed, counts = run_together(run, number, kill=kill, generator=random.Random(number))
    assert contents(tmp_path / "shared") == expected
    assert sum(counts) == len(expected) if not killed else sum(counts) <= len(expected)
    assert run() == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4, 8])
def test_fifty_rounds_of_sharing_the_work(run, expected, tmp_path, number):
    generator = random.Random(number)
    for round_number in range(50):
        root = tmp_path / "shared"
        for name in contents(root):
            (root / name).unlink()
        killed, counts = run_together(run, number, kill=round_number % 2 == 1, generator=generator)
        assert contents(root) == expected
        assert sum(counts) == len(expected) if not killed else sum(counts) <= len(expected)


def test_a_busy_shard_is_left_for_the_end_and_taken_over_when_its_owner_dies(run, expected, paths, tmp_path):
    root = tmp_path / "shared"
    run()
    first = Images.of(paths[:SHARD_IMAGES])
    for name in expected:
        (root / name).unlink()
    read, write = os.pipe()

    def hold_the_first_shard_forever() -> int:
        cache = FeatureCache(root, shard_images=SHARD_IMAGES)
        hold = (tmp_path / "hold").open("wb", buffering=0)
        some = Entry(entries(root)[0], dim=1, suffix=ROWS, hold=hold, counts=cache.counts)
        with some.claim(first) as is_ours:
            os.write(write, b"x" if is_ours else b"-")
            signal.pause()
        return 0

    owner = fork(hold_the_first_shard_forever)
    os.close(write)
    assert os.read(read, 1) == b"x"
    worker = fork(run)
    deadline = time.monotonic() + 20
    while len(contents(root)) < len(expected) - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(contents(root)) == len(expected) - 1
    assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    start = time.monotonic()
    os.kill(owner, signal.SIGKILL)
    assert exit_code(worker) == len(expected)
    assert time.monotonic() - start < 5
    exit_code(owner)
    assert contents(root) == expected


def test_a_reader_keeps_its_shards_from_gc_until_it_dies(make_net, make_view, paths, tmp_path):
    read, write = os.pipe()
    cache = FeatureCache(tmp_path / "shared", shard_images=SHARD_IMAGES)

    def read_forever() -> int:
        features = extract(make_net(), paths, SPECS, make_view(), cache=cache)
        os.write(write, b"x")
        signal.pause()
        return len(features)

    reader = fork(read_forever)
    os.close(write)
    assert os.read(read, 1) == b"x"
    freed = gc(cache.root, unused_days=None, max_bytes=0)
    assert (freed.shards, len(freed.held)) == (0, len(SPECS))
    os.kill(reader, signal.SIGKILL)
    exit_code(reader)
    assert gc(cache.root, unused_days=None, max_bytes=0).shards == len(SPECS) * 5
