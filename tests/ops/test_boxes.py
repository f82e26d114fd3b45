"""Boxes with both ends inside, as VOC counts, and the offsets of R-CNN's box regression."""

import math

import pytest
import torch

from sppnet.ops.boxes import clip_boxes, decode_offsets, encode_offsets, flip_boxes, iou, keep_windows


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def random_boxes(count, seed):
    corners = torch.randint(0, 60, (count, 2, 2), generator=torch.Generator().manual_seed(seed)).float()
    return torch.cat([corners.amin(dim=1), corners.amax(dim=1)], dim=1)


def test_one_pixel_is_a_box_of_area_one():
    assert iou(boxes([3, 3, 3, 3]), boxes([3, 3, 3, 3], [3, 3, 4, 3], [4, 3, 4, 3])).tolist() == [[1, 0.5, 0]]


def test_overlap_counts_shared_pixels():
    a, b = random_boxes(30, 0), random_boxes(20, 1)
    ours = iou(a, b)
    for i, first in enumerate(a.int().tolist()):
        for j, second in enumerate(b.int().tolist()):
            one, other = (
                {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}
                for x1, y1, x2, y2 in (first, second)
            )
            assert ours[i, j].item() == len(one & other) / len(one | other)


def test_an_overlap_of_three_tenths_is_not_more_than_three_tenths():
    assert not (iou(boxes([0, 0, 9, 0]), boxes([0, 0, 2, 0])) > 0.3).any()


def test_what_lies_outside_is_moved_to_the_border():
    outside = boxes([-5, -5, 700, 700], [3, 4, 5, 6], [600, 2, 700, 3], [-math.inf, 0, math.inf, 1])
    assert clip_boxes(outside, (375, 500)).tolist() == [
        *([0, 0, 499, 374], [3, 4, 5, 6], [499, 2, 499, 3], [0, 0, 499, 1])
    ]


def test_a_mirrored_box_covers_the_mirrored_pixels():
    image = torch.zeros(4, 7)
    image[1:3, 2:4] = 1
    ((x1, y1, x2, y2),) = flip_boxes(boxes([2, 1, 3, 2]), 7).int().tolist()
    assert image.flip(1)[y1 : y2 + 1, x1 : x2 + 1].sum() == image.sum()
    assert (x2 - x1, y2 - y1) == (1, 1)


def test_mirroring_twice_changes_nothing():
    assert torch.equal(flip_boxes(flip_boxes(random_boxes(9, 2), 80), 80), random_boxes(9, 2))


def test_offsets_small_enough_to_read():
    # Twice as wide and as high, its centre moved by half a width to the right.
    offsets = encode_offsets(boxes([0, 0, 10, 20]).double(), boxes([0, -10, 20, 30]).double())
    assert offsets.tolist() == [pytest.approx([0.5, 0, math.log(2), math.log(2)], abs=1e-12)]


def test_decoding_undoes_encoding():
    windows, truth = random_boxes(200, 3).double(), random_boxes(200, 4).double()
    wide = ((windows[:, 2:] - windows[:, :2]) > 0).all(1) & ((truth[:, 2:] - truth[:, :2]) > 0).all(1)
    windows, truth = windows[wide], truth[wide]
    assert len(windows) > 150
    decoded = decode_offsets(windows, encode_offsets(windows, truth))
    torch.testing.assert_close(decoded, truth, rtol=0, atol=1e-9)


def test_no_offset_leaves_the_window():
    windows = random_boxes(20, 5).double()
    torch.testing.assert_close(decode_offsets(windows, torch.zeros_like(windows)), windows)


def test_a_window_of_one_pixel_has_finite_offsets():
    assert encode_offsets(boxes([5, 5, 5, 5]), boxes([0, 0, 9, 9])).isfinite().all()


def test_an_inverted_truth_is_named_instead_of_becoming_nan():
    with pytest.raises(ValueError, match=r"truth 1 is \[9.0, 0.0, 4.0, 9.0\]"):
        encode_offsets(boxes([0, 0, 9, 9], [0, 0, 9, 9]), boxes([0, 0, 9, 9], [9, 0, 4, 9]))


def test_small_integers_do_not_overflow():
    small = torch.tensor([[0, 0, 250, 250]], dtype=torch.uint8)
    assert flip_boxes(small, 400).tolist() == [[149, 0, 399, 250]]
    assert clip_boxes(small, (100, 300)).tolist() == [[0, 0, 250, 99]]
    assert len(keep_windows(torch.tensor([[0, 0, 255, 255]], dtype=torch.uint8), min_side=5, max_proposals=9))
    low = torch.tensor([[-100, -100, 100, 100]], dtype=torch.int8)
    torch.testing.assert_close(encode_offsets(low, low), torch.zeros(1, 4))


def test_boxes_that_are_none_are_refused():
    with pytest.raises(ValueError, match="x1 <= x2"):
        iou(boxes([9, 9, 0, 0]), boxes([0, 0, 9, 9]))
