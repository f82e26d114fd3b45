"""Detections in the devkit's files, and back."""

import pytest
import torch

from sppnet.metrics.detection_ap import Detections
from sppnet.metrics.voc_results import write_results

IDS, CLASSES = ("000001", "000004", "000006"), ("cat", "dining table")


def some(boxes, scores, labels):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels).long(),
    )


def write(folder, given, **replaced):
    return write_results(
        folder, **{"image_set": "test", "image_ids": IDS, "classes": CLASSES, "detections": given, **replaced}
    )


def read(folder):
    """The detections in the files as the devkit reads them, image by image."""
    found = {image: [[], [], []] for image in IDS}
    for label, name in enumerate(CLASSES):
        for line in (folder / f"comp4_det_test_{name}.txt").read_text().splitlines():
            image, score, *corners = line.split()
            boxes, scores, labels = found[image]
            boxes.append([float(corner) - 1 for corner in corners])
            scores.append(float(score))
            labels.append(label)
    return [some(*of_image) for of_image in found.values()]


FEW = [
    some([[0, 0, 9, 19], [4, 5, 6.5, 7]], [0.25, -1.5], [0, 1]),
    some([], [], []),
    some([[10, 20, 30, 40]], [2.0], [0]),
]


def test_a_line_is_an_image_a_score_and_pixels_counted_from_1(tmp_path):
    cat, table = write(tmp_path, FEW)
    assert cat.name == "comp4_det_test_cat.txt"
    assert cat.read_text() == "000001 0.25 1 1 10 20\n000006 2 11 21 31 41\n"
    assert table.read_text() == "000001 -1.5 5 6 7.5 8\n"


def test_a_class_that_was_never_found_has_an_empty_file(tmp_path):
    paths = write(tmp_path, [some([], [], [])] * 3)
    assert [path.read_text() for path in paths] == ["", ""]
    assert [len(one.scores) for one in read(tmp_path)] == [0, 0, 0]


def test_what_was_written_is_read_to_the_last_bit(tmp_path):
    generator = torch.Generator().manual_seed(0)
    given = []
    for n in (50, 0, 70):
        labels = torch.randint(2, (n,), generator=generator).sort().values
        boxes = torch.rand(n, 4, generator=generator) * 1000
        given.append(Detections(boxes, torch.randn(n, generator=generator), labels))
    write(tmp_path, given)
    for ours, theirs in zip(read(tmp_path), given, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "file"),
    [("../cat", "..%2Fcat"), ("a\\b", "a%5Cb"), ("nut & bolt's", "nut & bolt's"), ("50%", "50%25")],
)
def test_a_class_of_any_name_has_a_file_in_the_folder(tmp_path, name, file):
    written = write(tmp_path, FEW, classes=(name, "dog"))
    assert written[0] == tmp_path / f"comp4_det_test_{file}.txt"
    assert written[0].is_file()


def test_names_that_are_too_long_for_a_file_stay_different(tmp_path):
    first, second = write(tmp_path, FEW, classes=("🍎" * 100 + "a", "🍎" * 100 + "b"))
    assert first != second
    assert first.is_file()


def test_an_image_id_with_spaces_is_one_word(tmp_path):
    written = write(tmp_path, FEW, image_ids=("photo (0) 1%", "c", "d"))
    assert {line.split()[0] for file in written for line in file.read_text().splitlines()} <= {
        "photo%20(0)%201%25", "c", "d"
    }  # fmt: skip
