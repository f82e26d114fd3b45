"""Which windows fine-tuning sees (§4.1): a source that answers what it was asked for tells."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sppnet.data.voc2007 import AnnotatedImage
from sppnet.data.window_labels import DetectionImage
from sppnet.errors import ConfigError, DataError
from sppnet.windows.batches import WindowDataModule
from sppnet.windows.draws import WindowSampling, draw_windows, label_windows
from sppnet.windows.source import WindowSource

WIDTH = 50
SAMPLING = {
    "batch_size": 8,
    "positive_share": 0.25,
    "positive_overlap": 0.5,
    "background_overlap": 0.1,
    "images_per_chunk": 3,
    "flip": False,
    "random_scale": False,
}


class Echo(WindowSource):
    """A window's vector is the question: image, x1 y1 x2 y2, scale (-1: the best one), is it mirrored."""

    dim = 7

    def __init__(self, is_mirrored: bool) -> None:
        self.is_mirrored = is_mirrored
        self.asked: list[int] = []

    def compute(self, out, image, windows, scales, watch):
        index = int(image.stem)
        self.asked.append(index)
        scales = -torch.ones(len(windows)) if scales is None else scales.float()
        ends = torch.tensor([float(index), float(self.is_mirrored)]).expand(len(windows), 2)
        rows = torch.cat([ends[:, :1], windows, scales[:, None], ends[:, 1:]], dim=1)
        out.copy_(rows)


def image_of(index: int, *, num_objects: int = 2, num_proposals: int = 60) -> DetectionImage:
    random = torch.Generator().manual_seed(index)

    def boxes(number: int) -> torch.Tensor:
        first = torch.randint(0, 25, (number, 2), generator=random)
        return torch.cat([first, first + torch.randint(8, 24, (number, 2), generator=random)], dim=1).float()

    truth = boxes(num_objects)
    labels = torch.randint(0, 20, (num_objects,), generator=random)
    annotated = AnnotatedImage(
        str(index), Path(f"{index}.jpg"), WIDTH, 50, truth, labels, torch.zeros(num_objects, dtype=torch.bool)
    )
    return DetectionImage(annotated, boxes(num_proposals))


@pytest.fixture
def make() -> Callable[..., WindowDataModule]:
    """Ten images; keywords replace what is written here, or parts of the sampling."""

    def make(**replaced: Any) -> WindowDataModule:
        sampling = {name: replaced.pop(name, value) for name, value in SAMPLING.items()}
        arguments = {
            "source": Echo(is_mirrored=False),
            "flipped": Echo(is_mirrored=True),
            "images": [image_of(index) for index in range(10)],
            "sampling": WindowSampling(**sampling),
            "scales": [480, 688],
            "num_steps": 12,
            "seed": 0,
            "chunk_steps": 5,
            "chunk_gb": 1.0,
            "workers": 1,
        }
        return WindowDataModule(**{**arguments, **replaced})

    return make


def overlap(a, b) -> float:
    """IoU by counting pixels."""
    one, other = (
        {(x, y) for x in range(int(x1), int(x2) + 1) for y in range(int(y1), int(y2) + 1)}
        for x1, y1, x2, y2 in (a, b)
    )
    return len(one & other) / len(one | other)


def questions(data: WindowDataModule) -> list[tuple[float, ...]]:
    return [tuple(row) for batch in data.train_dataloader() for row in batch.inputs.tolist()]


def test_of_a_batch_of_128_windows_32_are_positive():
    assert WindowSampling(**{**SAMPLING, "batch_size": 128}).num_positives == 32


def test_every_batch_has_a_quarter_of_positives_and_labels_are_those_of_the_best_overlap(make):
    data = make()
    batches = list(data.train_dataloader())
    assert len(batches) == 12
    for batch in batches:
        assert (batch.labels > 0).sum() == 2
        for (index, *window, _, _), label, image_id in zip(
            batch.inputs.tolist(), batch.labels.tolist(), batch.ids.tolist(), strict=True
        ):
            assert index == image_id
            truth = data.images[image_id].truth
            overlaps = [overlap(window, box) for box in truth.boxes_xyxy.tolist()]
            best = max(range(len(overlaps)), key=overlaps.__getitem__)
            if label:
                assert overlaps[best] >= 0.5
                assert label == truth.labels[best] + 1
            else:
                assert 0.1 <= overlaps[best] < 0.5


