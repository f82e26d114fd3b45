"""`sppnet detect`: anybody's pictures, by a detector small enough to be checked by eye."""

import json
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.cli.detect import main
from sppnet.data.images import read_image
from sppnet.errors import ArtifactError, ConfigError, DataError, ResourceError
from sppnet.metrics.detection_ap import Detections


class RedBoxes:
    """Finds the smallest box round all red pixels, and says so three times."""

    classes = ("berry", "tomato")

    def detect(self, path: Path) -> Detections:
        pixels = np.asarray(read_image(path, upright=True, max_pixels=10**6)).astype(int)
        rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
        if len(rows) == 0:
            return Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.long))
        box = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()], dtype=torch.float32)
        return Detections(box.expand(3, 4), torch.tensor([0.25, 0.75, -0.5]), torch.tensor([1, 0, 1]))


def load_red(path: Path) -> RedBoxes:
    if not (path / "red").exists():
        raise ArtifactError(f"{path}: holds no detector")
    return RedBoxes()


detect = partial(main, load=load_red)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/red").touch()


def paint(file: str, box: tuple[int, int, int, int] | None = (20, 30, 59, 49), **options) -> Path:
    image = Image.new("RGB", (160, 120), "white")
    if box:
        image.paste((230, 10, 10), (box[0], box[1], box[2] + 1, box[3] + 1))
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def listed(file: str = "detections/detections.json"):
    return json.loads(Path(file).read_text())


def files_of(listing) -> list[str]:
    return [image["file"] for image in listing["images"]]


def test_a_picture_is_told_drawn_and_listed(capfd):
    paint("a.png")
    assert detect(["a.png", "--detector", "run"]) == 0
    first, last = capfd.readouterr().out.splitlines()
    assert first.startswith("a.png: 1 berry (0.75), 1 tomato (0.25); ")
    assert last.startswith("1 of 1 images in ")
    assert last.endswith(" s: pictures in detections, list in detections/detections.json")
    box = [20.0, 30.0, 59.0, 49.0]
    assert listed() == {
        "detector": "run",
        "classes": ["berry", "tomato"],
        "score_above": -0.5,
        "images": [
            {
                "file": "a.png",
                "picture": "detections/a.png",
                "width": 160,
                "height": 120,
                "detections": [
                    {"class": "berry", "score": 0.75, "box": box},
                    {"class": "tomato", "score": 0.25, "box": box},
                ],
            }
        ],
        "failed": [],
        "not_done": [],
    }
    before, after = np.asarray(Image.open("a.png")), np.asarray(Image.open("detections/a.png"))
    assert before.shape == after.shape
    assert (before != after).any()


def test_score_above_is_for_the_list_and_the_picture(capfd):
    paint("a.png")
    assert detect(["a.png", "--detector", "run", "--score-above", "0.8"]) == 0
    assert capfd.readouterr().out.startswith("a.png: nothing above 0.8 (the best: berry 0.75); ")
    assert listed()["images"][0]["detections"] == []
    assert (np.asarray(Image.open("detections/a.png")) == np.asarray(Image.open("a.png"))).all()
    assert detect(["a.png", "--detector", "run", "--score-above", "-1"]) == 0
    assert [one["score"] for one in listed()["images"][0]["detections"]] == [0.75, 0.25, -0.5]


