import os
import signal
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.data.edge_boxes import EdgeBoxes
from sppnet.data.images import BadImageError
from sppnet.data.proposals import proposals_of
from sppnet.data.selective_search import SelectiveSearch
from sppnet.errors import ConfigError, DataError, ResourceError
from sppnet.ops.boxes import iou
from sppnet.store.housekeeping import gc, stat, verify

OBJECTS = [[20.0, 30.0, 79.0, 89.0], [110.0, 15.0, 149.0, 104.0]]
SCORING = {
    "alpha": 0.65,
    "beta": 0.75,
    "eta": 1.0,
    "minScore": 0.01,
    "edgeMinMag": 0.1,
    "edgeMergeThr": 0.5,
    "clusterMinMag": 0.5,
    "maxAspectRatio": 3.0,
    "minBoxArea": 1000.0,
    "gamma": 2.0,
    "kappa": 1.5,
}


class ImageFile(NamedTuple):
    image_id: str
    path: Path


def picture(seed: int) -> Image.Image:
    """Two plain rectangles, `OBJECTS`, on noise that is nearly grey."""
    pixels = np.random.default_rng(seed).normal(100, 4, (120, 180, 3))
    for (x1, y1, x2, y2), colour in zip(OBJECTS, ((220, 40, 40), (30, 60, 230)), strict=True):
        pixels[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = colour
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def search(**replaced) -> SelectiveSearch:
    arguments = {
        "colours": ["hsv", "lab"],
        "scales": [100],
        "sigma": 0.8,
        "min_region": 100,
        "similarities": [["colour", "texture", "size", "fill"]],
        "min_side": 20,
        "max_overlap": 0.9,
        "max_proposals": 500,
        "seed": 0,
    }
    return SelectiveSearch(**{**arguments, **replaced})


def edge_boxes(**replaced) -> EdgeBoxes:
    arguments = {"model": None, "sigma": 2.0, "scoring": SCORING, "min_side": 20, "max_proposals": 500}
    return EdgeBoxes(**{**arguments, **replaced})


SOURCES = [search, edge_boxes]


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    files = [ImageFile(f"{number:06d}", tmp_path / f"{number}.png") for number in range(4)]
    for number, file in enumerate(files):
        picture(number).save(file.path)
    return files


def compute(images, tmp_path: Path, source=None, jobs: int = 1) -> list[torch.Tensor]:
    source = source or search()
    return proposals_of(images, source, cache_dir=tmp_path / "cache", jobs=jobs, max_pixels=10**6)


def box_files(tmp_path: Path) -> dict[str, int]:
    """Inodes: a file that is written again is another one."""
    return {file.name: file.stat().st_ino for file in tmp_path.glob("cache/*/*.boxes")}


def test_regions_of_one_colour_are_proposed_to_the_pixel():
    boxes = search(max_overlap=1.0, sigma=0.1).propose(picture(0))
    assert iou(torch.tensor(OBJECTS), boxes).amax(dim=1).tolist() == [1.0, 1.0]


def test_contours_that_close_are_among_the_first_edge_boxes():
    boxes = edge_boxes().propose(picture(0))
    assert (iou(torch.tensor(OBJECTS), boxes[:50]).amax(dim=1) > 0.75).all()


def test_edge_boxes_count_from_zero():
    # Half the sliding windows of this picture reach its borders.
    boxes = edge_boxes().propose(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    )
    assert boxes[:, :2].amin(dim=0).tolist() == [0, 0]
    assert boxes[:, 2:].amax(dim=0).tolist() == [119, 89]


@pytest.mark.parametrize("make", SOURCES)
def test_the_same_pixels_get_the_same_boxes_in_the_same_order(make):
    first = make().propose(picture(0))
    make().propose(picture(1))  # OpenCV's own state moves on
    assert torch.equal(make().propose(picture(0)), first)


@pytest.mark.parametrize("make", SOURCES)
def test_proposals_are_distinct_inside_large_enough_and_few_enough(make):
    image = picture(0)
    boxes = make(min_side=25, max_proposals=30).propose(image)
    assert 0 < len(boxes) <= 30
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2] + 1 >= 25).all()
    assert (boxes >= 0).all() and (boxes < torch.tensor([180, 120, 180, 120])).all()


