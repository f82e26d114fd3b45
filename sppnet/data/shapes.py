"""The embedded default data set: generated images of ten shapes, in the layouts of the real ones.

No download and no licence, yet real JPEG and PNG files of many sizes. Classification images lie in
`{train,test}/<class>/`, images for detection in `VOCdevkit/VOC2007` with annotations and image sets.
Every image follows from its own name and the seed alone, so asking for more adds to the same images.

Why a whole folder is built aside and renamed: whoever finds it under its name finds all of it. A killed
build leaves a folder that no reader looks at, and of two builds at once one is thrown away.
"""

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from sppnet.artifacts import content_key, stable_seed
from sppnet.data.folder import list_classes
from sppnet.data.shape_drawing import CLASSES, Painted, Placement, paint_scene
from sppnet.data.splits import ImageSet, ImageSplits, Selection, split_given
from sppnet.errors import ConfigError, ResourceError
from sppnet.progress_bar import show_progress

_VERSION = 2  # to be raised with every change that draws other images
_SHORT_SIDE = (110, 220)  # pixels, uniformly
_ASPECT = (0.6, 1.7)  # width / height, uniformly on the logarithmic scale
_RELATIVE_SIZE = (0.4, 0.85)  # diameter of a shape / short side, uniformly
_DETECTION_SIZE = (0.2, 0.6)  # the same where up to four shapes share an image
_MAX_OBJECTS = 4
_PNG_EVERY = 8  # one file in so many is a PNG
_STALE_SECONDS = 24 * 3600
_HIDDEN_WHEN_VISIBLE_BELOW = 0.6  # an object of which less is left is "difficult"


@final
@dataclass(frozen=True)
class ShapesReader:
    """Generates the images at first use, as many as are asked for, and lists them.

    Args:
        detection_images: Images in VOC's layout; the first half trainval, the other test.
    """

    detection_images: int

    def read(self, root: Path | None, selection: Selection) -> ImageSplits:
        """List the images, in `root`, $SPPNET_DATA or ~/.cache/sppnet; the split's seed draws them.

        Raises:
            ConfigError: The numbers of images are not given.
            ResourceError: They cannot be written.
        """
        num_train, num_test = selection.per_class, selection.test_per_class
        if num_train is None or num_test is None:
            raise ConfigError(
                "data=shapes generates as many images as asked for: "
                "set data.per_class and data.test_per_class"
            )
        folder = build_shapes(
            root,
            per_class=num_train,
            test_per_class=num_test,
            detection_images=self.detection_images,
            seed=selection.split_seed,
        )
        return split_given(list_classes(folder / "train"), list_classes(folder / "test"), selection)


@final
@dataclass(frozen=True)
class ShapesPool:
    """Generated images of one shape each, as a pool to draw from.

    Args:
        per_class: Images of every class.
        seed: Of the images.
    """

    per_class: int
    seed: int

    def pool(self, root: Path | None) -> ImageSet:
        """Generate the images at first use, and list them."""
        folder = build_shapes(
            root,
            per_class=self.per_class,
            test_per_class=1,
            detection_images=0,
            seed=self.seed,
        )
        return list_classes(folder / "train")


