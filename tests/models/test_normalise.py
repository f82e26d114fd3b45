"""Means: a constant, an image warped to the input, and what a trunk brings along."""

import pytest
import torch

from sppnet.errors import ConfigError
from sppnet.models.normalise import InputNorm


def test_a_constant_is_subtracted_and_the_scale_is_kept():
    norm = InputNorm.constant(mean=[128.0, 127.0, 126.0], std=[1.0] * 3)
    assert norm(torch.full((1, 3, 1, 1), 130.0)).flatten().tolist() == [2, 3, 4]


def test_a_mean_image_is_subtracted_pixel_by_pixel_at_its_own_size():
    norm = InputNorm.mean_image(size=2, std=[1.0] * 3)
    mean = torch.arange(12.0).view(3, 2, 2)
    norm.set_mean_image(mean)
    assert torch.equal(norm(mean[None] + 5), torch.full((1, 3, 2, 2), 5.0))


def test_a_mean_image_is_warped_to_other_sizes():
    norm = InputNorm.mean_image(size=2, std=[1.0] * 3)
    norm.set_mean_image(torch.tensor([[0.0, 4.0], [0.0, 4.0]]).expand(3, 2, 2))
    # pixel centres at 0.25 and 0.75 of the width hold 0 and 4; bilinear between, constant outside
    warped = -norm(torch.zeros(1, 3, 3, 4))
    assert warped[0, 0].tolist() == [[0, 1, 3, 4]] * 3


def test_a_mean_image_is_missing_until_it_is_set_or_loaded():
    norm, other = (InputNorm.mean_image(size=2, std=[1.0] * 3) for _ in range(2))
    assert norm.needs_mean_image
    norm.set_mean_image(torch.ones(3, 2, 2))
    assert not norm.needs_mean_image
    other.load_state_dict(norm.state_dict())
    assert not other.needs_mean_image
    assert not InputNorm.constant(mean=[1.0, 2.0, 3.0], std=[1.0] * 3).needs_mean_image


def test_a_constant_stands_in_for_the_mean_image_and_is_no_part_of_the_weights():
    norm = InputNorm.mean_image(size=2, std=[1.0] * 3)
    norm.set_mean_image(torch.rand(3, 2, 2))
    before = norm.state_dict()
    norm.constant_mean = 128.0
    images = torch.rand(1, 3, 5, 4) * 255
    constant = InputNorm.constant(mean=[128.0] * 3, std=[1.0] * 3)
    assert torch.equal(norm(images), constant(images))
    assert norm.state_dict().keys() == before.keys()
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())


def test_a_mean_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) does not fit"):
        InputNorm.mean_image(size=2, std=[1.0] * 3).set_mean_image(torch.ones(3, 4, 4))


def test_preprocessing_is_carried_with_the_trunk(backbone):
    norm = InputNorm.of_trunk(backbone("squeezenet1_1"))
    image = torch.tensor([0.485, 0.456, 0.406]).mul(255)[None, :, None, None]
    torch.testing.assert_close(norm(image), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(norm(image + 255 * 0.225)[0, 2], torch.ones(1, 1))


@pytest.mark.parametrize(("mean", "std"), [([1.0, 2.0], [1.0] * 3), ([0.0] * 3, [1.0, 0.0, 1.0])])
def test_constants_that_are_none_are_refused(mean, std):
    with pytest.raises(ConfigError, match="three finite numbers"):
        InputNorm.constant(mean=mean, std=std)
