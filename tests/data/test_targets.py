"""Who trains, who chooses C and who tests, of the data sets that networks are transferred to."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from sppnet.data.folder import FolderReader
from sppnet.data.shapes import ShapesPool, build_shapes
from sppnet.data.targets import (
    PoolTarget,
    ShapesVocTarget,
    TargetImages,
    TargetSplit,
    VocTarget,
    draw_split,
)
from sppnet.errors import ConfigError, DataError


def labelled(*counts: int) -> TargetImages:
    """So many images of each class, without a test set; one image a class."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    presence = torch.where(labels[:, None] == torch.arange(len(counts)), 1, -1).to(torch.int8)
    paths = tuple(Path(f"{i}.jpg") for i in range(sum(counts)))
    return TargetImages(paths, presence, tuple("abcdefgh"[: len(counts)]), None, is_upright=True)


def with_test_set(num_trainval: int, num_test: int) -> TargetImages:
    """Test images first: the split must look at the mark, not at the place."""
    images = labelled(num_trainval + num_test)
    return images._replace(is_test=torch.arange(num_trainval + num_test) < num_test)


def drawn(target: TargetImages, split: int = 0, **replaced) -> TargetSplit:
    arguments = {"per_class": 5, "test_per_class": 3, "val_fraction": 0.4}
    return draw_split(target, **{**arguments, **replaced}, split=split)


def rows(part: torch.Tensor) -> set[int]:
    return set(part.tolist())


def per_class(target: TargetImages, part: torch.Tensor) -> list[int]:
    return (target.presence[part] > 0).sum(dim=0).tolist()


def test_every_class_gives_as_many_images_as_asked_for_and_a_share_of_them_chooses_c():
    target = labelled(20, 30)
    split = drawn(target, per_class=10, test_per_class=7, val_fraction=0.4)
    assert per_class(target, split.train) == [6, 6]
    assert per_class(target, split.val) == [4, 4]
    assert per_class(target, split.test) == [7, 7]


def test_no_image_has_two_parts_to_play():
    for split in range(5):
        parts = drawn(labelled(9, 40, 12), split=split, test_per_class=None)
        numbers = torch.cat(parts).tolist()
        assert len(set(numbers)) == len(numbers) == 9 + 40 + 12


def test_a_class_with_too_few_images_keeps_one_to_test_and_one_to_fit():
    target = labelled(4, 2, 40)
    split = drawn(target, per_class=30, test_per_class=None, val_fraction=0.9)
    assert per_class(target, split.test) == [1, 1, 10]
    assert per_class(target, split.train) == [1, 1, 3]
    assert per_class(target, split.val) == [2, 0, 27]


def test_of_a_single_training_image_none_is_held_out():
    split = drawn(labelled(10, 10), per_class=1)
    assert (len(split.train), len(split.val), len(split.test)) == (2, 0, 6)


def test_the_images_of_five_shots_are_among_those_of_thirty():
    for target in (labelled(50, 40), labelled(50, 31)):
        few = drawn(target, per_class=5)
        many = drawn(target, per_class=30)
        assert rows(few.train) | rows(few.val) < rows(many.train) | rows(many.val)


def test_another_split_is_another_choice_and_the_same_split_the_same():
    target = labelled(20, 20)
    splits = [drawn(target, split=number) for number in range(10)]
    assert len({tuple(split.train.tolist()) for split in splits}) == 10
    assert len({tuple(split.test.tolist()) for split in splits}) == 10
    again = drawn(target, split=3)
    assert all(torch.equal(one, other) for one, other in zip(again, splits[3], strict=True))


def test_the_choice_in_a_class_does_not_depend_on_the_other_classes():
    alone, together = drawn(labelled(20)), drawn(labelled(20, 33))
    for one, both in zip(alone, together, strict=True):
        assert rows(one) == {row for row in rows(both) if row < 20}


@pytest.mark.parametrize("split", range(5))
def test_a_test_set_only_tests_whatever_the_split(split: int):
    target = with_test_set(num_trainval=10, num_test=7)
    parts = drawn(target, split, per_class=None, test_per_class=None, val_fraction=0.3)
    assert parts.test.tolist() == list(range(7))
    assert len(parts.val) == 3
    assert sorted(torch.cat([parts.train, parts.val]).tolist()) == list(range(7, 17))


def test_whatever_the_share_one_image_is_left_to_fit_on():
    split = drawn(with_test_set(3, 1), per_class=None, test_per_class=None, val_fraction=0.9)
    assert (len(split.train), len(split.val)) == (1, 2)


def test_which_images_choose_c_is_drawn_by_the_split():
    target = with_test_set(num_trainval=30, num_test=3)
    chosen = {
        tuple(drawn(target, split, per_class=None, test_per_class=None).val.tolist()) for split in range(5)
    }
    assert len(chosen) == 5


