"""The cache on disk: damage is found, a full disk is survived, nothing outside is touched."""

import os
import signal
from pathlib import Path

import pytest
import torch

from sppnet.errors import ResourceError
from sppnet.features.extract import extract
from sppnet.features.specs import FeatureSpec
from sppnet.store.entry import shard_files
from sppnet.store.feature_cache import FeatureCache, entries
from sppnet.store.housekeeping import gc, stat, verify

CONV4, POOL, FC7 = map(FeatureSpec.parse, ("conv4", "pool", "fc7"))


@pytest.fixture
def fill(make_net, make_view, paths):
    def extract_all(cache, specs=(POOL,)):
        return extract(make_net(), paths, list(specs), make_view(), cache=cache)

    return extract_all


def shards_of(cache: FeatureCache) -> list[Path]:
    return [shard for entry in entries(cache.root) for shard in shard_files(entry)]


def test_a_shard_is_rows_of_little_endian_float32_and_nothing_else(fill, cache):
    matrix = fill(cache)["pool"].matrix()
    rows = [
        torch.frombuffer(bytearray(s.read_bytes()), dtype=torch.float32).view(-1, 80)
        for s in shards_of(cache)
    ]
    assert sorted(map(len, rows)) == [2, 4, 4]
    assert sorted(torch.cat(rows).tolist()) == sorted(matrix.tolist())


def test_a_second_call_computes_nothing_and_gives_the_same_bits(fill, cache):
    first = fill(cache, [POOL, FC7])
    assert (cache.counts.computed, cache.counts.reused) == (6, 0)
    again = FeatureCache(cache.root, shard_images=4)
    second = fill(again, [FC7, POOL])
    assert (again.counts.computed, again.counts.reused) == (0, 6)
    assert all(torch.equal(first[name].matrix(), second[name].matrix()) for name in first)


def test_rows_do_not_depend_on_what_was_there_already(fill, cache, tmp_path):
    whole = fill(cache, [POOL, FC7])
    for removed in range(3):
        other = FeatureCache(tmp_path / f"other{removed}", shard_images=4)
        fill(other, [FC7])
        shards_of(other)[removed].unlink()
        patched = fill(other, [POOL, FC7])
        assert other.counts.computed == 3 + 1 + 3
        assert all(torch.equal(whole[name].matrix(), patched[name].matrix()) for name in whole)


