"""VOC's layout: what is read, what is put up with, what is refused by name."""

import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.data.shape_drawing import CLASSES, Painted
from sppnet.data.shapes import write_image_sets, write_voc_image
from sppnet.data.voc2007 import VOC_CLASSES, class_labels, read_voc
from sppnet.data.voc_annotation import read_annotation
from sppnet.errors import ConfigError, DataError


def an_object(name="cat", box=(11, 21, 30, 40), difficult="<difficult>0</difficult>"):
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
    return f"<object><name>{name}</name>{difficult}<bndbox>{inner}</bndbox></object>"


def an_annotation(*objects, width=50, height=40):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


HARD = "<difficult>1</difficult>"


class Devkit:
    """A VOCdevkit under construction; images are 50 x 40."""

    def __init__(self, root):
        self.root = root
        self.year = root / "VOCdevkit" / "VOC2007"
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (self.year / name).mkdir(parents=True)

    def add(self, image_id, *objects, size=(50, 40)):
        Image.new("RGB", size).save(self.year / "JPEGImages" / f"{image_id}.jpg")
        return self.annotate(image_id, an_annotation(*objects))

    def annotate(self, image_id, content):
        path = self.year / "Annotations" / f"{image_id}.xml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def list_set(self, content, name="trainval"):
        path = self.year / "ImageSets" / "Main" / f"{name}.txt"
        path.write_bytes(content.encode())
        return path

    def read(self, name="trainval", classes=None):
        return read_voc(self.root, name, classes=classes)


@pytest.fixture
def devkit(tmp_path):
    return Devkit(tmp_path)


@pytest.fixture
def annotation(tmp_path):
    """Reads what is given as the content of an annotation."""

    def read(content):
        path = tmp_path / "000001.xml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_annotation(path)

    return read


def test_boxes_count_from_0_and_a_difficult_object_is_marked(devkit):
    devkit.add("000005", an_object("cat"), an_object("dog", (1, 1, 50, 40), HARD))
    devkit.list_set("000005\n")
    (image,), classes = devkit.read()
    assert classes == VOC_CLASSES
    assert image.boxes_xyxy.tolist() == [[10, 20, 29, 39], [0, 0, 49, 39]]
    assert [classes[label] for label in image.labels] == ["cat", "dog"]
    assert image.is_difficult.tolist() == [False, True]
    assert (image.image_id, image.width, image.height) == ("000005", 50, 40)
    assert image.path == devkit.year / "JPEGImages" / "000005.jpg"


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_the_data_set_is_found_from_any_of_its_folders(devkit, below):
    devkit.add("1")
    devkit.list_set("1")
    assert len(read_voc(devkit.root / below, "trainval", classes=None).images) == 1


def test_the_year_may_be_any_but_there_must_be_one(devkit):
    devkit.year.rename(devkit.year.with_name("cats"))
    Devkit(devkit.root)
    with pytest.raises(DataError, match="several data sets, .*VOC2007, .*cats; give one of these"):
        devkit.read()


def test_a_folder_that_holds_no_devkit_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="Annotations,ImageSets/Main,JPEGImages"):
        read_voc(tmp_path, "trainval", classes=None)


def test_an_image_without_objects_is_an_image_without_positives(devkit):
    devkit.add("1")
    devkit.list_set("1")
    images = devkit.read()
    assert images.images[0].boxes_xyxy.shape == (0, 4)
    assert class_labels(images).tolist() == [[-1] * 20]


def test_a_class_is_present_absent_or_only_difficult(devkit):
    devkit.add("both", an_object("ant"), an_object("ant", difficult=HARD))
    devkit.add("hard", an_object("ant", difficult=HARD))
    devkit.add("other", an_object("bee", difficult=""))
    devkit.list_set("both\nhard\nother\n")
    images = devkit.read()
    assert images.classes == ("ant", "bee")
    assert class_labels(images).tolist() == [[1, -1], [0, -1], [-1, 1]]


