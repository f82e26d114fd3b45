"""Maps of whole images: what is kept is what the net computes, rounded to 16 bits, and nothing else."""

import gc
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from by_number import ByNumber
from PIL import Image

from sppnet.cli.cache import main
from sppnet.data.images import resize_short_side
from sppnet.errors import ConfigError, DataError, NonFiniteError, ResourceError
from sppnet.store import housekeeping
from sppnet.store.feature_cache import FeatureCache
from sppnet.windows.conv_maps import ConvMaps

SCALE = 21


@pytest.fixture
def make_maps(make_net, paths, cache):
    def make(net=None, **replaced):
        arguments = {"is_mirrored": False, "cache": cache, "max_pixels": 10_000}
        images = replaced.pop("paths", paths)
        return ByNumber(ConvMaps(net or make_net(), **arguments | replaced), images)

    return make


def by_the_net(net, image, scale=SCALE):
    """Maps as they come out of the last convolution."""
    with torch.no_grad():
        return net.eval().maps(resize_short_side(image, scale)[None].float())[0]


def files_of(cache):
    return sorted(cache.root.glob("*/*.safetensors"))


def damage(file):
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def test_maps_are_the_nets_rounded_to_16_bits(make_maps, make_net, paths):
    maps = make_maps()
    for index, path in enumerate(paths[:4]):
        exact = by_the_net(make_net(), Image.open(path))
        assert torch.equal(maps.at(index, SCALE), exact.half().float())
        assert not torch.equal(maps.at(index, SCALE), exact)
        torch.testing.assert_close(maps.at(index, SCALE), exact, rtol=2**-11, atol=2**-24)


def test_what_was_kept_is_what_is_computed_bit_for_bit(make_maps, cache):
    fresh = make_maps(cache=None)
    first = [make_maps().at(index, SCALE) for index in range(4)]
    assert cache.counts.computed == 4
    kept = make_maps(cache=FeatureCache(cache.root))
    for index, maps in enumerate(first):
        assert torch.equal(maps, fresh.at(index, SCALE))
        assert torch.equal(maps, kept.at(index, SCALE))
    assert cache.counts.computed == len(files_of(cache)) == 4


