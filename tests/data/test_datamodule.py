"""From files to batches: the right images, views, labels and shifts, and exact resumption."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer

from sppnet.data.images import BadImageError
from sppnet.data.records import Draw
from sppnet.data.sizes import BucketSizes
from sppnet.data.transforms import ColourNoise, RegionTransform, one_of_five_corners
from sppnet.errors import ConfigError, DataError
from sppnet.models.map_views import ManyViews
from sppnet.models.views import CropView, FullView, TenCropView


def test_a_training_batch_holds_square_regions_and_says_their_size(make_data):
    batch = next(iter(make_data().train_dataloader()))
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    assert batch.size == 16


def test_labels_and_ids_belong_to_the_pixels(make_data):
    data = make_data()
    for batch in data.train_dataloader():
        for image, label, position in zip(batch.images, batch.labels, batch.ids, strict=True):
            # conftest: image i of class k has grey level 40 k + i, and paths are sorted.
            assert image.float().std() == 0
            assert int(image[0, 0, 0]) == 40 * int(label) + int(position) % 7


def test_an_epoch_has_every_training_image_once_at_its_size(make_data):
    loader = make_data().train_dataloader()
    loader.sampler.set_epoch(1)
    batches = list(loader)
    assert sorted(torch.cat([batch.ids for batch in batches]).tolist()) == list(range(21))
    assert {batch.size for batch in batches} == {12}


@pytest.mark.parametrize("other", [{"workers": 2}, {"cache_gb": 0.0}])
def test_workers_and_memory_change_speed_only(make_data, other):
    plain = list(make_data().train_dataloader())
    for ours, theirs in zip(plain, make_data(**other).train_dataloader(), strict=True):
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, theirs, strict=True)
        )


def test_images_in_memory_are_not_read_again(make_data):
    data = make_data()
    loader = data.train_dataloader()
    for path in data.splits.train.paths:
        path.unlink()
    assert len(list(loader)) == 6


def test_loading_does_not_touch_the_global_generator(make_data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data = make_data()
    data.mean_image(16)
    list(data.train_dataloader())
    list(data.view_loader(CropView(short_side=18, size=16)))
    assert torch.equal(torch.get_rng_state(), before)


def test_ten_views_of_every_test_image_in_order(make_data):
    data = make_data(batch_size=40)
    batches = list(data.view_loader(TenCropView(short_side=18, size=16)))
    assert [batch.images[0].shape for batch in batches] == [(4, 10, 3, 16, 16)] * 3
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(12))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_whole_images_are_stacked_with_others_of_their_shape_and_each_is_seen_once(make_data):
    batches = list(make_data(batch_size=40).view_loader(FullView(short_side=9, flip=False)))
    seen = {tuple(batch.images[0].shape[2:]): batch.ids.tolist() for batch in batches}
    # conftest: images 0 to 3 of every class are 24 x 18, 18 x 24, 30 x 18 and 18 x 18 (width x height).
    assert seen == {
        (3, 9, 12): [0, 4, 8],
        (3, 12, 9): [1, 5, 9],
        (3, 9, 15): [2, 6, 10],
        (3, 9, 9): [3, 7, 11],
    }


def test_a_stack_of_whole_images_holds_no_more_pixels_than_a_training_batch(make_data):
    view = ManyViews(test_sides=[16, 24], size=16, full_short_side=None, mapping="centre_inside")
    for batch in make_data(batch_size=10).view_loader(view):
        pixels = sum(images[:, 0, 0].numel() for images in batch.images)
        assert pixels <= 10 * 16**2 or len(batch.labels) == 1


def test_buckets_show_every_image_whole_with_others_of_its_shape(make_data):
    sizes = BucketSizes(sizes=[12, 16], aspect_step=1.3, max_aspect=2.0)
    batches = list(make_data(sizes=sizes, batch_size=3).train_dataloader())
    assert set(torch.cat([batch.ids for batch in batches]).tolist()) == set(range(21))
    for batch in batches:
        assert batch.images.shape == (3, 3, batch.height, batch.width)
        # Short side 16 is the largest that enlarges no image; 24 x 18 is nearest to 1.3, 30 x 18 to 1.69.
        assert (batch.height, batch.width) in {(16, 21), (21, 16), (16, 27), (16, 16)}
        assert len({int(index) % 7 % 4 for index in batch.ids}) == 1


def test_held_out_images_are_seen_in_one_view_and_may_be_none(make_data):
    assert make_data().val_dataloader() == []
    (batch,) = make_data(val_fraction=0.3, batch_size=6).val_dataloader()
    assert batch.images[0].shape == (6, 1, 3, 16, 16)


def test_the_mean_image_is_the_mean_of_the_training_images(make_data):
    # Class k has levels 40 k + 0..6: means 3, 43, 83.
    mean = make_data().mean_image(16)
    assert mean.shape == (3, 16, 16)
    assert torch.allclose(mean, torch.tensor(43.0))
    assert make_data().mean_image(12).shape == (3, 12, 12)


def test_the_mean_image_is_of_all_training_images_part_by_part_or_of_some(make_data, monkeypatch):
    monkeypatch.setattr("sppnet.data.datamodule._NUM_TOGETHER", 5)
    assert torch.allclose(make_data(cache_gb=0.0).mean_image(16), torch.tensor(43.0))
    some = make_data(mean_images=4).mean_image(16)
    assert torch.equal(some, make_data(mean_images=4).central_regions(4).double().mean(dim=0).float())
    assert not torch.allclose(some, torch.tensor(43.0))


def test_the_mean_image_is_cut_from_the_centre(make_data, image_folder):
    stripes = np.zeros((18, 18, 3), dtype=np.uint8)
    stripes[:, 0] = 255  # the first column lies outside the central 16
    for path in image_folder.glob("train/*/*.png"):
        Image.fromarray(stripes).save(path)
    assert make_data().mean_image(16).max() == 0


# torch waits ten seconds for workers to end after one of them raised.
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_bad_image_while_training_is_named_with_its_index(make_data, image_folder, workers):
    path = image_folder / "train" / "bee" / "3.png"
    path.write_bytes(b"")
    with pytest.raises(BadImageError) as caught:
        list(make_data(workers=workers, cache_gb=0.0).train_dataloader())
    assert str(caught.value) == (
        f"{path}: the file is empty (0 bytes); copy or download it again [image 10 of the train set]"
    )


def test_verify_counts_kinds_and_lists_what_is_wrong(make_data, image_folder):
    assert make_data().verify() == Counter({"PNG RGB": 33})
    bad = sorted(image_folder.glob("*/*/*.png"))[:25]
    for path in bad:
        path.write_bytes(f"<html>{path}".encode())
    with pytest.raises(DataError) as caught:
        make_data().verify()
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 of 33 images cannot be used:"
    assert len(lines) == 22
    assert lines[-1] == "... and 5 more"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"crop": 20}, "image.size=20 must not exceed image.short_side=18"),
        ({"train_crop": "middle"}, "data.train_crop='middle' must be one of random, five"),
    ],
)
def test_settings_that_cannot_work_are_named(make_data, wrong, named):
    with pytest.raises(ConfigError, match=named):
        make_data(**wrong)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


DRAW = Draw(index=0, epoch=0, height=4, width=4)
NO_COLOUR = ColourNoise(scale=0.0, std=[1.0, 1.0, 1.0], axes=np.eye(3).tolist())


def test_regions_lie_anywhere_in_the_entire_image_and_half_are_mirrored():
    image = torch.arange(6, dtype=torch.uint8).expand(3, 4, 6).contiguous()
    transform = RegionTransform(crop=4, train_crop="random", colour=NO_COLOUR)
    rows = Counter(
        tuple(transform(image, DRAW, generator(seed)).region[0, 0].tolist()) for seed in range(3000)
    )
    ahead = [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)]
    assert set(rows) == {*ahead, *(row[::-1] for row in ahead)}
    # 3,000 draws over six equally likely rows: 500 +- 4 * sqrt(3000 * 1/6 * 5/6) = 500 +- 82.
    assert all(418 < count < 582 for count in rows.values())


def test_five_regions_are_the_centre_and_the_corners():
    found = {one_of_five_corners(4, 10, generator(seed)) for seed in range(200)}
    assert found == {(2, 5), (0, 0), (0, 10), (4, 0), (4, 10)}


def test_colour_shifts_have_the_covariance_of_their_axes():
    std, axes = (
        torch.tensor([121.78, 37.094, 19.721]),
        torch.linalg.qr(torch.randn(3, 3, generator=generator()))[0],
    )
    noise = ColourNoise(scale=0.1, std=std.tolist(), axes=axes.tolist())
    source = generator(1)
    drawn = torch.stack([noise.draw(source) for _ in range(20_000)])
    expected = axes.T @ torch.diag((0.1 * std) ** 2) @ axes
    # Relative deviation of a sampled variance: sqrt(2 / 20000) = 1 %; four of them, of the largest.
    assert torch.allclose(drawn.T.cov(), expected, atol=0.04 * float(expected.max()))


def test_the_papers_colour_constants_shift_by_grey_levels_not_thousands():
    noise = ColourNoise(scale=0.1, std=[121.78, 37.094, 19.721], axes=np.eye(3).tolist())
    source = generator(0)
    drawn = torch.stack([noise.draw(source) for _ in range(2000)])
    assert drawn[:, 0].std() == pytest.approx(12.178, rel=0.07)


class Recorder(LightningModule):
    """Writes down what it is given; its one weight is there for Lightning's sake."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch.size, batch.ids.tolist(), batch.colour_shift.tolist()))
        return self.weight * 0.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kill(Callback):
    """Save within a hook, when so many steps are done, and end there."""

    def __init__(self, path, hook, num_steps):
        self.path, self.num_steps = path, num_steps
        setattr(self, hook, self.end)

    def end(self, trainer, *_):
        if trainer.global_step == self.num_steps:
            trainer.save_checkpoint(self.path)
            raise KilledError


class KilledError(Exception):
    pass


def fit(data, task, folder, *callbacks, resume=None):
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers and intervals
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("hook", "num_steps"),  # six batches an epoch
    [("on_train_batch_end", 8), ("on_train_batch_end", 12), ("on_train_epoch_end", 12)],
)
def test_lightning_resumes_with_exactly_the_batches_that_were_left(
    make_data, tmp_path, workers, hook, num_steps
):
    undisturbed, before, after = Recorder(), Recorder(), Recorder()
    fit(make_data(), undisturbed, tmp_path)
    killed = tmp_path / "killed.ckpt"
    with pytest.raises(KilledError):
        fit(make_data(workers=workers), before, tmp_path, Kill(killed, hook, num_steps))
    fit(make_data(workers=workers), after, tmp_path, resume=killed)
    assert len(undisturbed.seen) == 18
    assert before.seen + after.seen == undisturbed.seen