def test_another_seed_changes_the_order_only():
    kept = {"max_overlap": 1.0}
    one, other = (search(seed=seed, **kept).propose(picture(0)) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(one.unique(dim=0), other.unique(dim=0))


def test_no_two_windows_overlap_by_more_than_allowed():
    boxes = search(max_overlap=0.6).propose(picture(0))
    assert iou(boxes, boxes).fill_diagonal_(0).max() <= 0.6


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (19, 300), (25, 21)])
def test_images_too_small_or_plain_have_few_or_no_proposals(make, size):
    assert len(make().propose(Image.new("RGB", size, "green"))) <= 1


@pytest.mark.parametrize("replaced", [{"colours": ["rgb"]}, {"scales": []}, {"max_overlap": 0.0}])
def test_settings_that_cannot_be_run_are_refused(replaced):
    with pytest.raises(ConfigError, match=next(iter(replaced))):
        search(**replaced)


def test_a_model_that_is_none_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"gone\.yml.*gradient edges"):
        edge_boxes(model=tmp_path / "gone.yml")
    (tmp_path / "junk.yml").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.yml: not OpenCV's"):
        edge_boxes(model=tmp_path / "junk.yml").propose(picture(0))


def test_what_is_on_disk_is_not_computed_again(images, tmp_path):
    first = compute(images[:2], tmp_path)
    before = box_files(tmp_path)
    again = compute([images[2], *images[1::-1]], tmp_path)
    assert torch.equal(again[2], first[0]) and torch.equal(again[1], first[1])
    assert before.items() <= box_files(tmp_path).items() and len(box_files(tmp_path)) == 3


def test_the_content_of_an_image_counts_not_its_name(images, tmp_path):
    old = compute(images[:1], tmp_path)
    picture(9).save(images[0].path)
    new = compute(images[:1], tmp_path)
    assert torch.equal(new[0], search().propose(picture(9))) and not torch.equal(new[0], old[0])


def test_another_setting_is_another_folder(images, tmp_path):
    compute(images[:1], tmp_path)
    compute(images[:1], tmp_path, search(min_side=21))
    compute(images[:1], tmp_path, edge_boxes())
    assert len(list(tmp_path.glob("cache/*/entry.json"))) == 3


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-5], lambda data: data[:-1] + b"\xff", lambda data: b""]
)
def test_a_damaged_file_is_computed_again(images, tmp_path, damage, caplog):
    first = compute(images[:1], tmp_path)
    file = next(tmp_path.glob("cache/*/*.boxes"))
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(compute(images[:1], tmp_path)[0], first[0])
    assert "damaged" in caplog.text


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_kept(images, tmp_path):
    images[1].path.write_bytes(b"GIF")
    with pytest.raises(BadImageError, match=r"1\.png"):
        compute(images[:2], tmp_path)
    assert len(box_files(tmp_path)) == 1


def test_a_pool_proposes_what_one_process_does(images, tmp_path):
    alone = [search().propose(picture(number)) for number in range(4)]
    pooled = compute(images, tmp_path, jobs=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, pooled, strict=True))


class Slow:
    """Selective search that notes in a file when it begins an image."""

    settings: ClassVar = {}

    def __init__(self, log: Path) -> None:
        self.log = log

    def propose(self, image: Image.Image) -> torch.Tensor:
        with self.log.open("a") as stream:
            stream.write("x")
        time.sleep(0.2)
        return torch.zeros(1, 4)