def test_no_window_is_drawn_twice_in_a_chunk(make):
    seen = questions(make(num_steps=5))
    assert len(set(seen)) == len(seen) == 40


def test_too_few_positives_are_repeated_equally_often(make):
    # 3 images of 2 objects and no proposal that matches: 6 positives for 20 places.
    far = [
        image_of(i, num_proposals=0)._replace(proposals=torch.tensor([[0.0, 0, 49, 49]])) for i in range(3)
    ]
    data = make(images=far, batch_size=4, positive_share=1.0, positive_overlap=0.9)
    counts = Counter(questions(data)[:20])
    assert sorted(counts.values()) == [3, 3, 3, 3, 4, 4]


def test_a_chunk_reads_each_of_its_images_once(make):
    data = make(num_steps=5)
    questions(data)
    assert len(data.sources[0].asked) == len(set(data.sources[0].asked)) <= 10


def test_a_chunk_takes_images_until_there_are_windows_enough(make):
    labelled = make().labelled
    positives, backgrounds = (
        torch.bincount(labelled.images[is_kind], minlength=10)
        for is_kind in (labelled.labels > 0, labelled.labels == 0)
    )
    sampling = WindowSampling(**{**SAMPLING, "images_per_chunk": 1})
    for seed in range(20):
        draws = draw_windows(
            labelled,
            sampling,
            scales=[],
            num_batches=5,
            generator=torch.Generator().manual_seed(seed),
        )
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
        used = set(labelled.images[draws.rows.flatten()].tolist())
        fewest = next(
            number
            for number in range(1, 11)
            if positives[order[:number]].sum() >= 10 and backgrounds[order[:number]].sum() >= 30
        )
        assert used <= set(order[:fewest])


def test_all_windows_of_an_image_are_drawn_equally_often(make):
    data = make(images=[image_of(0)], batch_size=2, positive_share=0.5, num_steps=300, chunk_steps=1)
    counts = Counter(questions(data))
    positives = data.labelled.windows[data.labelled.labels > 0].tolist()
    seen = [counts[(0.0, *window, -1.0, 0.0)] for window in positives]
    expected = 300 / len(positives)
    assert seen == pytest.approx([expected] * len(positives), abs=4 * expected**0.5)


def test_more_images_are_taken_when_asked_for(make):
    few, many = make(num_steps=5, images_per_chunk=1), make(num_steps=5, images_per_chunk=10)
    questions(few), questions(many)
    assert len(few.sources[0].asked) < len(many.sources[0].asked)


def test_half_of_the_windows_are_those_of_mirrored_images(make):
    data = make(flip=True, num_steps=200, chunk_steps=200, positive_share=1.0)
    originals = {tuple(window) for window in data.labelled.windows.tolist()}
    num_mirrored = 0
    for _, x1, y1, x2, y2, _, is_mirrored in questions(data):
        num_mirrored += is_mirrored == 1
        assert ((WIDTH - 1 - x2, y1, WIDTH - 1 - x1, y2) if is_mirrored else (x1, y1, x2, y2)) in originals
    assert num_mirrored == pytest.approx(800, abs=4 * 1600**0.5 / 2)


def test_scales_are_the_best_ones_or_drawn_evenly(make):
    assert {row[5] for row in questions(make())} == {-1.0}
    counts = Counter(row[5] for row in questions(make(random_scale=True, num_steps=200, chunk_steps=200)))
    assert set(counts) == {480.0, 688.0}
    assert counts[480.0] == pytest.approx(800, abs=4 * 1600**0.5 / 2)