def test_labels_are_those_of_the_devkits_class_files(devkit):
    random = np.random.default_rng(0)
    written = []
    for i in range(40):
        corners = random.integers(0, 15, (int(random.integers(1, 5)), 2))
        painted = [
            Painted(str(name), (x, y, x + 9, y + 9))
            for name, (x, y) in zip(random.choice(CLASSES, len(corners)), corners.tolist(), strict=True)
        ]
        path = devkit.add(f"{i:06d}")
        written.append(write_voc_image(path, (50, 40), painted))
    write_image_sets(devkit.year / "ImageSets" / "Main", {"trainval": written})
    images = devkit.read()
    labels = class_labels(images)
    assert images.classes == tuple(sorted(CLASSES))
    assert [(labels == value).sum().item() > 20 for value in (-1, 0, 1)] == [True] * 3
    for k, name in enumerate(images.classes):
        path = devkit.year / "ImageSets" / "Main" / f"{name}_trainval.txt"
        lines = [f"{one.image_id} {label:2d}" for one, label in zip(images.images, labels[:, k], strict=True)]
        assert lines == path.read_text().splitlines()


def test_class_files_fix_the_classes_and_a_misspelt_object_is_unknown(devkit):
    devkit.add("1", an_object("cat"), an_object("catt"))
    devkit.list_set("1")
    for name in ("dog", "cat"):
        devkit.list_set("1 -1\n", f"{name}_trainval")
    devkit.list_set("1\n", "mini_trainval")  # an image set, not a class
    with pytest.raises(
        DataError,
        match=r"(?s)cat, dog, by the names of the files \*_tr.*object 2: unknown class 'catt'",
    ):
        devkit.read()


def test_the_test_images_are_labelled_by_the_training_images_classes(devkit):
    devkit.add("1", an_object("wasp"))
    devkit.list_set("1")
    assert devkit.read(classes=("ant", "wasp")).images[0].labels.tolist() == [1]
    with pytest.raises(DataError, match="unknown class 'wasp'"):
        devkit.read(classes=("ant",))


@pytest.mark.parametrize(
    ("box", "clipped"),
    [((0, 1, 50, 40), [0, 0, 49, 39]), ((1, 0, 51, 41), [0, 0, 49, 39]), ((1, 1, 50.5, 40), [0, 0, 49, 39])],
)
def test_a_pixel_outside_is_clipped_and_counted(devkit, box, clipped, caplog):
    devkit.add("1", an_object(box=box), an_object())
    devkit.list_set("1")
    assert devkit.read().images[0].boxes_xyxy[0].tolist() == clipped
    assert "1 boxes ended a pixel outside their image and were clipped" in caplog.text


def test_a_repeated_object_counts_twice_and_is_told(devkit, caplog):
    devkit.add("1", an_object(), an_object())
    devkit.list_set("1")
    assert len(devkit.read().images[0].labels) == 2
    assert "1 objects are repeated" in caplog.text


def test_fractions_of_a_pixel_are_kept(annotation):
    (one,) = annotation(an_annotation(an_object(box=(1.25, "2.5e0", 30, 40)))).objects
    assert one.box_xyxy == (0.25, 1.5, 29, 39)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"box": (-4, 1, 30, 40)}, "box -4 1 30 40 is more than a pixel outside the image of 50 x 40"),
        ({"box": (1, 1, 1050, 40)}, "more than a pixel outside"),
        ({"box": (30, 1, 11, 40)}, "box 30 1 11 40 is empty or inverted; expected xmin <= xmax"),
        ({"box": (11, 21, 30, 20)}, "empty or inverted"),
        ({"box": (51, 1, 51, 40)}, "empty or inverted"),
        ({"box": ("nan", 1, 30, 40)}, "bndbox/xmin is 'nan', expected a number"),
        ({"box": (1, "1e999", 30, 40)}, "bndbox/ymin is '1e999'"),
        ({"box": (1, 1, "left", 40)}, "bndbox/xmax is 'left'"),
        ({"box": (1, 1, 30, "")}, "bndbox/ymax is missing"),
        ({"name": ""}, "name is missing"),
        ({"name": "cat\u202e"}, "name is 'cat\\u202e', expected a class"),
        ({"difficult": "<difficult>2</difficult>"}, "difficult is '2', expected 0 or 1"),
    ],
)
def test_an_object_that_cannot_be_is_named(annotation, changed, said):
    with pytest.raises(DataError, match=rf"000001.xml: object 2: .*{re.escape(said)}"):
        annotation(an_annotation(an_object(), an_object(**changed)))


