"""Which images train and test: reproducible, stratified, and never mixed."""

import shutil
from pathlib import Path

import pytest

from sppnet.data.caltech101 import Caltech101Reader
from sppnet.data.folder import FolderReader, list_classes
from sppnet.data.imagenet import ImageNetReader
from sppnet.data.splits import ImageSet, Selection, split_given, split_pool
from sppnet.errors import ConfigError, DataError
from tests.data.conftest import write_image


def pool(*counts):
    """Classes a, b, ... with so many images each."""
    names = tuple("abcdef"[: len(counts)])
    members = [(k, Path(f"{names[k]}{i}")) for k, count in enumerate(counts) for i in range(count)]
    return ImageSet(tuple(path for _, path in members), tuple(k for k, _ in members), names)


def selection(train=None, test=None, val=0.0, seed=0):
    return Selection(per_class=train, test_per_class=test, val_fraction=val, split_seed=seed)


def per_class(images):
    return [images.labels.count(k) for k in range(len(images.classes))]


def test_30_train_and_up_to_50_others_test():
    splits = split_pool(pool(100, 60, 31), selection(train=30, test=50))
    assert per_class(splits.train) == [30, 30, 30]
    assert per_class(splits.test) == [50, 30, 1]
    assert not set(splits.train.paths) & set(splits.test.paths)


def test_a_split_is_a_function_of_its_seed():
    first, again, other = (split_pool(pool(100), selection(train=30, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert set(first.train.paths) != set(other.train.paths)


def test_a_new_class_leaves_the_other_classes_choices_alone():
    before = split_pool(pool(20, 20), selection(train=5)).train.paths
    after = split_pool(pool(20, 20, 20), selection(train=5)).train.paths
    assert after[:10] == before


def test_fewer_shots_are_among_more_shots():
    given = pool(40, 40), pool(5, 5)
    few, many = (set(split_given(*given, selection(train=n)).train.paths) for n in (5, 20))
    assert few < many


def test_a_small_class_keeps_one_image_to_test_with_and_says_so(caplog):
    splits = split_pool(pool(40, 12), selection(train=30))
    assert per_class(splits.train) == [30, 11]
    assert per_class(splits.test) == [10, 1]
    assert (
        "1 of 2 classes have too few images for data.per_class=30 and one to test, which they keep: b has 12"
        in caplog.text
    )


def test_held_out_images_come_out_of_every_class_of_the_training_images_only():
    train, test = pool(40, 20), pool(9, 9)
    splits = split_given(train, test, selection(val=0.1))
    assert (per_class(splits.train), per_class(splits.val)) == ([36, 18], [4, 2])
    assert set(splits.train.paths) | set(splits.val.paths) == set(train.paths)
    assert splits.test == test


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"train": 0}, "data.per_class=0"),
        ({"test": -1}, "data.test_per_class=-1"),
        ({"val": 1.0}, "data.val_fraction=1.0"),
    ],
)
def test_a_selection_that_cannot_be_names_its_key(wrong, named):
    with pytest.raises(ConfigError, match=named):
        selection(**wrong)


def test_a_small_class_still_holds_out_one_image():
    splits = split_given(pool(4, 2), pool(1, 1), selection(val=0.1))
    assert (per_class(splits.train), per_class(splits.val)) == ([3, 1], [1, 1])


def test_classes_of_one_image_can_hold_out_none():
    with pytest.raises(ConfigError, match="raise it, or set it to 0"):
        split_given(pool(1, 1), pool(1, 1), selection(val=0.1))


def test_a_pool_without_a_number_to_train_with_is_an_error():
    with pytest.raises(ConfigError, match="data.per_class is needed"):
        split_pool(pool(4), selection())


def test_different_classes_to_train_and_test_are_named():
    with pytest.raises(DataError, match=r"different classes \(c\)"):
        split_given(pool(2, 2), pool(2, 2, 2), selection())


def caltech(root, classes=("BACKGROUND_Google", "Faces", "ant")):
    for name in classes:
        for i in range(4):
            write_image(root / "101_ObjectCategories" / name / f"image_{i:04d}.jpg", i)
    return root / "101_ObjectCategories"


@pytest.mark.parametrize("given", ["grandparent", "parent", "itself"])
def test_caltech_is_found_from_any_of_its_folders(tmp_path, given, caplog):
    itself = caltech(tmp_path / "caltech101")
    root = {"grandparent": tmp_path, "parent": itself.parent, "itself": itself}[given]
    splits = Caltech101Reader().read(root, selection(train=3, test=50))
    assert splits.train.classes == ("BACKGROUND_Google", "Faces", "ant")
    assert (per_class(splits.train), per_class(splits.test)) == ([3] * 3, [1] * 3)
    assert "3 categories, BACKGROUND_Google among them; the paper counts 102" in caplog.text


