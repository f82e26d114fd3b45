"""What a head is trained on: regions of kept maps, of the right image, size and side."""

import pytest
import torch
from PIL import Image
from tiny_nets import write_images

from sppnet.data.datamodule import ImageDataModule
from sppnet.data.folder import FolderReader
from sppnet.data.images import resize_short_side
from sppnet.data.sizes import BucketSizes, CyclicSizes, RandomSizes
from sppnet.data.transforms import ColourNoise
from sppnet.errors import ConfigError
from sppnet.models.backbones import TorchvisionBackbone
from sppnet.models.normalise import InputNorm
from sppnet.windows.image_batches import KeptTrunk, PooledDataModule

ONE_SIZE = CyclicSizes([16])


@pytest.fixture
def make_data(make_net, cache, tmp_path):
    """Two classes of three training images, some wide, some tall, some square."""
    for number, path in enumerate(write_images(tmp_path / "flat", 12)):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)

    def make(net=None, *, sizes=ONE_SIZE, **replaced):
        images = ImageDataModule(
            name="tiny", reader=FolderReader(), root=tmp_path / "images", per_class=3, test_per_class=1,
            split_seed=0, upright=True, train_crop="random", sizes=sizes, batch_size=4, seed=0, workers=0,
            cache_gb=0.0, max_pixels=10_000,
            colour=ColourNoise(scale=0.0, std=[0.0] * 3, axes=[[0.0] * 3] * 3),
            **{"val_fraction": 0.0, "short_side": 16, "crop": 16} | replaced,
        )  # fmt: skip
        data = PooledDataModule(images=images, net=net or make_net(), cache=cache)
        data.trainer = None
        data.fill(workers=1, report=lambda done, total: None)
        return data

    return make


def pooled(net, path, short_side: int, *, is_mirrored: bool) -> torch.Tensor:
    """The whole image, through the net, with maps of 16 bits."""
    pixels = resize_short_side(Image.open(path), short_side)
    pixels = pixels.flip(2) if is_mirrored else pixels
    with torch.no_grad():
        return net.pool(net.eval().maps(pixels[None].float()).half().float())[0]


def sides_of(data, net, batch, short_side: int) -> list[bool]:
    """Which rows are of mirrored images; each is one of both."""
    sides = []
    for row, label, index in zip(batch.inputs, batch.labels, batch.ids, strict=True):
        path = data.images.splits.train.paths[index]
        assert "ab"[label] == path.parent.name
        is_either = [
            torch.equal(row, pooled(net, path, short_side, is_mirrored=side)) for side in (False, True)
        ]
        assert any(is_either)
        sides.append(is_either[1])
    return sides


def test_whole_images_are_pooled_at_their_own_size_and_half_of_them_mirrored(make_data, make_net):
    data = make_data(sizes=BucketSizes([16, 12], aspect_step=1.2, max_aspect=2.5))
    batches = list(data.train_dataloader())
    assert {batch.size for batch in batches} == {16}  # all images are as large
    sides = [side for batch in batches for side in sides_of(data, make_net(), batch, 16)]
    assert 0 < sum(sides) < len(sides)


def test_every_training_size_has_maps_of_its_own(make_data, make_net):
    data = make_data(sizes=CyclicSizes([16, 12]))
    draws = data.train_dataloader().sampler
    for epoch, size in enumerate((16, 12)):
        draws.set_epoch(epoch)
        paths = data.images.splits.train.paths
        square = [draw for draw in draws if Image.open(paths[draw.index]).size == (18, 18)]
        assert square
        batch = data.batch(square)
        assert batch.size == size
        sides_of(data, make_net(), batch, size)  # a region as large as a square image is all of it


def test_a_region_is_the_cells_whose_centres_lie_in_it(make_data, make_net):
    data = make_data(val_fraction=0.34, short_side=18, crop=14)
    (batch,) = data.val_dataloader()
    net = make_net()
    for row, index in zip(batch.inputs, batch.ids, strict=True):
        pixels = resize_short_side(Image.open(data.images.splits.val.paths[index]), 18)
        top, left = (pixels.shape[1] - 14) // 2, (pixels.shape[2] - 14) // 2
        with torch.no_grad():
            maps = net.eval().maps(pixels[None].float()).half().float()
        # Cell j of stride 2 sees pixels with their centre at 2 j + 1/2.
        rows, columns = (
            [j for j in range(cells) if first <= 2 * j + 0.5 <= first + 13]
            for first, cells in ((top, maps.shape[2]), (left, maps.shape[3]))
        )
        region = maps[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(row, net.pool(region)[0])


def test_maps_are_computed_once_and_damaged_ones_again(make_data, cache):
    before = [batch.inputs for batch in make_data().train_dataloader()]
    computed = cache.counts.computed
    assert computed == 12  # six images and their mirror images
    file = next(cache.root.glob("*/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    after = [batch.inputs for batch in make_data().train_dataloader()]
    assert (cache.counts.computed - computed, cache.counts.damaged) == (1, 1)
    assert all(map(torch.equal, before, after))


def test_a_loader_goes_on_with_the_draws_that_are_left(make_data):
    whole = make_data().train_dataloader()
    iterator = iter(whole)
    next(iterator)
    state = whole.state_dict()
    rest = [batch.inputs for batch in iterator]
    resumed = make_data().train_dataloader()
    resumed.load_state_dict(state)
    assert rest
    assert all(map(torch.equal, rest, [batch.inputs for batch in resumed]))


def test_sizes_drawn_at_random_are_refused(make_data):
    with pytest.raises(ConfigError, match=r"choose train_sizes=multi .* or buckets, or training.trains=all"):
        make_data(sizes=RandomSizes(12, 16))


def test_a_trunk_whose_geometry_cannot_be_derived_is_cut_into_cells_of_its_stride(make_data, make_net):
    backbone = TorchvisionBackbone(name="shuffle", model="shufflenet_v2_x0_5", layer="stage2", weights=None)
    with pytest.raises(ConfigError):
        _ = backbone.receptive_field
    net = make_net(backbone=backbone, input_norm=InputNorm.of_trunk(backbone), levels=[1])
    batch = next(iter(make_data(net).train_dataloader()))
    assert batch.inputs.shape == (4, backbone.out_channels)
    assert backbone.stride == 8
    assert batch.inputs.isfinite().all()


def test_a_kept_trunk_computes_an_image_once_and_says_what_the_trunk_says(make_net, cache):
    net, images = make_net().eval(), torch.randint(0, 256, (3, 3, 16, 20)).float()
    with torch.no_grad():
        exact = net.maps(images)
        net.backbone = KeptTrunk(net, cache)
        for view in (images, images.flip(0), images[1:2]):
            net.maps(view)
        assert cache.counts.computed == 3
        torch.testing.assert_close(net.maps(images), exact, rtol=2**-10, atol=1e-5)
        net.maps(images.flip(3))  # mirrored
    assert cache.counts.computed == 6
    assert net.backbone.receptive_field == make_net().backbone.receptive_field
