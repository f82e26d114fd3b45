"""What a picture is, which folders hold data, and which folders are no classes."""

import itertools
import os

import pytest
from PIL import Image

from sppnet.data.folder import FolderReader, list_classes
from sppnet.data.image_store import verify
from sppnet.data.images import BadImageError, image_size, read_image
from sppnet.data.splits import ImageSet, Selection, require_classes
from sppnet.errors import DataError
from tests.data.conftest import write_image

GREY = itertools.cycle(range(250))
ALL = Selection(per_class=2, test_per_class=None, val_fraction=0.0, split_seed=0)


def a_class(folder, *names):
    for name in names:
        write_image(folder / "x.png", next(GREY))
        (folder / "x.png").rename(folder / name)


def test_every_ending_of_a_format_counts_and_the_rest_is_counted(tmp_path, caplog):
    a_class(tmp_path / "cats", "1.jfif", "2.JPE", "3.dib", "4.avif", "5", "6.txt", "Thumbs.db")
    assert len(list_classes(tmp_path).paths) == 3
    assert "left out what is no picture by its ending: .avif 1, no ending 1, .txt 1" in caplog.text


@pytest.mark.parametrize(
    "system", [".ipynb_checkpoints", ".Trash-1000", "__MACOSX", "@eaDir", "$RECYCLE.BIN"]
)
@pytest.mark.parametrize("above", [".", "cats", "cats/deeper"])
def test_a_systems_folders_are_no_data_at_any_depth(tmp_path, system, above):
    a_class(tmp_path / "cats" / "deeper", "1.png")
    a_class(tmp_path / above / system, "copy.png")
    found = list_classes(tmp_path)
    assert (found.classes, len(found.paths)) == (("cats",), 1)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path):
    a_class(tmp_path / "root" / "cats", "1.png")
    a_class(tmp_path / "session", "2.png")
    (tmp_path / "root" / "cats" / "more").symlink_to(tmp_path / "session")
    (tmp_path / "session" / "back").symlink_to(tmp_path / "root" / "cats")
    assert [path.name for path in list_classes(tmp_path / "root").paths] == ["1.png", "2.png"]


@pytest.mark.parametrize(
    "parts", [("training", "testing"), ("Train", "Test"), ("training_set", "test_set"), ("train", "valid")]
)
def test_parts_of_a_data_set_may_have_other_names(tmp_path, parts):
    for part in parts:
        for name in ("cats", "dogs"):
            a_class(tmp_path / part / name, "1.png", "2.png")
    splits = FolderReader().read(tmp_path, ALL)
    assert splits.train.classes == ("cats", "dogs")
    assert {path.relative_to(tmp_path).parts[0] for path in splits.test.paths} == {parts[1]}
    with pytest.raises(DataError, match="parts of a data set and not classes"):
        FolderReader().pool(tmp_path)


def test_equal_folders_in_all_classes_are_asked_about(tmp_path):
    for part in ("fold1", "fold2"):
        for name in ("cats", "dogs"):
            a_class(tmp_path / part / name, "1.png", "2.png")
    with pytest.raises(DataError, match="fold1, fold2, which all hold cats, dogs"):
        FolderReader().read(tmp_path, ALL)


def test_a_class_called_train_is_a_class(tmp_path):
    for name in ("bus", "train"):
        a_class(tmp_path / name, "1.png", "2.png", "3.png")
    assert FolderReader().read(tmp_path, ALL).train.classes == ("bus", "train")


def test_one_class_is_nothing_to_tell_apart(tmp_path):
    with pytest.raises(DataError, match="only one class, cats .*one folder too high"):
        require_classes(ImageSet((tmp_path / "cats" / "1.png",), (0,), ("cats",)))


def test_a_class_folder_that_is_not_utf_8_is_named(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    a_class(tmp_path / name, "1.png")
    with pytest.raises(DataError, match=r"'caf\\udce9' is not named in plain UTF-8; rename it"):
        list_classes(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    a_class(tmp_path / "cats", "1.png")
    os.mkfifo(tmp_path / "cats" / "2.png")
    with pytest.raises(DataError, match=r"2.png: .*a pipe or a device"):
        list_classes(tmp_path)
    with pytest.raises(BadImageError, match=r"2.png: a pipe or a device, not a file"):
        read_image(tmp_path / "cats" / "2.png", upright=True, max_pixels=1000)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 5, 6, 8, 9, 99])
def test_the_headers_size_is_the_decoded_one(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"1.{ending}"
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    for upright in (True, False):
        size = read_image(path, upright=upright, max_pixels=1000).size
        assert size == image_size(path, upright=upright, max_pixels=1000)
    if ending != "tif":
        assert read_image(path, upright=True, max_pixels=1000).size == (
            (4, 6) if 5 <= orientation <= 8 else (6, 4)
        )
    verify([path], upright=True, max_pixels=1000)


def test_metadata_that_cannot_be_written_again_does_not_matter(tmp_path):
    # Little-endian EXIF: orientation 6, and a tag of SLONG with -5 that Pillow cannot serialise.
    entries = (
        b"\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
        + b"\x01\x01\x09\x00\x01\x00\x00\x00\xfb\xff\xff\xff"
    )
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    path = tmp_path / "1.jpg"
    Image.new("RGB", (6, 4)).save(path, exif=exif)
    assert read_image(path, upright=True, max_pixels=1000).size == (4, 6)


@pytest.mark.parametrize(("head", "kind"), [(b"\0\0\0\x20ftypavif", "AVIF"), (b"\0\0\0\x18ftypheic", "HEIC")])
def test_other_kinds_are_called_by_name(tmp_path, head, kind):
    (tmp_path / "1.jpg").write_bytes(head + bytes(100))
    with pytest.raises(BadImageError, match=f"{kind}; convert it to JPEG or PNG"):
        read_image(tmp_path / "1.jpg", upright=True, max_pixels=1000)
