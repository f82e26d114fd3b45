"""Crops of a 4 x 6 image whose pixels are numbered."""

import pytest
import torch

from sppnet.ops.crops import centre_crop, ten_crop

NUMBERED = torch.arange(24, dtype=torch.uint8).view(1, 4, 6)


def test_the_central_square():
    assert centre_crop(NUMBERED, 2).tolist() == [[[8, 9], [14, 15]]]


def test_an_odd_margin_is_larger_at_the_bottom_and_the_right():
    assert centre_crop(NUMBERED, 3)[0, 0, 0] == 1


def test_ten_crops_stand_in_cuda_convnets_order():
    first_pixels = ten_crop(NUMBERED, 2)[:5, 0, 0, 0].tolist()
    # top left, top right, centre, bottom left, bottom right of the entire image
    assert first_pixels == [0, 4, 8, 12, 16]


def test_the_last_five_crops_mirror_the_first_five():
    crops = ten_crop(NUMBERED, 2)
    assert crops.shape == (10, 1, 2, 2)
    assert crops[5].tolist() == [[[1, 0], [7, 6]]]
    assert torch.equal(crops[5:], crops[:5].flip(-1))


@pytest.mark.parametrize("crop", [centre_crop, ten_crop])
def test_an_image_smaller_than_the_crop_names_the_setting_to_change(crop):
    with pytest.raises(ValueError, match=r"4 x 6 .* 5 x 5 .* view.short_side"):
        crop(NUMBERED, 5)