def test_an_object_without_a_box_is_not_given_that_of_its_parts(annotation):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    with pytest.raises(DataError, match="bndbox/xmin is missing"):
        annotation(an_annotation(f"<object><name>cat</name>{part}</object>"))


@pytest.mark.parametrize("side", ["", "0", "-5", "5.5", "10" * 20, "wide"])
def test_an_image_size_is_a_number_of_pixels(annotation, side):
    with pytest.raises(DataError, match="size/width is"):
        annotation(an_annotation(width=side))


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", ""),
        ("latin-1", '<?xml version="1.0" encoding="iso-8859-1"?>'),
        ("cp1252", '<?xml version="1.0" encoding="windows-1252"?>'),
    ],
)
def test_encodings_are_understood(annotation, encoding, declared):
    content = (declared + an_annotation(an_object("Käfer"))).encode(encoding)
    assert annotation(content).objects[0].name == "Käfer"


BILLION = '<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;">]>' + an_annotation(an_object("&m;"))
EXTERNAL = '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + an_annotation(an_object("&f;"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (BILLION, "document type"),
        (BILLION.encode("utf-16"), "document type"),
        (EXTERNAL, "document type"),
        ('<!DOCTYPE annotation SYSTEM "http://localhost/a.dtd">' + an_annotation(), "document type"),
        (an_annotation(an_object("&m;")), "undefined entity"),
        ("<a>" * 65 + "</a>" * 65, "nested deeper than 64"),
        ("<a>" * 200_000, "nested deeper than 64"),
        (an_annotation() + " " * (1 << 20), "more than 1048576 bytes"),
        ("", "not readable as XML"),
        ("\0\1\2", "not readable as XML"),
        (an_annotation()[:-5], "not readable as XML"),
        (an_annotation(an_object("Käfer")).encode("latin-1"), "not readable as XML"),
        ('<?xml version="1.0" encoding="klingon"?>' + an_annotation(), "unknown encoding"),
        ("<html></html>", "<html> instead of <annotation>"),
        ("<annotation/>", "size/width is missing"),
    ],
)
def test_hostile_and_broken_xml_is_refused_within_a_second(annotation, content, said):
    start = time.process_time()
    with pytest.raises(DataError, match=f"000001.xml: .*{re.escape(said)}"):
        annotation(content)
    assert time.process_time() - start < 1


def test_64_levels_are_not_too_deep(annotation):
    assert annotation(an_annotation("<a>" * 63 + "</a>" * 63)).objects == ()


def test_the_first_20_problems_are_listed_and_all_are_counted(devkit):
    for i in range(25):
        devkit.add(f"{i:02d}", an_object(box=(9, 9, 2, 2)))
    devkit.list_set("\n".join(f"{i:02d}" for i in range(25)))
    with pytest.raises(DataError, match="25 problems in 25 images") as caught:
        devkit.read()
    heading, *lines, last = str(caught.value).splitlines()
    assert [line.split(".xml")[0][-2:] for line in lines] == [f"{i:02d}" for i in range(20)]
    assert last == "... and 5 more"


def test_ids_without_files_are_problems_of_their_own(devkit):
    devkit.add("1")
    devkit.add("2")
    (devkit.year / "JPEGImages" / "2.jpg").unlink()
    devkit.list_set("1\n2\n3\n")
    with pytest.raises(
        DataError,
        match=r"(?s)2 problems.*JPEGImages/2.jpg: no such file.*3.xml: cannot be read \(No such file",
    ):
        devkit.read()


def test_an_image_of_another_size_than_annotated_names_both(devkit):
    devkit.add("1", size=(40, 50))
    devkit.list_set("1")
    with pytest.raises(DataError, match=r"1.jpg: 40 x 50 pixels, but its annotation says 50 x 40"):
        devkit.read()