def test_numbers_per_class_are_refused_where_the_target_has_a_test_set():
    with pytest.raises(ConfigError, match=r"transfer\.per_class and transfer\.test_per_class .* null"):
        drawn(with_test_set(5, 5))
    with pytest.raises(ConfigError, match=r"transfer\.test_per_class"):
        drawn(with_test_set(5, 5), per_class=None)


def test_a_pool_without_numbers_is_refused_by_key():
    with pytest.raises(ConfigError, match=r"transfer\.per_class is needed"):
        drawn(labelled(5, 5), per_class=None)


@pytest.mark.parametrize("count", [0, 1])
def test_a_class_that_cannot_both_train_and_test_is_refused_by_name(count: int):
    with pytest.raises(DataError, match=f"class 'b' has {count} image"):
        drawn(labelled(5, count, 5))


def annotate(year: Path, image_id: str, *objects: tuple[str, int]) -> None:
    """An image of 40 x 30 pixels with objects: class and whether it is difficult."""
    Image.new("RGB", (40, 30)).save(year / "JPEGImages" / f"{image_id}.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    parts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"
        for name, difficult in objects
    ]
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    (year / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size}{''.join(parts)}</annotation>")


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Three images to train on and two to test on; the test's ids come first in the alphabet."""
    year = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / name).mkdir(parents=True)
    annotate(year, "000003", ("cat", 0))
    annotate(year, "000005", ("cat", 1), ("dog", 0))
    annotate(year, "000004", ("cat", 1), ("cat", 0))
    annotate(year, "000001", ("dog", 1))
    annotate(year, "000002", ("person", 0), ("dog", 0))
    sets = {"trainval": "000003\n000005\n000004\n", "test": "000002\n000001\n"}
    for name, ids in sets.items():
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text(ids)
    return tmp_path


def voc(root: Path) -> VocTarget:
    return VocTarget("VOC", str(root), "trainval", "test")


def test_voc_lists_trainval_then_test_in_the_order_of_their_files(devkit: Path):
    target = voc(devkit).read()
    assert [path.stem for path in target.paths] == ["000003", "000005", "000004", "000002", "000001"]
    assert target.is_test is not None
    assert target.is_test.tolist() == [False, False, False, True, True]
    assert not target.is_upright  # boxes are of pixels as stored


def test_voc_presence_is_zero_where_only_difficult_objects_are(devkit: Path):
    target = voc(devkit).read()
    presence = {
        name: target.presence[:, target.classes.index(name)].tolist() for name in ("cat", "dog", "person")
    }
    assert presence == {
        "cat": [1, 0, 1, -1, -1],
        "dog": [-1, 1, -1, 1, 0],
        "person": [-1, -1, -1, 1, -1],
    }
    assert len(target.classes) == 20
    assert (target.presence[:, target.classes.index("cow")] == -1).all()


def test_a_folder_without_voc_in_it_is_told(tmp_path: Path):
    with pytest.raises(DataError, match=f"{tmp_path}: no VOCdevkit/VOC2007"):
        voc(tmp_path).read()


def test_generated_scenes_are_half_trainval_and_half_test(tmp_path: Path):
    target = ShapesVocTarget("scenes", str(tmp_path), num_images=6, seed=1).read()
    assert target.is_test is not None
    assert target.is_test.tolist() == [False] * 3 + [True] * 3
    assert target.presence.shape == (6, len(target.classes))
    assert (target.presence > 0).any(dim=1).all()


def test_a_pool_has_one_label_a_row_that_of_its_folder(image_folder: Path):
    target = PoolTarget("own", str(image_folder / "train"), FolderReader()).read()
    assert ((target.presence == 1).sum(dim=1) == 1).all()
    assert ((target.presence == -1).sum(dim=1) == len(target.classes) - 1).all()
    labels = target.presence.argmax(dim=1).tolist()
    assert [path.parent.name for path in target.paths] == [target.classes[label] for label in labels]
    assert target.is_test is None
    assert target.is_upright


def test_generated_pools_of_two_seeds_share_no_image(tmp_path: Path):
    contents = [
        {
            path.read_bytes()
            for path in PoolTarget("shapes", str(tmp_path), ShapesPool(per_class=2, seed=seed)).read().paths
        }
        for seed in (0, 1)
    ]
    assert len(contents[0]) == len(contents[1]) == 20
    assert not contents[0] & contents[1]


def test_an_image_that_trains_and_tests_is_refused(tmp_path: Path, shapes_root: Path):
    folder = build_shapes(shapes_root, per_class=1, test_per_class=1, detection_images=8, seed=0)
    shutil.copytree(folder / "VOCdevkit", tmp_path / "VOCdevkit")
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    (lists / "test.txt").write_text((lists / "trainval.txt").read_text().splitlines()[0] + "\n000008\n")
    with pytest.raises(DataError, match=r"trainval and test share 1 images \(000001\)"):
        VocTarget("VOC", str(tmp_path), "trainval", "test").read_boxes()