def start(images, tmp_path: Path) -> int:
    """Compute in a child process."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            compute(images, tmp_path, Slow(tmp_path / "begun"))
            code = 0
        finally:
            os._exit(code)
    return child


def test_a_killed_job_loses_the_image_it_was_at(images, tmp_path):
    job = start(images, tmp_path)
    while len(box_files(tmp_path)) < 2:
        time.sleep(0.01)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    kept = box_files(tmp_path)
    assert [os.waitpid(job, 0)[1] for job in [start(images, tmp_path), start(images, tmp_path)]] == [0, 0]
    assert kept.items() <= box_files(tmp_path).items() and len(box_files(tmp_path)) == len(images)
    # Two processes shared out the rest; only what the first was at when it was killed was begun twice.
    assert len((tmp_path / "begun").read_text()) <= len(images) + 1


def test_what_is_kept_is_listed_verified_and_cleared_with_the_rest_of_the_cache(images, tmp_path):
    first = compute(images[:3], tmp_path)
    compute(images[:1], tmp_path, edge_boxes())
    root = tmp_path / "cache"
    reports = {report.source: report for report in stat(root)}
    found = reports["SelectiveSearch"]
    assert (found.kind, found.view, found.short_side) == ("proposals", "as stored", 0)
    assert (found.images, found.dim, found.num_bytes) == (3, 4, 16 * sum(map(len, first)))
    assert reports["EdgeBoxes"].images == 1
    assert verify(root) == (4, [])
    assert gc(root, unused_days=1.0, max_bytes=None).shards == 0
    assert gc(root, unused_days=None, max_bytes=0).shards == 4
    assert [path.name for path in root.iterdir()] == [".locks"]


def test_damage_is_named_by_verify_until_it_is_computed_again(images, tmp_path):
    first = compute(images[:2], tmp_path)
    file = next(tmp_path.glob("cache/*/*.boxes"))
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    assert verify(tmp_path / "cache") == (2, [file])
    again = compute(images[:2], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    assert verify(tmp_path / "cache") == (2, [])


def test_gc_leaves_what_a_process_is_at(images, tmp_path):
    job = start(images, tmp_path)
    while len(box_files(tmp_path)) < 2:
        time.sleep(0.01)
    freed = gc(tmp_path / "cache", unused_days=None, max_bytes=0)
    assert (freed.shards, len(freed.held)) == (0, 1)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    freed = gc(tmp_path / "cache", unused_days=None, max_bytes=0)
    assert (freed.shards >= 2, freed.held) == (True, ())


def test_the_image_a_job_is_at_is_waited_for_at_the_end_and_taken_over_when_that_job_dies(images, tmp_path):
    job = start(images, tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.001)
    os.kill(job, signal.SIGSTOP)  # inside the first image
    other = start(images, tmp_path)
    deadline = time.monotonic() + 20
    while len(box_files(tmp_path)) < len(images) - 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(box_files(tmp_path)) == len(images) - 1
    assert os.waitpid(other, os.WNOHANG) == (0, 0)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    assert os.waitpid(other, 0)[1] == 0
    assert len(box_files(tmp_path)) == len(images)


class Rewriting:
    """Proposes nothing, but writes the file."""

    settings: ClassVar = {}

    def __init__(self, path: Path) -> None:
        self.path = path

    def propose(self, image: Image.Image) -> torch.Tensor:
        image.rotate(180).save(self.path)
        return torch.zeros(0, 4)


def test_an_image_that_changes_while_it_is_read_is_refused(images, tmp_path):
    with pytest.raises(DataError, match=r"0\.png: changed while it was read"):
        compute(images[:1], tmp_path, Rewriting(images[0].path))
    assert not box_files(tmp_path)


def test_a_cache_that_cannot_be_written_says_so(images, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ResourceError, match="cache"):
        compute(images[:1], tmp_path)


def test_who_waits_is_told_of_every_image(images, tmp_path: Path):
    told: list[tuple[int, int]] = []
    given = {"cache_dir": tmp_path / "cache", "jobs": 1, "max_pixels": 10**6}
    proposals_of(images, edge_boxes(), **given, report=lambda *step: told.append(step))
    proposals_of(images, edge_boxes(), **given, report=lambda *step: told.append(step))  # nothing to wait for
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
