"""R-CNN's warp against its code written out for one window, in pixels counted from 1 as MATLAB counts."""

import math

import pytest
import torch
from torch.nn import functional

from sppnet.ops.warp import warp_windows

DRAW = torch.Generator().manual_seed(0)
HEIGHT, WIDTH = 60, 90
IMAGE = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=DRAW)
GREY = torch.tensor([100.0, 120.0, 140.0])[:, None, None]
# A coordinate's rounding in float32 moves a pixel by a hundredth of a grey level at most.
NEAR = {"rtol": 0, "atol": 0.02}


def warp_one(image, window, size, context, fill):
    """rcnn_im_crop.m with imresize(..., 'bilinear', 'antialiasing', false)."""
    x1, y1, x2, y2 = (end + 1 for end in window)
    scale = size / (size - 2 * context)
    half_width, half_height = (x2 - x1 + 1) / 2, (y2 - y1 + 1) / 2
    centre_x, centre_y = x1 + half_width, y1 + half_height
    x1, x2 = (math.floor(centre_x + side * half_width * scale + 0.5) for side in (-1, 1))
    y1, y2 = (math.floor(centre_y + side * half_height * scale + 0.5) for side in (-1, 1))
    scale_x, scale_y = size / (x2 - x1 + 1), size / (y2 - y1 + 1)
    left = math.floor(max(0, 1 - x1) * scale_x + 0.5)
    top = math.floor(max(0, 1 - y1) * scale_y + 0.5)
    x1, y1, x2, y2 = max(1, x1), max(1, y1), min(image.shape[2], x2), min(image.shape[1], y2)
    wide = min(math.floor((x2 - x1 + 1) * scale_x + 0.5), size - left)
    tall = min(math.floor((y2 - y1 + 1) * scale_y + 0.5), size - top)
    square = fill.expand(3, size, size).clone()
    part = image[None, :, y1 - 1 : y2, x1 - 1 : x2].float()
    square[:, top : top + tall, left : left + wide] = functional.interpolate(
        part, (tall, wide), mode="bilinear", align_corners=False
    )[0]
    return square


def random_windows(number):
    limits = torch.tensor([WIDTH, HEIGHT])
    ends = (torch.rand(2, number, 2, generator=DRAW) * limits).floor()
    return torch.cat([ends.amin(dim=0), ends.amax(dim=0)], dim=1)


@pytest.mark.parametrize(("size", "context"), [(227, 16), (32, 3), (17, 8)])
def test_windows_are_warped_as_r_cnns_code_warps_them(size, context):
    whole = torch.tensor([[0.0, 0.0, WIDTH - 1, HEIGHT - 1]])
    pixel = torch.tensor([[5.0, 7.0, 5.0, 7.0]])
    windows = torch.cat([whole, pixel, random_windows(20)])
    warped = warp_windows(IMAGE, windows, size=size, context=context, fill=GREY)
    for window, square in zip(windows.tolist(), warped, strict=True):
        torch.testing.assert_close(square, warp_one(IMAGE, window, size, context, GREY), **NEAR)


def test_without_context_a_window_is_resized_and_nothing_else():
    warped = warp_windows(IMAGE, torch.tensor([[10.0, 20.0, 39.0, 44.0]]), size=48, context=0, fill=GREY)
    part = IMAGE[None, :, 20:45, 10:40].float()
    torch.testing.assert_close(warped, functional.interpolate(part, (48, 48), mode="bilinear"), **NEAR)


def test_a_window_of_195_pixels_has_16_more_around_it_in_the_squares_227():
    image = torch.rand(3, 300, 300, generator=DRAW) * 255
    warped = warp_windows(image, torch.tensor([[50.0, 60, 244, 254]]), size=227, context=16, fill=GREY)
    # From 50 - 16 to 244 + 16 + 1: R-CNN adds the width to the first pixel.
    part = image[None, :, 44:272, 34:262]
    torch.testing.assert_close(warped, functional.interpolate(part, (227, 227), mode="bilinear"), **NEAR)


def test_beyond_the_image_stands_the_fill_and_nothing_of_it_inside():
    white = torch.full((3, 100, 100), 255.0)
    fill = torch.arange(3 * 32 * 32).view(3, 32, 32).float()
    (square,) = warp_windows(white, torch.tensor([[0.0, 0.0, 25, 25]]), size=32, context=3, fill=fill)
    # 26 pixels become 33 of which 3 lie left of the image: round(3 * 32 / 33) = 3 of the square.
    assert torch.equal(square[:, :3], fill[:, :3])
    assert torch.equal(square[:, :, :3], fill[:, :, :3])
    torch.testing.assert_close(square[:, 3:, 3:], torch.full((3, 29, 29), 255.0), **NEAR)


def test_what_lies_beside_the_window_does_not_shine_through():
    image = torch.full((3, 40, 40), 255.0)
    image[:, 10:20, 10:20] = 0
    square = warp_windows(image, torch.tensor([[10.0, 10, 19, 19]]), size=33, context=0, fill=GREY)
    torch.testing.assert_close(square, torch.zeros(1, 3, 33, 33), **NEAR)


def test_no_windows_make_no_squares():
    assert warp_windows(IMAGE, torch.empty(0, 4), size=8, context=1, fill=GREY).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ([9.0, 0, 3, 5], "window 0 is .* expected finite"),
        ([95.0, 0, 120, 20], "no pixel of an image of 60 x 90"),
        ([0.0, -30, 10, -9], "no pixel of an image of 60 x 90"),
    ],
)
def test_a_window_without_pixels_is_refused(window, message):
    with pytest.raises(ValueError, match=message):
        warp_windows(IMAGE, torch.tensor([window]), size=32, context=3, fill=GREY)


def test_a_context_that_fills_the_square_is_refused():
    with pytest.raises(ValueError, match="context=16 leaves nothing of a square of 32"):
        warp_windows(IMAGE, torch.zeros(1, 4), size=32, context=16, fill=GREY)