def build_shapes(
    root: Path | None, *, per_class: int, test_per_class: int, detection_images: int, seed: int
) -> Path:
    """Generate the data set below `root` unless it is there; return its folder.

    Without a root it is $SPPNET_DATA or ~/.cache/sppnet.

    Raises:
        ResourceError: The folder cannot be written.
    """
    numbers = {
        "version": _VERSION,
        "per_class": per_class,
        "test_per_class": test_per_class,
        "detection_images": detection_images,
        "seed": seed,
    }
    root = root or Path(os.environ.get("SPPNET_DATA") or Path.home() / ".cache" / "sppnet")
    folder = root / f"shapes-{content_key(numbers)[:12]}"
    if folder.is_dir():
        return folder
    aside = root / f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        aside.mkdir(parents=True)
        _remove_stale(root)
        _write_classes(aside, {"train": per_class, "test": test_per_class}, seed)
        _write_detection(aside / "VOCdevkit" / "VOC2007", detection_images, seed)
        os.sync()  # a power cut must not leave the name with empty files behind it
        try:
            aside.rename(folder)
        except OSError:
            if not folder.is_dir():  # no other process was first
                raise
    except OSError as error:
        raise ResourceError(
            f"{root}: cannot write the generated images ({error.strerror or error}); "
            f"free some space, or choose another data.root or $SPPNET_DATA"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _remove_stale(root: Path) -> None:
    """Remove what killed builds left a day ago or earlier."""
    for leftover in root.glob(".shapes-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _write_classes(folder: Path, numbers: dict[str, int], seed: int) -> None:
    """One shape per image, in folders by class."""
    jobs = [(part, name, i) for part, number in numbers.items() for name in CLASSES for i in range(number)]
    for part, name, i in show_progress(jobs, label="generating shapes", total=len(jobs)):
        random = np.random.default_rng(stable_seed(seed, part, name, i))
        size = _random_size(random)
        image, _ = paint_scene(size, [_place(name, size, _RELATIVE_SIZE, random)], random)
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        _save(image, folder / part / name / f"{name}_{i:04d}", is_png=i % _PNG_EVERY == 0, random=random)


def _write_detection(folder: Path, num_images: int, seed: int) -> None:
    """One to four shapes per image, with annotations and image sets."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    written: list[AnnotatedImage] = []
    for i in show_progress(range(num_images), label="generating scenes", total=num_images):
        random = np.random.default_rng(stable_seed(seed, "detection", i))
        size = _random_size(random)
        names = [str(name) for name in random.choice(CLASSES, random.integers(1, _MAX_OBJECTS + 1))]
        placements = [_place(name, size, _DETECTION_SIZE, random) for name in names]
        image, painted = paint_scene(size, placements, random)
        stem = f"{i + 1:06d}"
        _save(image, folder / "JPEGImages" / stem, is_png=False, random=random)
        written.append(write_voc_image(folder / "Annotations" / f"{stem}.xml", size, painted))
    half = num_images // 2
    write_image_sets(folder / "ImageSets" / "Main", {"trainval": written[:half], "test": written[half:]})


def _random_size(random: np.random.Generator) -> tuple[int, int]:
    """Width and height of an image."""
    short_side = int(random.integers(_SHORT_SIDE[0], _SHORT_SIDE[1] + 1))
    aspect = float(np.exp(random.uniform(*np.log(_ASPECT))))
    if aspect >= 1:
        return round(short_side * aspect), short_side
    return short_side, round(short_side / aspect)


def _place(
    name: str, size: tuple[int, int], relative_size: tuple[float, float], random: np.random.Generator
) -> Placement:
    """Anywhere within the image, of any size in the range."""
    radius = random.uniform(*relative_size) * min(size) / 2
    x, y = (random.uniform(radius + 1, side - radius - 1) for side in size)
    return Placement(name, x, y, radius)


def _save(image: Image.Image, stem: Path, *, is_png: bool, random: np.random.Generator) -> None:
    """As a PNG or as a JPEG of a photograph's quality."""
    if is_png:
        image.save(stem.with_suffix(".png"), compress_level=1)
    else:
        image.save(stem.with_suffix(".jpg"), quality=int(random.integers(75, 96)))


class AnnotatedImage(NamedTuple):
    """What the image sets say of an image: its name and its objects' classes."""

    stem: str
    easy: frozenset[str]
    difficult: frozenset[str]


def write_voc_image(path: Path, size: tuple[int, int], painted: Sequence[Painted]) -> AnnotatedImage:
    """Write one image's annotation; objects painted later lie in front.

    Args:
        path: The XML file; its stem is the image's.
        size: Width and height of the image, pixels.
        painted: The objects, back to front.
    """
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "VOC2007", "filename": f"{path.stem}.jpg"})
    _add(ElementTree.SubElement(root, "source"), {"database": "sppnet shapes"})
    width, height = size
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 0})
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for i, one in enumerate(painted):
        is_difficult = _visible_share(one, painted[i + 1 :]) < _HIDDEN_WHEN_VISIBLE_BELOW
        found[is_difficult].add(one.name)
        entry = ElementTree.SubElement(root, "object")
        _add(entry, {"name": one.name, "pose": "Unspecified", "truncated": 0, "difficult": int(is_difficult)})
        names = ("xmin", "ymin", "xmax", "ymax")
        one_based = [value + 1 for value in one.box_xyxy]
        _add(ElementTree.SubElement(entry, "bndbox"), dict(zip(names, one_based, strict=True)))
    ElementTree.indent(root, "\t")
    path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
    return AnnotatedImage(path.stem, frozenset(found[False]), frozenset(found[True] - found[False]))


def write_image_sets(folder: Path, sets: Mapping[str, Sequence[AnnotatedImage]]) -> None:
    """Write `<set>.txt` and `<class>_<set>.txt`: 1 present, 0 only difficult ones, -1 absent."""
    for name, images in sets.items():
        (folder / f"{name}.txt").write_text("".join(f"{image.stem}\n" for image in images))
        for label in CLASSES:
            lines = [f"{image.stem} {_presence(image, label):2d}\n" for image in images]
            (folder / f"{label}_{name}.txt").write_text("".join(lines))


def _presence(image: AnnotatedImage, label: str) -> int:
    if label in image.easy:
        return 1
    return 0 if label in image.difficult else -1


def _visible_share(one: Painted, in_front: Sequence[Painted]) -> float:
    """Share of a box that no box in front covers, at least (overlaps among those are counted twice)."""
    x1, y1, x2, y2 = one.box_xyxy
    covered = 0
    for other in in_front:
        a1, b1, a2, b2 = other.box_xyxy
        covered += max(0, min(x2, a2) - max(x1, a1) + 1) * max(0, min(y2, b2) - max(y1, b1) + 1)
    return 1 - covered / ((x2 - x1 + 1) * (y2 - y1 + 1))


def _add(parent: ElementTree.Element, children: Mapping[str, str | int]) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = str(value)