def test_folders_are_searched_and_patterns_followed_each_picture_once_in_order():
    for file in ("in/b.JPG", "in/deep/er/a.webp", "in/.hidden/x.png", "in/.y.png", "c.bmp"):
        paint(file)
    Path("in/notes.txt").write_text("no picture")
    assert detect(["c.bmp", "in", "--detector", "run"]) == 0
    assert files_of(listed()) == ["c.bmp", "in/b.JPG", "in/deep/er/a.webp"]
    assert detect(["in/**/*.webp", "./c.bmp", "in/", "*.bmp", "--detector", "run"]) == 0
    assert files_of(listed()) == ["in/deep/er/a.webp", "c.bmp", "in/b.JPG"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern():
    paint("a[1].png")
    paint("a1.png")
    assert detect(["a[1].png", "--detector", "run"]) == 0
    assert files_of(listed()) == ["a[1].png"]


def test_a_second_run_does_not_look_at_the_pictures_of_the_first():
    paint("a.png")
    for word in (".", ".", "**/*.png", "*.png"):
        assert detect([word, "--detector", "run"]) == 0
        assert files_of(listed()) == ["a.png"]
    assert sorted(file.name for file in Path("detections").iterdir()) == ["a.png", "detections.json"]


def test_pictures_of_one_stem_get_names_of_their_own():
    for number, file in enumerate(("x/a.png", "y/a.png", "y/A.jpg", "z/a-2.png")):
        paint(file, (20, 30, 59 + number, 49))
    assert detect(["x", "y", "z", "--detector", "run"]) == 0
    pictures = {image["file"]: image["picture"] for image in listed()["images"]}
    assert pictures == {
        "x/a.png": "detections/a.png",
        "y/A.jpg": "detections/A-2.jpg",
        "y/a.png": "detections/a-3.png",
        "z/a-2.png": "detections/a-2-2.png",
    }
    assert all(Path(picture).exists() for picture in pictures.values())


def test_an_unreadable_picture_among_good_ones_is_one_line_and_the_others_are_done(capfd):
    paint("a.png")
    Path("b.png").write_bytes(b"no picture")
    paint("c.png")
    with pytest.raises(DataError, match="1 of 3 images") as stop:
        detect(["a.png", "b.png", "c.png", "--detector", "run", "--jobs", "2"])
    assert stop.value.exit_code == 3
    said = capfd.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("sppnet: b.png: ")
    assert files_of(listed()) == ["a.png", "c.png"]
    assert [one["file"] for one in listed()["failed"]] == ["b.png"]
    assert Path("detections/c.png").exists()
    assert not Path("detections/b.png").exists()


def test_boxes_refer_to_the_picture_as_it_is_displayed():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    paint("a.png", (20, 30, 59, 49), exif=exif)
    assert detect(["a.png", "--detector", "run"]) == 0
    (image,) = listed()["images"]
    assert (image["width"], image["height"]) == (120, 160)
    # Row y of a picture 120 high becomes column 119 - y.
    assert image["detections"][0]["box"] == [119 - 49, 20, 119 - 30, 59]
    assert Image.open("detections/a.png").size == (120, 160)


def test_the_list_alone_goes_where_it_is_asked_for():
    paint("a.png")
    assert detect(["a.png", "--detector", "run", "--no-pictures", "--json", "lists/found.json"]) == 0
    assert listed("lists/found.json")["images"][0]["picture"] is None
    assert not Path("detections").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["nowhere.png", "--detector", "run"], DataError, "nowhere.png: no such file"),
        (["*.tif", "--detector", "run"], DataError, r"\*.tif: no images there"),
        (["run", "--detector", "run"], DataError, "run: no images there"),
        (["a.png", "--detector", "nowhere"], ConfigError, "--detector=nowhere: no such folder"),
        (["a.png", "--detector", "."], ArtifactError, "holds no detector"),
        (["a.png", "--detector", "run", "--jobs", "0"], ConfigError, "--jobs=0: must be 1 or more"),
        (["a.png", "--detector", "run", "--score-above", "nan"], ConfigError, "must be a number"),
        (["a.png", "--detector", "run", "--out", "a.png"], ResourceError, "a.png: cannot write"),
        (["a.png", "--detector", "run", "--out", "a.png/b"], ResourceError, "cannot write"),
        (["a.png", "--detector", "run", "--out", "."], ConfigError, "--out=.: holds a.png"),
        ([".", "--detector", "run", "--out", "."], ConfigError, "--out=.: holds a.png"),
        (["a.png", "--detector", "run", "--json", "a.png"], ConfigError, "--json=a.png"),
        (["a.png", "--detector", "run", "--json", "run"], ConfigError, "--json=run"),
    ],
)
def test_a_mistake_is_found_before_work_begins(tmp_path: Path, arguments, error, said):
    before = paint("a.png").read_bytes()
    with pytest.raises(error, match=said):
        detect(arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "run"]
    assert Path("a.png").read_bytes() == before


def test_a_link_to_a_picture_in_the_output_folder_cannot_overwrite_it():
    kept = paint("detections/a.png").read_bytes()
    Path("a.png").symlink_to("detections/a.png")
    with pytest.raises(ConfigError, match="holds a.png"):
        detect(["a.png", "--detector", "run"])
    assert Path("detections/a.png").read_bytes() == kept


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_and_lists_what_is_done(capfd, number, code):
    class Interrupted(RedBoxes):
        def detect(self, path: Path) -> Detections:
            if path.name == "b.png":
                signal.pthread_kill(threading.main_thread().ident, number)
                time.sleep(0.3)  # the main thread hears it
            return super().detect(path)

    for name in "abcd":
        paint(f"{name}.png")
    arguments = [*(f"{name}.png" for name in "abcd"), "--detector", "run", "--jobs", "1"]
    assert main(arguments, load=lambda path: Interrupted()) == code
    assert files_of(listed()) == ["a.png", "b.png"]
    assert listed()["not_done"] == ["c.png", "d.png"]
    assert Path("detections/b.png").exists()
    assert "2 of 4 images" in capfd.readouterr().out


def test_an_error_of_the_detector_itself_still_lists_what_was_done():
    class Broken(RedBoxes):
        def detect(self, path: Path) -> Detections:
            if path.name == "b.png":
                raise RuntimeError("out of memory")
            return super().detect(path)

    paint("a.png")
    paint("b.png")
    with pytest.raises(RuntimeError, match="out of memory"):
        main(["a.png", "b.png", "--detector", "run", "--jobs", "1"], load=lambda path: Broken())
    assert files_of(listed()) == ["a.png"]
    assert listed()["not_done"] == ["b.png"]


def test_several_pictures_at_a_time_are_told_in_their_order(capfd):
    begun: list[str] = []
    together = threading.Barrier(2, timeout=20)

    class Slow(RedBoxes):
        def detect(self, path: Path) -> Detections:
            begun.append(path.name)
            together.wait()  # breaks, unless two are at it
            time.sleep(0.2 if path.name == "a.png" else 0)
            return super().detect(path)

    names = ["a.png", "b.png", "c.png", "d.png"]
    for name in names:
        paint(name)
    assert main([*names, "--detector", "run", "--jobs", "2"], load=lambda path: Slow()) == 0
    assert [line.partition(":")[0] for line in capfd.readouterr().out.splitlines()[:4]] == names
    assert sorted(begun) == names


@pytest.mark.skipif(os.name != "posix", reason="names of bytes that are no text")
def test_a_name_that_is_no_text_does_not_end_the_run(capfd):
    paint("a.png")
    odd = os.fsdecode(b"b\xff\n.png")
    Path("a.png").rename(odd)
    assert detect([odd, "--detector", "run"]) == 0
    assert capfd.readouterr().out.splitlines()[0].startswith("b  .png: 1 berry")
    assert files_of(listed()) == [odd]