def test_boxes_refer_to_the_stored_orientation(devkit):
    devkit.add("1")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    Image.new("RGB", (50, 40)).save(devkit.year / "JPEGImages" / "1.jpg", exif=exif)
    devkit.list_set("1")
    assert (devkit.read().images[0].width, devkit.read().images[0].height) == (50, 40)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xd8\xff"])
def test_what_is_no_image_is_named(devkit, content):
    devkit.add("1")
    (devkit.year / "JPEGImages" / "1.jpg").write_bytes(content)
    devkit.list_set("1")
    with pytest.raises(DataError, match="1.jpg: .*(not readable|not an image|empty)"):
        devkit.read()


def test_png_images_do_as_well(devkit):
    devkit.annotate("1", an_annotation())
    path = devkit.year / "JPEGImages" / "1.PNG"
    Image.new("RGB", (50, 40)).save(path)
    devkit.list_set("1")
    assert devkit.read().images[0].path == path


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_problem(devkit):
    devkit.add("1")
    devkit.add("2")
    devkit.list_set("\ufeff2\r\n\r\n  1 \r\n")
    assert [image.image_id for image in devkit.read().images] == ["2", "1"]


@pytest.mark.parametrize(
    "line", ["../../etc/passwd", "/etc/passwd", "a/../b", "C:\\a", "..", ".hidden", "a//b", "a\0"]
)
def test_a_path_is_not_an_image_id(devkit, line):
    devkit.add("1")
    path = devkit.list_set(f"1\n{line}\n")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}, line 2: .* is not an image id"):
        devkit.read()


def test_an_image_listed_twice_is_a_problem(devkit):
    devkit.list_set("1\n2\n\n1\n")
    with pytest.raises(DataError, match="line 4: 1 again, first in line 1"):
        devkit.read()


def test_an_empty_image_set_is_a_problem(devkit):
    devkit.list_set("\n")
    with pytest.raises(DataError, match="no image ids"):
        devkit.read()


def test_a_set_that_is_not_there_names_those_that_are(devkit):
    devkit.list_set("1\n")
    devkit.list_set("1\n", "test")
    with pytest.raises(DataError, match=r"val.txt: cannot be read .*image sets there: test, trainval"):
        devkit.read("val")


@pytest.mark.parametrize("name", ["../secret", "", "a/b"])
def test_an_image_set_is_a_name(devkit, name):
    with pytest.raises(ConfigError, match="expected the name of one, such as trainval or test"):
        devkit.read(name)


def test_records_travel_as_tensors_of_fixed_types(devkit):
    devkit.add("1", an_object())
    devkit.list_set("1")
    image = devkit.read().images[0]
    assert [image.boxes_xyxy.dtype, image.labels.dtype, image.is_difficult.dtype] == [
        torch.float32,
        torch.int64,
        torch.bool,
    ]


@pytest.mark.parametrize(
    "image_id", ["photo (0)", "a+b", "-x=2", "sub/1", "größe 日本", "x" * 120, "photo 1"]
)
def test_ids_may_be_any_names_of_files(devkit, image_id):
    for folder in ("JPEGImages", "Annotations"):
        (devkit.year / folder / image_id).parent.mkdir(exist_ok=True)
    devkit.add(image_id, an_object())
    devkit.list_set(f"{image_id}\n")
    assert [image.image_id for image in devkit.read().images] == [image_id]


@pytest.mark.parametrize("line", ["1  1", "1 -1", "1.jpg", "JPEGImages/1.jpg", "VOC2007/JPEGImages/1.JPG 0"])
def test_what_stands_beside_an_id_is_put_up_with(devkit, line):
    devkit.add("1", an_object())
    path = devkit.list_set("")
    for encoding in ("utf-8", "utf-16"):
        path.write_bytes(f"{line}\r\n".encode(encoding))
        assert [image.image_id for image in devkit.read().images] == ["1"]


@pytest.mark.parametrize(
    "name", ["nut & bolt", "men's shoe", "dog (small)", "car/truck", "50%", "C#", "🍎", "x" * 90]
)
def test_classes_may_have_any_visible_name(annotation, name):
    (one,) = annotation(an_annotation(an_object(name.replace("&", "&amp;")))).objects
    assert one.name == name