def test_caltech_that_is_not_there_names_every_place_looked_at(tmp_path):
    with pytest.raises(
        DataError, match=r"caltech101/101_ObjectCategories nor .*101_ObjectCategories; extract"
    ):
        Caltech101Reader().read(tmp_path, selection(train=3))


@pytest.mark.parametrize("reader", [Caltech101Reader(), ImageNetReader(), FolderReader()])
def test_a_missing_root_is_named(tmp_path, reader):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        reader.read(tmp_path / "nowhere", selection(train=1))
    with pytest.raises(DataError, match="data.root is not set"):
        reader.read(None, selection(train=1))


def test_imagenet_tests_on_its_validation_images(tmp_path):
    for part, number in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n01443537"):
            for i in range(number):
                write_image(tmp_path / part / wnid / f"{i}.JPEG.png", i)
    splits = ImageNetReader().read(tmp_path, selection(train=2))
    assert splits.train.classes == ("n01440764", "n01443537")
    assert (per_class(splits.train), per_class(splits.test)) == ([2, 2], [2, 2])


def test_a_flat_imagenet_validation_folder_says_how_to_sort_it(tmp_path):
    write_image(tmp_path / "train" / "n01440764" / "1.png", 0)
    write_image(tmp_path / "val" / "ILSVRC2012_val_00000001.png", 0)
    with pytest.raises(DataError, match="flat folder.*validation_ground_truth"):
        ImageNetReader().read(tmp_path, selection())


def test_a_folder_with_train_and_test_is_read_as_it_stands(image_folder):
    splits = FolderReader().read(image_folder, selection())
    assert (per_class(splits.train), per_class(splits.test)) == ([7] * 3, [4] * 3)
    assert splits.val.paths == ()


def test_without_a_test_folder_val_tests(image_folder):
    (image_folder / "test").rename(image_folder / "val")
    splits = FolderReader().read(image_folder, selection(val=0.3))
    assert (per_class(splits.train), per_class(splits.val), per_class(splits.test)) == (
        [5] * 3,
        [2] * 3,
        [4] * 3,
    )


def test_a_val_folder_beside_test_is_the_held_out_set(image_folder):
    for name in ("ant", "bee", "cat"):
        write_image(image_folder / "val" / name / "1.png", 0)
    for fraction in (0.0, 0.3):
        splits = FolderReader().read(image_folder, selection(val=fraction))
        assert (per_class(splits.train), per_class(splits.val)) == ([7] * 3, [1] * 3)


def test_a_test_image_that_is_a_copy_of_a_training_image_is_refused(image_folder):
    shutil.copy(image_folder / "train" / "bee" / "1.png", image_folder / "test" / "ant" / "renamed.png")
    with pytest.raises(DataError, match=r"test/ant/renamed.png: the same image as .*train/bee/1.png"):
        FolderReader().read(image_folder, selection())


def test_a_train_folder_alone_is_not_a_class_called_train(image_folder):
    shutil.rmtree(image_folder / "test")
    with pytest.raises(DataError, match="neither test nor val"):
        FolderReader().read(image_folder, selection(train=5))


def test_classes_alone_are_a_pool(image_folder):
    splits = FolderReader().read(image_folder / "train", selection(train=5))
    assert (per_class(splits.train), per_class(splits.test)) == ([5] * 3, [2] * 3)


def test_only_visible_image_files_count_however_deep(tmp_path):
    write_image(tmp_path / "ant" / "deeper" / "1.PNG", 0)
    write_image(tmp_path / "ant" / ".2.png", 0)
    (tmp_path / "ant" / "notes.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    found = list_classes(tmp_path)
    assert (found.classes, found.paths) == (("ant",), (tmp_path / "ant" / "deeper" / "1.PNG",))


def test_a_class_without_images_is_named(tmp_path):
    write_image(tmp_path / "ant" / "1.png", 0)
    (tmp_path / "bee").mkdir()
    with pytest.raises(DataError, match="bee: no images"):
        list_classes(tmp_path)


def test_copies_among_drawn_images_are_said(tmp_path, caplog):
    for number, value in enumerate((10, 10, 10, 10)):
        write_image(tmp_path / "cats" / f"{number}.png", value)
        write_image(tmp_path / "dogs" / f"{number}.png", 60 * number)
    FolderReader().read(tmp_path, selection(train=2))
    assert "2 test images are copies of training images" in caplog.text
