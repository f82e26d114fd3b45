"""Regions that show an object (§4.5): which count, which class they have, and how they are drawn."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from sppnet.data.object_regions import Objects, VocObjectReader, region_overlaps
from sppnet.data.splits import Selection
from sppnet.errors import DataError

EVERYTHING = Selection(per_class=None, test_per_class=None, val_fraction=0.0, split_seed=0)


def test_overlaps_are_the_iou_of_every_position():
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.5, 0.0, 1.0, 1.0]])
    overlaps = region_overlaps(boxes, height=20, width=30, crop=12)
    assert overlaps.shape == (2, 9, 19)
    in_pixels = boxes * torch.tensor([30.0, 20.0, 30.0, 20.0])
    for top in range(9):
        for left in range(19):
            region = torch.tensor([[left, top, left + 12, top + 12]], dtype=torch.float32)
            assert overlaps[:, top, left] == pytest.approx(
                box_iou(in_pixels, region)[:, 0].tolist(), abs=1e-6
            )


def test_regions_are_drawn_uniformly_among_those_that_show_an_object():
    # 12 of the 16 columns of a row belong to the object: a region of 12 overlaps it by half from 4 off.
    boxes, labels = torch.tensor([[0.0, 0.0, 0.5, 1.0]]), torch.tensor([3])
    objects = Objects(boxes, labels, crop=12, min_overlap=0.5)
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(objects.draw_region(12, 24, generator) for _ in range(2000))
    # Shared columns 12 - left of 12 + left in the union: at least a half for left <= 4.
    assert {left for _, left, _ in drawn} == {0, 1, 2, 3, 4}
    assert {(top, label) for top, _, label in drawn} == {(0, 3)}
    # 400 +- 4 sqrt(2000 * 0.2 * 0.8) = 400 +- 72
    assert all(328 < count < 472 for count in drawn.values())


def test_a_region_has_the_class_of_the_object_it_overlaps_most():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    halves = Objects(boxes, torch.tensor([1, 2]), crop=10, min_overlap=0.6)
    generator = torch.Generator().manual_seed(0)
    drawn = {halves.draw_region(10, 20, generator) for _ in range(300)}
    assert {label for _, left, label in drawn if left <= 2} == {1}
    assert {label for _, left, label in drawn if left >= 8} == {2}
    assert {left for _, left, _ in drawn} == {0, 1, 2, 8, 9, 10}


def write_voc(root: Path, images: dict[str, list[tuple[str, str | None, tuple[int, int, int, int]]]]) -> None:
    """Images of 40 x 30 with objects (name, sub-category, xmin ymin xmax ymax), and the same to test on."""
    folder = root / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    sets = {"trainval": images, "test": {f"test_{image_id}": found for image_id, found in images.items()}}
    for image_id, objects in (sets["trainval"] | sets["test"]).items():
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{image_id}.jpg")
        entries = "".join(
            f"<object><name>{name}</name>"
            + (f"<subcategory>{finer}</subcategory>" if finer else "")
            + "<bndbox>"
            + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(CORNERS, box, strict=True))
            + "</bndbox></object>"
            for name, finer, box in objects
        )
        size = "<size><width>40</width><height>30</height></size>"
        (folder / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size}{entries}</annotation>")
    for name, listed in sets.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(listed))


CORNERS = ("xmin", "ymin", "xmax", "ymax")


def reader(**changes) -> VocObjectReader:
    settings = {
        "train_set": "trainval",
        "test_set": "test",
        "is_finer": False,
        "short_side": 30,
        "crop": 20,
        "min_overlap": 0.5,
    }
    return VocObjectReader(**{**settings, **changes})


def test_images_without_a_region_that_shows_an_object_do_not_train(tmp_path: Path):
    write_voc(
        tmp_path,
        {
            "large": [("dog", None, (1, 1, 19, 19)), ("cat", None, (30, 1, 35, 9))],
            "small": [("cat", None, (1, 1, 8, 8))],  # 64 of 400 pixels: never half of a region
            "none": [],
        },
    )
    train, _, test = reader().read(tmp_path, EVERYTHING)
    assert [path.stem for path in train.paths] == ["large"]
    assert [train.classes[label] for label in train.labels] == ["dog"]  # the largest object
    assert [path.stem for path in test.paths] == ["test_large", "test_small"]
    _, _, label = train.regions[0](30, 40, torch.Generator().manual_seed(0))
    assert train.classes[label] == "dog"
    with pytest.raises(DataError, match=r"lower data\.reader\.min_overlap"):
        reader(min_overlap=1.0).read(tmp_path, EVERYTHING)


def test_sub_categories_are_classes_of_their_own(tmp_path: Path):
    write_voc(
        tmp_path,
        {
            "a": [("fox", "arctic", (1, 1, 20, 20))],
            "b": [("fox", "red", (1, 1, 20, 20))],
            "c": [("elk", None, (1, 1, 20, 20))],
        },
    )
    train = reader(is_finer=True).read(tmp_path, EVERYTHING).train
    assert train.classes == ("arctic", "elk", "red")
    assert [train.classes[label] for label in train.labels] == ["arctic", "red", "elk"]
    assert reader().read(tmp_path, EVERYTHING).train.classes == ("elk", "fox")


def test_a_network_trains_on_the_objects_of_generated_scenes(sppnet, tmp_path: Path, tiny, shapes_root):
    from sppnet.data.shapes import build_shapes

    folder = build_shapes(shapes_root, per_class=1, test_per_class=1, detection_images=40, seed=0)
    overrides = [value for value in tiny if not value.startswith(("data.root", "data.reader", "data.test"))]
    overrides = [value for value in overrides if not value.startswith("data.per_class")]
    regions = ("image.object_short_side=160", "image.size=112", "data.reader.min_overlap=0.3")
    assert sppnet("data=voc_objects", f"data.root={folder}", "view=full", "jobs=1", *overrides, *regions) == 0
    assert list((tmp_path / "runs" / "networks").glob("voc_objects-*/COMPLETE"))
