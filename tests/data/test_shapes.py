"""The generated data set: real files, the same every time, complete or not there at all."""

import hashlib
import multiprocessing
import os
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sppnet.data import shape_drawing
from sppnet.data.shape_drawing import CLASSES, OUTLINES, Placement, paint_scene
from sppnet.data.shapes import ShapesReader, build_shapes
from sppnet.data.splits import Selection
from sppnet.errors import ConfigError, ResourceError

TINY = {"per_class": 2, "test_per_class": 1, "detection_images": 6}


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_shapes(tmp_path_factory.mktemp("shapes"), **TINY, seed=0)


def test_two_builds_are_the_same_bytes(built, tmp_path):
    assert digests(built) == digests(build_shapes(tmp_path, **TINY, seed=0))


def test_another_seed_draws_other_images_under_another_name(built, tmp_path):
    other = build_shapes(tmp_path, **TINY, seed=1)
    assert other.name != built.name
    same = digests(built).items() & digests(other).items()
    assert not [name for name, _ in same if name.endswith((".jpg", ".png"))]


def test_more_images_contain_the_fewer(built, tmp_path):
    more = build_shapes(tmp_path, per_class=3, test_per_class=1, detection_images=0, seed=0)
    fewer = {item for item in digests(built).items() if not item[0].startswith("VOCdevkit")}
    assert fewer < set(digests(more).items())


def test_a_data_set_that_is_there_is_not_built_again(built):
    before = built.stat().st_mtime_ns
    assert build_shapes(built.parent, **TINY, seed=0) == built
    assert built.stat().st_mtime_ns == before


def test_files_are_jpeg_and_png_of_many_sizes(built):
    kinds, shapes_seen = set(), set()
    for path in built.glob("t*/*/*"):
        with Image.open(path) as image:
            kinds.add((path.suffix, image.format))
            shapes_seen.add(image.size)
            assert 110 <= min(image.size) <= 220
            assert 0.58 < image.size[0] / image.size[1] < 1.75
    assert kinds == {(".jpg", "JPEG"), (".png", "PNG")}
    assert len(shapes_seen) > 25


def test_the_reader_lists_what_was_asked_for(tmp_path):
    selection = Selection(per_class=2, test_per_class=1, val_fraction=0.5, split_seed=0)
    splits = ShapesReader(detection_images=0).read(tmp_path, selection)
    assert splits.train.classes == CLASSES
    assert [len(part.paths) for part in splits] == [10, 10, 10]


def test_the_reader_needs_numbers(tmp_path):
    selection = Selection(per_class=None, test_per_class=1, val_fraction=0.0, split_seed=0)
    with pytest.raises(ConfigError, match="set data.per_class"):
        ShapesReader(detection_images=0).read(tmp_path, selection)


def test_the_place_is_the_environments_or_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SPPNET_DATA", str(tmp_path))
    assert build_shapes(None, **TINY, seed=0).parent == tmp_path
    monkeypatch.delenv("SPPNET_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build_shapes(None, **TINY, seed=0).parent == tmp_path / ".cache" / "sppnet"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file: cannot write"):
        build_shapes(tmp_path / "file", **TINY, seed=0)


def start_build(folder):
    process = multiprocessing.get_context("fork").Process(
        target=build_shapes,
        args=(folder,),
        kwargs={"per_class": 9, "test_per_class": 1, "detection_images": 2, "seed": 0},
    )
    process.start()
    return process


def test_a_killed_build_leaves_nothing_that_is_taken_for_complete(tmp_path):
    process = start_build(tmp_path)
    while not list(tmp_path.glob(".shapes-*/train/*/*")):
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    (aside,) = tmp_path.iterdir()
    assert aside.name.endswith(".tmp")
    os.utime(aside, (0, 0))  # as if killed long ago
    folder = build_shapes(tmp_path, per_class=1, test_per_class=1, detection_images=0, seed=0)
    assert list(tmp_path.iterdir()) == [folder]


def test_of_two_builds_at_once_one_stays(tmp_path):
    processes = [start_build(tmp_path) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("train/*/*"))) == 90


@pytest.mark.parametrize("name", CLASSES)
def test_the_box_is_the_extent_of_what_was_painted(name, monkeypatch):
    # Red on black and without noise, whatever is drawn at random.
    monkeypatch.setattr(shape_drawing, "_NOISE_DEVIATION", (0.0, 0.0))
    monkeypatch.setattr(shape_drawing, "_contrasting_colour", lambda covered, random: (255, 0, 0))
    monkeypatch.setattr(
        shape_drawing, "_paint_clutter", lambda canvas, random: canvas.paste("black", (0, 0, 90, 70))
    )
    monkeypatch.setattr(shape_drawing, "_smooth_colours", lambda size, random: Image.new("RGB", size))
    scene, (painted,) = paint_scene((90, 70), [Placement(name, 40.3, 33.8, 25.0)], np.random.default_rng(3))
    left, top, right, bottom = scene.getchannel("R").point(lambda value: 255 * (value > 127)).getbbox()
    assert painted.box_xyxy == (left, top, right - 1, bottom - 1)
    assert 20 < right - left <= 50
    assert 20 < bottom - top <= 50


def test_outlines_fit_their_circle():
    for outline in OUTLINES.values():
        assert np.linalg.norm(outline[0][0], axis=1).max() <= 1.01


def test_the_voc_layout_is_the_devkits(built):
    voc = built / "VOCdevkit" / "VOC2007"
    trainval, test = (
        (voc / f"ImageSets/Main/{part}.txt").read_text().split() for part in ("trainval", "test")
    )
    assert (trainval, test) == (["000001", "000002", "000003"], ["000004", "000005", "000006"])
    for stem in trainval + test:
        root = ElementTree.parse(voc / "Annotations" / f"{stem}.xml").getroot()
        with Image.open(voc / "JPEGImages" / f"{stem}.jpg") as image:
            width, height = image.size
        assert (root.findtext("size/width"), root.findtext("size/height")) == (str(width), str(height))
        assert 1 <= len(root.findall("object")) <= 4
        for entry in root.findall("object"):
            box = {side: int(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")}
            assert 1 <= box["xmin"] < box["xmax"] <= width
            assert 1 <= box["ymin"] < box["ymax"] <= height


def test_class_lists_agree_with_the_annotations(built):
    voc = built / "VOCdevkit" / "VOC2007"
    for part in ("trainval", "test"):
        for name in CLASSES:
            for line in (voc / f"ImageSets/Main/{name}_{part}.txt").read_text().splitlines():
                stem, presence = line.split()
                root = ElementTree.parse(voc / "Annotations" / f"{stem}.xml").getroot()
                flags = [
                    e.findtext("difficult") for e in root.findall("object") if e.findtext("name") == name
                ]
                assert int(presence) == (-1 if not flags else 1 if "0" in flags else 0)