def test_a_batch_is_a_function_of_the_seed_and_its_number(make):
    whole = list(make(flip=True, random_scale=True).train_dataloader())
    data = make(flip=True, random_scale=True)
    data.batch(11)  # of the last chunk, which is shorter
    alone = data.batch(7)
    assert all(torch.equal(a, b) for a, b in zip(whole[7], alone, strict=True))
    other = make(flip=True, random_scale=True, seed=1).batch(7)
    assert not torch.equal(other.inputs, alone.inputs)


def test_a_batch_outlives_its_chunk(make):
    data = make()
    kept = data.batch(0)
    before = kept.inputs.clone()
    data.batch(5)
    assert torch.equal(kept.inputs, before)


def test_several_workers_compute_the_same_vectors(make):
    one, four = make(flip=True), make(flip=True, workers=4)
    assert questions(one) == questions(four)


def test_the_loader_goes_on_in_mid_chunk_after_computing_that_chunk_only(make):
    loader = make().train_dataloader()
    batches = iter(loader)
    for _ in range(7):
        next(batches)
    state = loader.state_dict()
    rest = [batch.inputs for batch in batches]

    data = make()
    resumed = data.train_dataloader()
    resumed.load_state_dict(state)
    again = iter(resumed)
    first = next(again).inputs
    assert len(data.sources[0].asked) == len(set(data.sources[0].asked))  # none of the chunk before
    assert all(torch.equal(a, b) for a, b in zip(rest, [first, *(b.inputs for b in again)], strict=True))


def test_a_chunk_is_as_long_as_its_memory_allows(make):
    class Pooled(Echo):
        dim = 25_600

    for gigabytes, steps in ((1.5, 114), (100.0, 500), (0.0, 1)):
        data = make(
            source=Pooled(False), batch_size=128, chunk_steps=500, num_steps=300_000, chunk_gb=gigabytes
        )
        assert data.chunk_steps == steps


def test_images_without_objects_or_proposals_are_no_trouble(make):
    images = [image_of(0, num_proposals=0), image_of(1, num_objects=0), image_of(2)]
    data = make(images=images)
    seen = {int(row[0]) for row in questions(data)}
    assert seen == {0, 2}  # without objects there is nothing to overlap
    # R-CNN's background may overlap nothing at all.
    assert {int(row[0]) for row in questions(make(images=images, background_overlap=0.0))} == {0, 1, 2}


def test_nothing_to_learn_from_is_said(make):
    with pytest.raises(DataError, match="no window of 2 images overlaps an object by 0.5"):
        make(images=[image_of(0, num_objects=0)] * 2).setup("fit")
    with pytest.raises(DataError, match="no proposal of 1 images is background"):
        make(images=[image_of(0, num_proposals=0, num_objects=1)]).setup("fit")
    with pytest.raises(DataError, match="no window of 0 images"):
        label_windows([], WindowSampling(**SAMPLING))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"positive_share": 0.01}, "positive_share=0.01 of batch_size=8"),
        ({"positive_share": 1.5}, "positive_share=1.5"),
        ({"images_per_chunk": 0}, "images_per_chunk=0"),
        ({"chunk_steps": 0}, "chunk_steps=0"),
        ({"flip": True, "flipped": None}, "flip=true needs a source"),
        ({"random_scale": True, "scales": []}, "random_scale=true needs scales"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, wrong: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        make(**wrong)


def test_a_report_hears_of_every_image_and_may_stop(make):
    heard: list[tuple[int, int]] = []
    data = make(report=lambda done, total: heard.append((done, total)), num_steps=5)
    questions(data)
    number = len(data.sources[0].asked)
    assert heard == [(i, number) for i in range(1, number + 1)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(report=stop).batch(0)


def test_ranks_share_the_batches_of_a_chunk(make):
    whole = [make(chunk_steps=10, num_steps=10).batch(step).inputs for step in range(10)]
    for rank in range(2):
        data = make(num_steps=5)
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        for step in range(5):
            assert torch.equal(data.batch(step).inputs, whole[2 * step + rank])
