import io
import pickle
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from sppnet.data.proposal_files import MatProposals, read_mat
from sppnet.data.proposals import proposals_of
from sppnet.errors import ArtifactError, DataError, SppnetError


class ImageFile(NamedTuple):
    image_id: str
    path: Path


BOXES = {"000005": [[1, 2, 3, 4], [10, 1, 20, 30]], "000007": [], "000009": [[5, 5, 5, 5]]}


def cell(values) -> np.ndarray:
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def write_mat(path: Path, boxes: dict[str, list], dtype=np.uint16, *, compress: bool = True) -> Path:
    matrices = [np.array(rows, dtype=dtype).reshape(-1, 4) for rows in boxes.values()]
    savemat(path, {"images": cell(list(boxes)), "boxes": cell(matrices).T}, do_compression=compress)
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return write_mat(tmp_path / "p.mat", BOXES)


@pytest.fixture
def images(tmp_path) -> list[ImageFile]:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    return [ImageFile(image_id, tmp_path / "a.png") for image_id in ("000005", "000007")]


def test_rows_y1_x1_y2_x2_from_one_become_x1_y1_x2_y2_from_zero(file):
    assert read_mat(file, ["000005"])[0].tolist() == [[1, 0, 3, 2], [0, 9, 29, 19]]


def test_images_are_found_by_id_in_any_order_with_none_one_or_many_proposals(file):
    assert [len(boxes) for boxes in read_mat(file, ["000009", "000007", "000005"])] == [1, 0, 2]
    assert read_mat(file, ["000007"])[0].shape == (0, 4)


def test_scipy_reads_the_same(tmp_path):
    generator = np.random.default_rng(0)
    rows = {
        f"{n:06d}": np.sort(generator.integers(1, 500, (n, 2, 2)), axis=1).reshape(n, 4) for n in range(40)
    }
    path = write_mat(tmp_path / "x.mat", rows, np.float64)
    for boxes, theirs in zip(read_mat(path, list(rows)), loadmat(path)["boxes"][0], strict=True):
        assert np.array_equal(boxes.numpy()[:, [1, 0, 3, 2]] + 1, theirs)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint8])
def test_every_numeric_type_reads_the_same(tmp_path, dtype):
    path = write_mat(tmp_path / "x.mat", {"a": [[2, 3, 40, 50]]}, dtype)
    assert read_mat(path, ["a"])[0].tolist() == [[2, 1, 49, 39]]


def test_a_file_of_another_image_set_is_refused(file):
    with pytest.raises(DataError, match=r"p\.mat: no proposals of 2 of 3 images \(000001, 000002"):
        read_mat(file, ["000005", "000001", "000002"])


@pytest.mark.parametrize(
    "row", [[1, 1, np.nan, 9], [1, 1, np.inf, 9], [9, 1, 8, 9], [0, 1, 8, 9], [1, 9, 8, 1]]
)
def test_what_is_no_box_is_named_by_image_and_row(tmp_path, row):
    path = write_mat(tmp_path / "x.mat", {"a": [[1, 1, 2, 2]], "b": [[1, 1, 2, 2], row]}, np.float64)
    with pytest.raises(DataError, match=r"x\.mat: image b, row 2: .* is no box"):
        read_mat(path, ["a"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"boxes": cell([np.ones((1, 4))])}, "no variable 'images'"),
        ({"images": cell(["a", "b"]), "boxes": cell([np.ones((1, 4))])}, "2 images, but boxes of 1"),
        ({"images": cell(["a"]), "boxes": np.ones((1, 4))}, "expected a cell"),
        ({"images": cell(["a", "a"]), "boxes": cell([np.ones((1, 4))] * 2)}, "image a stands there twice"),
        ({"images": cell(["a"]), "boxes": cell([np.ones((1, 5))])}, "expected n x 4"),
        ({"images": cell(["a"]), "boxes": cell(["text"])}, "expected n x 4"),
        ({"images": cell(["a"]), "boxes": cell([np.full((1, 4), 1j)])}, "expected matrix"),
        ({"images": cell(["a"]), "boxes": cell([cell(["b"])])}, "expected matrix"),
        ({"images": cell([7]), "boxes": cell([np.ones((1, 4))])}, "expected ids"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, reason):
    savemat(tmp_path / "x.mat", content)
    with pytest.raises(DataError, match=reason):
        read_mat(tmp_path / "x.mat", ["a"])


class Payload:
    """Makes a file when unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def payloads(canary: Path) -> list[bytes]:
    array, torch_file = io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    torch.save({"boxes": Payload(canary)}, torch_file)
    return [
        *(pickle.dumps({"boxes": Payload(canary)}, protocol=protocol) for protocol in (0, 1, 2, 5)),
        array.getvalue(),
        torch_file.getvalue(),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_pickle_is_refused_and_never_runs(tmp_path, number):
    canary = tmp_path / "canary"
    (tmp_path / "x.mat").write_bytes(payloads(canary)[number])
    with pytest.raises(ArtifactError, match="Python objects"):
        read_mat(tmp_path / "x.mat", ["a"])
    assert not canary.exists()


@pytest.mark.parametrize("number", range(6))
def test_a_pickle_behind_a_matlab_header_never_runs(tmp_path, number, file):
    canary = tmp_path / "canary"
    payload = payloads(canary)[number]
    (tmp_path / "x.mat").write_bytes(file.read_bytes()[:128] + payload)
    with pytest.raises(DataError):
        read_mat(tmp_path / "x.mat", ["a"])
    savemat(tmp_path / "y.mat", {"images": cell(["a"]), "boxes": cell([np.frombuffer(payload, np.uint8)])})
    with pytest.raises(DataError, match="n x 4"):
        read_mat(tmp_path / "y.mat", ["a"])
    assert not canary.exists()


def test_other_versions_of_the_format_say_what_to_do(tmp_path):
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    with pytest.raises(DataError, match="-v7"):
        read_mat(tmp_path / "x.mat", ["a"])
    (tmp_path / "x.mat").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"starts b'<html>'"):
        read_mat(tmp_path / "x.mat", ["a"])
    with pytest.raises(DataError, match="No such file"):
        read_mat(tmp_path / "gone.mat", ["a"])


@pytest.mark.parametrize("compress", [True, False])
def test_damaged_files_are_read_as_they_stand_or_refused(tmp_path, compress):
    file = write_mat(tmp_path / "p.mat", BOXES, compress=compress)
    whole = file.read_bytes()
    generator = random.Random(0)
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        file.write_bytes(bytes(data[: generator.randint(1, 2 * len(data))]))
        try:
            read_mat(file, ["000005"])
        except SppnetError as error:
            assert str(file) in str(error)


def test_files_together_hold_an_image_set_and_only_the_first_so_many_count(tmp_path, file, images, caplog):
    other = write_mat(tmp_path / "q.mat", {"000011": [[1, 1, 2, 2]] * 100_000})
    source = MatProposals(paths=[file, other], max_proposals=1000)
    found = proposals_of(
        [*images, ImageFile("000011", images[0].path)], source, cache_dir=tmp_path, jobs=1, max_pixels=1000
    )
    assert [len(boxes) for boxes in found] == [2, 0, 1000]
    assert "1 of 3 images have more proposals than proposals.max_proposals=1000" in caplog.text


def test_proposals_of_other_images_with_the_same_ids_are_refused(file, images):
    Image.new("RGB", (29, 20)).save(images[0].path)
    with pytest.raises(DataError, match="000005 reach 30 x 20 pixels.*29 x 20.*another image set"):
        MatProposals(paths=[file], max_proposals=1000).read(images)