def test_every_damaged_shard_is_found_computed_again_and_counted(fill, cache):
    matrix = fill(cache)["pool"].matrix()
    shard = shards_of(cache)[0]
    whole = shard.read_bytes()
    flips = [(position, 1 << position % 8) for position in range(3, len(whole), len(whole) // 50)]
    damages = [whole[:length] for length in range(0, len(whole), len(whole) // 20)]
    damages += [whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :] for at, bit in flips]
    damages += [bytes(len(whole)), whole + b"\0"]
    assert len(damages) >= 70
    for number, damaged in enumerate(damages, start=1):
        shard.write_bytes(damaged)
        assert torch.equal(fill(cache)["pool"].matrix(), matrix)
        assert (cache.counts.damaged, cache.counts.computed) == (number, 3 + number)
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"{}", b'{"dim": 81, "identity": {"view": {"kind": "x"}}}']
)
def test_a_damaged_manifest_costs_nothing_but_itself(fill, cache, damage):
    fill(cache)
    (entry,) = entries(cache.root)
    whole = (entry / "entry.json").read_bytes()
    (entry / "entry.json").write_bytes(damage)
    assert stat(cache.root)[0].num_bytes == 10 * 80 * 4
    fill(cache)
    assert (entry / "entry.json").read_bytes() == whole
    (entry / "entry.json").unlink()
    fill(cache)
    assert (entry / "entry.json").read_bytes() == whole
    assert (cache.counts.computed, cache.counts.damaged) == (3, 0)


def test_the_same_images_twice_are_computed_once(make_net, make_view, paths, cache):
    features = extract(make_net(), [*paths[:4], *paths[:4]], [POOL], make_view(), cache=cache)["pool"]
    assert cache.counts.computed == 1
    assert torch.equal(features.matrix()[:4], features.matrix()[4:])


def test_too_small_a_disk_is_refused_before_the_first_image(cache):
    with pytest.raises(ResourceError) as error:
        cache.require_space(10**18)
    for piece in (str(cache.root), f"need {10**18} bytes", "bytes (", "are free", "sppnet cache gc"):
        assert piece in str(error.value)


def test_how_much_will_be_written_is_said_before(fill, cache, caplog):
    with caplog.at_level("INFO", logger="sppnet"):
        fill(cache, [CONV4])
    assert "tiny: conv4 of 10 images (crop view): 0.000 GB will be written to" in caplog.text
    caplog.clear()
    fill(cache, [CONV4])
    assert "written" not in caplog.text


def test_a_disk_that_fills_up_keeps_what_was_written_and_the_next_run_goes_on(fill, cache, tmp_path):
    resource = pytest.importorskip("resource")
    child = os.fork()
    if child == 0:
        # Shards of pool have 1,280 bytes, those of conv4 25,088.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            fill(cache, [POOL])
            fill(cache, [CONV4])
        except ResourceError as error:
            told = "GB free" in str(error) and ".f32" in str(error) and "25088 bytes" in str(error)
            os._exit(error.exit_code if told else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
    assert not list(cache.root.rglob("*.tmp"))
    found = fill(cache, [POOL, CONV4])
    assert (cache.counts.reused, cache.counts.computed, cache.counts.damaged) == (3, 3, 0)
    undisturbed = fill(FeatureCache(tmp_path / "other", shard_images=4), [POOL, CONV4])
    assert all(torch.equal(found[name].matrix(), undisturbed[name].matrix()) for name in found)


def test_a_cache_that_is_a_file_is_refused(fill, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match="file.*cannot write .Not"):
        fill(FeatureCache(tmp_path / "file", shard_images=4))
    assert (tmp_path / "file").read_text() == "mine"


def test_symbolic_links_are_neither_read_nor_followed(fill, cache, tmp_path):
    matrix = fill(cache)["pool"].matrix()
    shard = shards_of(cache)[0]
    outside = tmp_path / "outside.f32"
    shard.rename(outside)
    content = outside.read_bytes()
    shard.symlink_to(outside)
    assert torch.equal(fill(cache)["pool"].matrix(), matrix)
    assert cache.counts.computed == 4
    assert not shard.is_symlink()
    assert outside.read_bytes() == content
    # Nor does gc leave the cache through one.
    (cache.root / ("a" * 32)).symlink_to(tmp_path / "images")
    for lock in (cache.root / ".locks").iterdir():
        lock.unlink()
        lock.symlink_to(tmp_path / "stolen")
    with pytest.raises(ResourceError, match="cannot write"):
        fill(cache)
    assert not (tmp_path / "stolen").exists()


def test_a_layers_name_never_becomes_a_path(fill, cache, tmp_path, make_net, make_view, paths):
    net = make_net()
    net.backbone.roles["../../escaped"] = "relu1"
    net.backbone.name = "../../../escaped\n\x1b[2J"
    net.feature_layers = (*net.feature_layers, "../../escaped")
    extract(net, paths, [FeatureSpec("../../escaped", (1,))], make_view(), cache=cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "images"]
    names = {path.name for path in cache.root.iterdir()}
    assert ".locks" in names
    assert all(name == ".locks" or len(name) == 32 for name in names)


def test_gc_takes_the_longest_unused_first_and_leaves_what_is_in_use(fill, cache):
    fill(cache, [POOL])
    first = dict.fromkeys(shards_of(cache), 1000000000.0)
    for path, when in first.items():
        os.utime(path, (when, when))
    held = fill(cache, [FC7])
    assert len(gc(cache.root, unused_days=None, max_bytes=300).held) == 1
    assert not any(path.exists() for path in first)
    assert held["fc7"].matrix().shape == (10, 6)
    # A use today makes a shard young again.
    del held
    assert gc(cache.root, unused_days=1.0, max_bytes=None).shards == 0
    fill(cache, [POOL])
    assert cache.counts.damaged == 0
    for path in first:
        os.utime(path, (1e9, 1e9))
    fill(cache, [POOL])
    assert gc(cache.root, unused_days=1.0, max_bytes=None).shards == 0
    freed = gc(cache.root, unused_days=None, max_bytes=0)
    assert (freed.shards, freed.num_bytes, freed.held) == (6, 10 * (80 + 6) * 4, ())
    assert entries(cache.root) == []


def test_gc_leaves_strangers_alone(fill, cache, tmp_path):
    fill(cache)
    (cache.root / "thesis.tex").write_text("mine")
    (entry,) = entries(cache.root)
    (entry / "notes.f32").write_text("mine")
    (cache.root / ("b" * 32)).symlink_to(tmp_path / "images")
    gc(cache.root, unused_days=None, max_bytes=0)
    assert (cache.root / "thesis.tex").exists()
    assert (entry / "notes.f32").exists()
    assert len(list((tmp_path / "images").iterdir())) == 10


def test_verify_reads_every_byte(fill, cache):
    fill(cache, [POOL, FC7])
    assert verify(cache.root) == (6, [])
    shard = shards_of(cache)[4]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 128
    shard.write_bytes(content)
    assert verify(cache.root) == (6, [shard])