def test_without_a_cache_nothing_is_written(make_maps, paths, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    maps = make_maps(cache=None)
    assert torch.equal(maps.at(0, SCALE), maps.at(0, SCALE))
    assert sorted(tmp_path.rglob("*")) == before


def test_channels_come_last_in_memory_where_pooling_wants_them(make_maps):
    assert make_maps().at(0, SCALE).permute(1, 2, 0).is_contiguous()


def test_mirrored_maps_are_those_of_the_mirrored_picture(make_maps, cache, paths, tmp_path):
    other = tmp_path / "mirrored.png"
    Image.open(paths[1]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    straight = make_maps().at(1, SCALE)
    mirrored = make_maps(is_mirrored=True).at(1, SCALE)
    assert cache.counts.computed == 2  # neither was taken for the other
    assert torch.equal(mirrored, make_maps(paths=[other], cache=None).at(0, SCALE))
    assert not torch.equal(mirrored, straight)
    assert torch.equal(make_maps(is_mirrored=True).at(1, SCALE), mirrored)


def nudged(make_net):
    net = make_net()
    with torch.no_grad():
        net.get_parameter("backbone.trunk.conv2.bias")[0] += 1e-6
    return net


@pytest.mark.parametrize(
    "change",
    [
        lambda make, make_net: make(nudged(make_net)).at(0, SCALE),
        lambda make, make_net: make(make_net(seed=1)).at(0, SCALE),
        lambda make, make_net: make().at(0, SCALE + 1),
        lambda make, make_net: make(upright=True).at(0, SCALE),
        lambda make, make_net: make().at(1, SCALE),
    ],
    ids=["one bias", "all weights", "scale", "orientation", "image"],
)
def test_what_something_else_computed_is_never_found(make_maps, make_net, cache, change):
    make_maps().at(0, SCALE)
    change(make_maps, make_net)
    assert cache.counts.computed == 2


def test_another_picture_under_the_same_name_is_another_picture(make_maps, cache, paths):
    old = make_maps().at(0, SCALE)
    pixels = np.array(Image.open(paths[0]))
    pixels[5, 7, 1] ^= 1
    Image.fromarray(pixels).save(paths[0])
    new = make_maps().at(0, SCALE)
    assert torch.equal(new, make_maps(cache=None).at(0, SCALE))
    assert not torch.equal(new, old)


def test_the_same_picture_under_another_name_is_found(make_maps, cache, paths, tmp_path):
    maps = make_maps().at(0, SCALE)
    shutil.copy(paths[0], tmp_path / "copy.png")
    assert torch.equal(make_maps(paths=[tmp_path / "copy.png"]).at(0, SCALE), maps)
    assert cache.counts.computed == 1


def test_another_head_finds_the_same_maps(make_maps, make_net, cache):
    make_maps().at(0, SCALE)
    other = make_net(head_width=9, num_classes=5)
    other.backbone.load_state_dict(make_net().backbone.state_dict())
    make_maps(other).at(0, SCALE)
    assert cache.counts.computed == 1


def test_a_picture_that_changes_under_a_running_job_is_refused(make_maps, cache, paths):
    maps = make_maps()
    maps.at(0, SCALE)
    Image.open(paths[0]).rotate(180).save(paths[0])
    with pytest.raises(DataError, match=r"0\.png: changed while it was read"):
        maps.at(0, SCALE + 1)
    assert len(files_of(cache)) == 1


@pytest.mark.parametrize("is_same_job", [True, False])
@pytest.mark.parametrize("harm", [damage, lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_a_damaged_file_is_computed_again(make_maps, cache, harm, is_same_job):
    maps = make_maps()
    before = maps.at(0, SCALE)
    harm(files_of(cache)[0])
    assert torch.equal((maps if is_same_job else make_maps()).at(0, SCALE), before)
    assert (cache.counts.computed, cache.counts.damaged) == (2, 1)
    assert torch.equal(make_maps().at(0, SCALE), before)
    assert cache.counts.computed == 2


def test_threads_share_the_work_and_get_what_one_gets(make_maps, cache, paths):
    alone = [make_maps(cache=None).at(index, SCALE) for index in range(len(paths))]
    maps = make_maps()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: maps.at(number // 2, SCALE), range(2 * len(paths))))
    assert all(torch.equal(alone[number // 2], one) for number, one in enumerate(together))
    assert cache.counts.computed == len(paths)


def test_filling_computes_what_is_missing_and_tells_how_far_it_is(make_maps, cache, paths):
    make_maps().at(3, SCALE)
    told = []
    make_maps().fill(SCALE, workers=2, report=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]
    assert cache.counts.computed == len(files_of(cache)) == 10
    make_maps().fill(SCALE, workers=1)
    assert cache.counts.computed == 10


def test_filling_can_be_stopped_and_goes_on_where_it_was(make_maps, cache):
    def stop(done, total):
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make_maps().fill(SCALE, workers=1, report=stop)
    kept = set(files_of(cache))
    assert 3 <= len(kept) < 10
    make_maps().fill(SCALE, workers=1)
    assert kept < set(files_of(cache))
    assert cache.counts.computed == 10


def test_what_does_not_fit_on_the_disk_is_not_begun(make_maps, cache):
    # 16 bits of 8 channels of a cell for every 2 x 2 pixels: a picture of 10^7 pixels a side takes 400 TB.
    with pytest.raises(ResourceError, match=r"these features need \d{16,} bytes.*cache gc"):
        make_maps().fill(10_000_000, workers=1)
    assert cache.counts.computed == 0


def test_a_cache_that_cannot_be_written_says_so(make_maps, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        make_maps(cache=FeatureCache(tmp_path / "file")).at(0, SCALE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 70_000.0], ids=["NaN", "infinite", "beyond 16 bits"])
def test_activations_that_16_bits_cannot_hold_name_the_picture(make_maps, make_net, cache, paths, value):
    net = make_net()
    with torch.no_grad():
        net.get_parameter("backbone.trunk.conv2.bias")[2] = value
    with pytest.raises(NonFiniteError, match=rf"{paths[2].name} at 21 pixels: activations of tiny are NaN"):
        make_maps(net).at(2, SCALE)
    assert not files_of(cache)


def test_a_scale_too_small_for_the_net_is_a_mistake_of_the_configuration(make_maps):
    with pytest.raises(ConfigError, match=r"windows.scales: 5 pixels are too few .* needs 6 or more"):
        make_maps().at(0, 5)
    assert make_maps().at(0, 6).shape == (8, 3, 4)


def test_the_orientation_is_that_of_the_annotations_unless_asked_otherwise(make_maps, paths, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).save(turned, exif=exif)
    stored, upright = (make_maps(paths=[turned], upright=is_upright) for is_upright in (False, True))
    assert (stored.size(0), upright.size(0)) == ((24, 18), (18, 24))
    assert stored.at(0, SCALE).shape[1:] == (10, 14)
    assert upright.at(0, SCALE).shape[1:] == (14, 10)


def test_dropout_and_gradients_are_off_for_a_net_that_was_being_trained(make_maps, make_net):
    net = make_net().train()
    assert not make_maps(net).at(0, SCALE).requires_grad
    assert not net.training


def test_maps_are_listed_verified_and_cleared_with_the_rest_of_the_cache(make_maps, cache, capsys):
    straight, mirrored = make_maps(), make_maps(is_mirrored=True)
    straight.fill(SCALE, workers=1)
    mirrored.at(0, 2 * SCALE)
    reports = {report.kind: report for report in housekeeping.stat(cache.root)}
    assert {(one.kind, one.short_side, one.images, one.dim) for one in reports.values()} == {
        ("maps", SCALE, 10, 8),
        ("maps, mirrored", 2 * SCALE, 1, 8),
    }
    assert reports["maps"].num_bytes == sum(file.stat().st_size for file in files_of(cache)) - (
        reports["maps, mirrored"].num_bytes
    )
    assert housekeeping.verify(cache.root) == (11, [])
    damage(files_of(cache)[4])
    assert housekeeping.verify(cache.root) == (11, [files_of(cache)[4]])
    assert main(["stat", str(cache.root)]) == 0
    assert "maps, mirrored" in capsys.readouterr().out

    freed = housekeeping.gc(cache.root, unused_days=0.0, max_bytes=0)
    assert (freed.shards, len(freed.held)) == (0, 2)  # both are in use
    del mirrored
    gc.collect()
    freed = housekeeping.gc(cache.root, unused_days=0.0, max_bytes=0)
    assert (freed.shards, freed.num_bytes) == (1, reports["maps, mirrored"].num_bytes)
    assert len(freed.held) == 1
    assert torch.equal(straight.at(0, SCALE), make_maps(cache=None).at(0, SCALE))
