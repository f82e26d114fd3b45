"""Table 10's timing: what is computed and counted, never how fast."""

import statistics
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sppnet.data.images import resize_short_side
from sppnet.errors import ConfigError
from sppnet.ops.windows import choose_scale, map_cells, scale_windows
from sppnet.tasks.timing import over_images, time_detection
from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.spp import SppWindows
from sppnet.windows.stopwatch import StageSeconds, Stopwatch
from sppnet.windows.warped import WarpedWindows

WINDOWS = torch.tensor([[2.0, 3, 29, 32], [0, 0, 39, 49], [5, 5, 9, 9], [2, 3, 29, 32], [20, 1, 36, 12]])
SCALES = (40, 72, 120)
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path):
    """Three files of 40 x 50 pixels with 5, 3 and 4 proposals."""
    random = np.random.default_rng(0)
    listed = []
    for number, windows in enumerate((WINDOWS, WINDOWS[:3], WINDOWS[1:])):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (50, 40, 3), dtype=np.uint8)).save(path)
        listed.append((path, windows))
    return listed


@pytest.fixture
def spp(small_net):
    return SppWindows(
        ConvMaps(small_net, is_mirrored=False, cache=None, max_pixels=10_000),
        net=small_net,
        layer="fc7",
        scales=SCALES,
        mapping="centre_inside",
        scale_target="paper",
        side=224,
        order="bins_first",
    )


@pytest.fixture
def make_rcnn(small_net):
    def make(max_windows=None):
        return WarpedWindows(
            net=small_net,
            layer="fc7",
            size=24,
            context=2,
            batch_size=2,
            max_pixels=10_000,
            max_windows=max_windows,
        )

    return make


def timed(source, images, num_warmup=0):
    return time_detection(source, images, device=CPU, num_warmup=num_warmup)


@torch.inference_mode()
def test_the_spp_features_that_are_timed_are_those_of_slices_of_the_maps(spp, small_net, images):
    path, image = images[0][0], Image.open(images[0][0])
    rows = spp.rows(path, WINDOWS, watch=Stopwatch(CPU))
    for row, window, scale in zip(
        rows, WINDOWS, choose_scale(WINDOWS, 40, SCALES, "paper").tolist(), strict=True
    ):
        maps = small_net.maps(resize_short_side(image, scale)[None].float()).half().float()
        size = (maps.shape[2], maps.shape[3])
        resized = scale_windows(window[None], 40, scale)
        x1, y1, x2, y2 = map_cells(resized, small_net.backbone.receptive_field, size, "centre_inside")[0]
        part = maps[:, :, y1 : y2 + 1, x1 : x2 + 1]
        pooled = torch.cat([functional.adaptive_max_pool2d(part, n).flatten(1) for n in (2, 1)], dim=1)
        torch.testing.assert_close(row, small_net.fc_features(pooled, "fc7")[0], rtol=1e-4, atol=1e-4)


def test_what_is_timed_is_what_detects(spp, make_rcnn, images):
    for source in (spp, make_rcnn()):
        for path, windows in images:
            timed_rows = source.rows(path, windows, watch=Stopwatch(CPU))
            assert torch.equal(timed_rows, source.rows(path, windows))


def test_a_clock_looks_at_work_and_not_at_what_is_remembered(spp, images):
    path, windows = images[0]
    spp.rows(path, windows)
    watch = Stopwatch(CPU)
    spp.rows(path, windows, watch=watch)
    assert all(stage > 0 for stage in watch.wall)


def test_windows_that_cover_the_same_cells_are_computed_once(spp, images):
    assert [watch.num_computed for watch in timed(spp, images)] == [4, 3, 4]


def test_r_cnn_may_warp_some_windows_but_its_fc_layers_see_as_many_vectors(make_rcnn, images):
    path = images[0][0]
    whole, watch = make_rcnn().rows(path, WINDOWS), Stopwatch(CPU)
    rows = make_rcnn(max_windows=2).rows(path, WINDOWS, watch=watch)
    assert watch.num_computed == 2
    # Of five windows the first and the third, over and over.
    torch.testing.assert_close(rows, whole[[0, 2, 0, 2, 0]], rtol=1e-4, atol=1e-4)


def test_every_stage_of_every_image_takes_time(spp, make_rcnn, images):
    for source in (spp, make_rcnn()):
        watches = timed(source, images, num_warmup=1)
        assert len(watches) == 3
        assert all(stage > 0 for watch in watches for stage in watch.wall)


def test_warming_up_on_more_images_than_there_are_counts_none_twice(spp, images):
    assert [watch.num_computed for watch in timed(spp, images, num_warmup=9)] == [4, 3, 4]


def test_time_spent_on_a_tenth_of_the_work_counts_ten_times():
    watch = Stopwatch(CPU)
    with watch.stage("conv", 10.0):
        time.sleep(0.02)
    assert watch.wall.conv >= 0.2
    assert watch.cpu.conv < watch.wall.conv  # asleep


def test_a_stage_entered_twice_adds_up():
    watch = Stopwatch(CPU)
    for _ in range(2):
        with watch.stage("fc"):
            time.sleep(0.02)
    assert watch.wall.fc >= 0.04
    assert watch.wall.total == watch.wall.fc


def test_reading_the_file_is_in_no_total():
    seconds = StageSeconds(decode=100.0, prepare=1.0, conv=2.0, pooling=4.0, fc=8.0)
    assert seconds.to_pooled == 7
    assert seconds.total == 15


def test_means_and_medians_are_per_image():
    images = [StageSeconds(conv=conv, fc=1.0) for conv in (1.0, 2.0, 9.0)]
    assert over_images(statistics.fmean, images).conv == 4
    assert over_images(statistics.median, images).conv == 2
    assert over_images(statistics.median, images).total == 3


@pytest.mark.parametrize("windows", [[], [torch.empty(0, 4)]], ids=["no images", "no proposals"])
def test_nothing_to_time_is_refused(spp, images, windows):
    listed = [(images[0][0], some) for some in windows]
    with pytest.raises(ConfigError, match="expected one or more, all with proposals"):
        timed(spp, listed)
