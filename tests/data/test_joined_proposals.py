"""The windows of two sources together (§4.3), each kept on disk by itself."""

from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from sppnet.data.joined_proposals import JoinedProposals
from sppnet.data.proposal_files import MatProposals
from sppnet.data.proposals import proposals_of
from sppnet.errors import DataError

SIZES = ((40, 30), (21, 33), (40, 30))


class ImageFile(NamedTuple):
    image_id: str
    path: Path


class Tiles:
    """Squares of some pixels a side that cover the image, and the image itself, last."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.num_asked = 0

    @property
    def settings(self):
        return MappingProxyType({"side": self.side})

    def propose(self, image: Image.Image) -> torch.Tensor:
        self.num_asked += 1
        width, height = image.size
        corners = [(x, y) for y in range(0, height, self.side) for x in range(0, width, self.side)]
        tiles = [[x, y, x + self.side - 1, y + self.side - 1] for x, y in corners]
        return torch.tensor([*tiles, [0, 0, width - 1, height - 1]], dtype=torch.float32)


class Nothing:
    settings = MappingProxyType({})

    def propose(self, image: Image.Image) -> torch.Tensor:
        return torch.zeros(0, 4)


@pytest.fixture
def images(tmp_path: Path) -> list[ImageFile]:
    random = np.random.default_rng(0)
    files = [ImageFile(f"{number:06d}", tmp_path / f"{number}.png") for number in range(len(SIZES))]
    for file, (width, height) in zip(files, SIZES, strict=True):
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file.path)
    return files


def compute(images, tmp_path, source, jobs=1):
    return proposals_of(images, source, cache_dir=tmp_path / "cache", jobs=jobs, max_pixels=10_000)


def one_behind_the_other(*parts):
    """Rows of all parts, each of them once."""
    rows = [tuple(row) for part in parts for row in part.tolist()]
    return [list(row) for row in dict.fromkeys(rows)]


def test_windows_come_one_source_behind_the_other_and_equal_ones_once(images, tmp_path):
    parts = [compute(images, tmp_path, Tiles(side)) for side in (10, 20)]
    joined = compute(images, tmp_path, JoinedProposals({"small": Tiles(10), "large": Tiles(20)}))
    for boxes, small, large in zip(joined, *parts, strict=True):
        assert boxes.tolist() == one_behind_the_other(small, large)
        assert len(boxes) == len(small) + len(large) - 1  # both have the whole image
    assert joined[0].dtype == torch.float32


def test_of_equal_windows_the_first_stays_where_it_is():
    first = torch.tensor([[0.0, 0, 9, 9], [0, 0, 39, 29], [10, 0, 19, 9]])
    second = torch.tensor([[5.0, 5, 9, 9], [10, 0, 19, 9], [0, 0, 9, 9.5]])
    assert JoinedProposals.join([first, second]).tolist() == [*first.tolist(), [5, 5, 9, 9], [0, 0, 9, 9.5]]


def test_the_other_order_has_the_same_windows(images, tmp_path):
    forth = compute(images, tmp_path, JoinedProposals({"a": Tiles(10), "b": Tiles(20)}))
    back = compute(images, tmp_path, JoinedProposals({"b": Tiles(20), "a": Tiles(10)}))
    assert not torch.equal(forth[0], back[0])
    assert torch.equal(forth[0].unique(dim=0), back[0].unique(dim=0))


def test_an_image_seen_for_the_first_time_gets_what_the_data_set_gets(images, tmp_path):
    source = JoinedProposals({"small": Tiles(10), "large": Tiles(20)})
    kept = compute(images, tmp_path, source)
    assert torch.equal(source.propose(Image.open(images[1].path)), kept[1])


def test_each_source_keeps_its_own_windows_on_disk(images, tmp_path):
    small, large = Tiles(10), Tiles(20)
    compute(images, tmp_path, JoinedProposals({"small": small, "large": large}))
    assert (small.num_asked, large.num_asked) == (3, 3)
    assert len(list(tmp_path.glob("cache/*/entry.json"))) == 2
    again = Tiles(20)
    compute(images, tmp_path, again)
    compute(images, tmp_path, JoinedProposals({"one": again}))
    assert again.num_asked == 0


def test_a_pool_of_processes_joins_the_same(images, tmp_path):
    source = JoinedProposals({"small": Tiles(10), "nothing": Nothing(), "large": Tiles(20)})
    alone = compute(images, tmp_path / "alone", source)
    pooled = compute(images, tmp_path / "pooled", source, jobs=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, pooled, strict=True))


def test_sources_without_windows_add_none(images, tmp_path):
    some = compute(images, tmp_path, JoinedProposals({"nothing": Nothing(), "small": Tiles(10)}))
    assert torch.equal(some[0], Tiles(10).propose(Image.open(images[0].path)))
    none = compute(images, tmp_path, JoinedProposals({"nothing": Nothing(), "neither": Nothing()}))
    assert [boxes.shape for boxes in none] == [(0, 4)] * 3


def test_published_files_can_be_one_of_the_sources(images, tmp_path):
    ids, boxes = (np.empty((3, 1), dtype=object) for _ in range(2))
    for number, image in enumerate(images):
        ids[number, 0] = image.image_id
        boxes[number, 0] = np.array([[1, 1, 10, 10], [3, 2, 9, 20 + number]], dtype=np.uint16)
    savemat(tmp_path / "files.mat", {"images": ids, "boxes": boxes.T})
    files = MatProposals(paths=[tmp_path / "files.mat"], max_proposals=100)
    joined = compute(images, tmp_path, JoinedProposals({"files": files, "tiles": Tiles(10)}))
    for number, found in enumerate(joined):
        tiles = Tiles(10).propose(Image.open(images[number].path))
        assert found[:2].tolist() == [[0, 0, 9, 9], [1, 2, 19.0 + number, 8]]
        assert found[2:].tolist() == tiles[1:].tolist()  # the first tile is the files' first window


def test_sources_of_sources_are_joined_too(images, tmp_path):
    inner = JoinedProposals({"small": Tiles(10), "large": Tiles(20)})
    nested = compute(images, tmp_path, JoinedProposals({"inner": inner, "again": Tiles(10)}))
    assert all(torch.equal(a, b) for a, b in zip(nested, compute(images, tmp_path, inner), strict=True))


def test_an_image_that_cannot_be_read_is_named(images, tmp_path):
    images[1].path.write_bytes(b"GIF")
    with pytest.raises(DataError, match=r"1\.png"):
        compute(images, tmp_path, JoinedProposals({"small": Tiles(10)}))


def test_files_among_the_sources_know_no_other_pictures():
    files = MatProposals(paths=["some.mat"], max_proposals=9)
    assert not files.is_computed
    assert JoinedProposals({"a": Tiles(8), "b": JoinedProposals({"c": Nothing()})}).is_computed
    assert not JoinedProposals({"a": Tiles(8), "b": files}).is_computed
