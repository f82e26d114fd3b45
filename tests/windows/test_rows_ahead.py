"""Rows computed ahead by threads: the same, in order, and nobody left behind."""

import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from sppnet.windows.conv_maps import ConvMaps
from sppnet.windows.source import WindowSource, rows_ahead
from sppnet.windows.spp import SppWindows

WINDOWS = torch.tensor([[0.0, 0, 17, 17], [2, 3, 9, 12], [5, 4, 16, 8]])


class Slow(WindowSource):
    """Answers with the number of the image, the first image last."""

    dim = 1

    def __init__(self, number, wrong=None):
        self.number, self.wrong = number, wrong
        self.begun = []

    def compute(self, out, image, windows, scales, watch):
        index = int(image.name)
        self.begun.append(index)
        time.sleep(0.004 * (self.number - index))
        if index == self.wrong:
            raise FileNotFoundError(f"image {index}")
        out.fill_(float(index))


class Request(NamedTuple):
    image: Path
    windows: torch.Tensor

    @property
    def number(self):
        return int(self.image.name)


def requests(number, paths=None):
    images = paths or [Path(str(index)) for index in range(number)]
    return (Request(image, WINDOWS[: index % 4]) for index, image in enumerate(images))


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_rows_come_in_the_order_of_the_requests(workers):
    ahead = rows_ahead(Slow(10), requests(10), workers=workers)
    answers = [(request, rows.clone()) for request, rows in ahead]
    assert [request.number for request, _ in answers] == list(range(10))
    for request, rows in answers:
        assert rows.tolist() == [[float(request.number)]] * len(request.windows)


def test_the_number_of_workers_changes_no_bit(make_net, paths):
    def answers(workers):
        net = make_net()
        maps = ConvMaps(net, is_mirrored=False, cache=None, max_pixels=10_000)
        source = SppWindows(
            *(maps,),
            **{"net": net, "layer": "fc7", "scales": [16, 24], "mapping": "centre_inside"},
            **{"scale_target": "paper", "side": 13, "order": "pyramid"},
        )
        return [rows.clone() for _, rows in rows_ahead(source, requests(len(paths), paths), workers=workers)]

    assert all(torch.equal(*both) for both in zip(answers(1), answers(3), strict=True))


def test_no_requests_have_no_rows():
    assert list(rows_ahead(Slow(0), requests(0), workers=2)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_reaches_the_caller_in_its_turn_and_ends_the_work(workers):
    before = threading.active_count()
    source, seen = Slow(20, wrong=4), []
    with pytest.raises(FileNotFoundError, match="image 4"):
        for request, _ in rows_ahead(source, requests(20), workers=workers):
            seen.append(request.number)
    assert seen == [0, 1, 2, 3]
    assert max(source.begun) <= 4 + workers
    assert threading.active_count() == before


def test_an_error_in_the_requests_reaches_the_caller():
    def broken():
        yield from requests(2)
        raise ValueError("no more")

    before = threading.active_count()
    with pytest.raises(ValueError, match="no more"):
        list(rows_ahead(Slow(2), broken(), workers=2))
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_who_stops_early_leaves_no_thread_and_no_work_behind(workers):
    before = threading.active_count()
    source = Slow(50)
    answers = rows_ahead(source, requests(50), workers=workers)
    next(answers)
    assert threading.active_count() > before
    answers.close()
    assert threading.active_count() == before
    assert len(source.begun) <= 1 + workers


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_is_asked_for_than_the_workers_and_the_caller_hold(workers):
    taken = []

    def noted():
        for request in requests(12):
            taken.append(request.number)
            yield request

    for request, _ in rows_ahead(Slow(12), noted(), workers=workers):
        assert len(taken) <= request.number + 1 + workers
    assert taken == list(range(12))