@pytest.mark.parametrize("box", [(17, 10, 17, 40), (17, 10, 30, 10), (0, 10, 1, 40)])
def test_a_box_may_be_one_pixel_wide(annotation, box):
    (one,) = annotation(an_annotation(an_object(box=box))).objects
    assert one.box_xyxy[0] <= one.box_xyxy[2]
    assert one.box_xyxy[1] <= one.box_xyxy[3]


@pytest.mark.parametrize(("text", "is_difficult"), [("Unspecified", False), ("False", False), ("1.0", True)])
def test_other_tools_words_for_difficult(annotation, text, is_difficult):
    (one,) = annotation(an_annotation(an_object(difficult=f"<difficult>{text}</difficult>"))).objects
    assert one.is_difficult is is_difficult


def test_any_format_is_read_whatever_its_name_says(devkit):
    devkit.add("1", an_object())
    devkit.list_set("1")
    Image.new("RGB", (50, 40)).save(devkit.year / "JPEGImages" / "1.jpg", format="WEBP")
    assert (devkit.read().images[0].width, devkit.read().images[0].height) == (50, 40)


def test_a_blank_first_line_is_no_problem_and_a_bare_ampersand_is_explained(annotation):
    assert annotation("\n\n<?xml version='1.0'?>" + an_annotation(an_object())).width == 50
    with pytest.raises(DataError, match="& is written &amp;"):
        annotation("<annotation><path>a & b</path></annotation>")


@pytest.fixture
def det(tmp_path):
    """ILSVRC DET as it is distributed: two images of val, one of train; numbers behind ids."""
    for image_id, name in (("val/a_00000001", "n1"), ("val/a_00000002", "n2"), ("train/part/n1/n1_5", "n1")):
        for place, ending in (("Annotations", "xml"), ("Data", "JPEG")):
            path = tmp_path / "ILSVRC" / place / "DET" / f"{image_id}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if place == "Data":
                Image.new("RGB", (50, 40)).save(path)
            else:
                path.write_text(an_annotation(an_object(name, difficult="")))
    sets = tmp_path / "ILSVRC" / "ImageSets" / "DET"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("a_00000001 1\na_00000002 2\n")
    (sets / "train_1.txt").write_text("part/n1/n1_5 1\n")
    return tmp_path


def test_det_is_read_as_it_is_distributed(det):
    found = read_voc(det, "val", classes=None)
    assert found.classes == ("n1", "n2")
    assert [image.image_id for image in found.images] == ["val/a_00000001", "val/a_00000002"]
    assert all(image.path.is_file() for image in found.images)
    (positive,) = read_voc(det, "train_1", classes=found.classes).images
    assert (positive.image_id, positive.labels.tolist()) == ("train/part/n1/n1_5", [0])


def test_of_joined_sets_only_the_first_is_known_to_be_complete(det, devkit):
    found = read_voc(det / "ILSVRC", "val+train_1", classes=None)
    assert [image.is_complete for image in found.images] == [True, True, False]
    (det / "ILSVRC" / "ImageSets" / "DET" / "val1.txt").write_text("a_00000002 2\n")
    with pytest.raises(DataError, match="1 images are in more than one part of it .val/a_00000002."):
        read_voc(det / "ILSVRC", "val+val1", classes=None)
    with pytest.raises(ConfigError, match="image set 'val[+]'"):
        read_voc(det / "ILSVRC", "val+", classes=None)


@pytest.mark.parametrize(
    ("encoding", "name"), [("gb2312", "螺丝"), ("shift_jis", "ネジ"), ("utf-16", "grün")]
)
def test_an_annotation_is_in_the_encoding_that_it_declares(devkit, encoding, name):
    devkit.add("000001", an_object())
    text = an_annotation(an_object(name))
    devkit.annotate("000001", f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding))
    devkit.list_set("/data/JPEGImages/000001.jpg /data/Annotations/000001.xml")
    assert devkit.read().classes == (name,)


def test_an_annotation_in_no_declared_encoding_is_to_be_saved_as_utf_8(annotation):
    with pytest.raises(DataError, match="save it as UTF-8"):
        annotation(an_annotation(an_object("grün")).encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        annotation(b'<?xml version="1.0" encoding="klingon"?><annotation/>')
