"""`sppnet data`: look at a data set before anything is trained on it."""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.errors import ConfigError

if TYPE_CHECKING:  # imports torch
    from sppnet.data.datamodule import ImageDataModule
    from sppnet.data.splits import ImageSet


def main(argv: Sequence[str]) -> int:
    """Describe or check the data set that a configuration names; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="sppnet data",
        description="Look at the data set of a configuration: sppnet data verify data=folder data.root=DIR",
    )
    parser.add_argument(
        "verb", choices=("show", "verify"), help="show: count images; verify: read every file"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as for sppnet; default data=shapes"
    )
    arguments = parser.parse_args(list(argv))
    from sppnet.experiment.compose import compose_config, plain_part

    config = compose_config(arguments.overrides)
    is_verified = arguments.verb == "verify"
    if config.get("target") is not None:
        _look_at_target(plain_part(config, "target"), int(config.data_loading.max_pixels), is_verified)
        # Networks that stand below are trained on other data; the default's is nobody's question.
        if not any(word.startswith(("data=", "data.")) for word in arguments.overrides):
            return 0
    data = _datamodule(plain_part(config, "data"))
    if data.per_class is None and (pool := _pool(data)) is not None:
        print(
            f"{data.name}: {len(pool.classes)} classes; {len(pool.paths)} images, "
            f"not parted into train and test"
        )
        print("data.per_class=N trains with so many of every class and tests with the others")
        if is_verified:
            from sppnet.data.image_store import verify

            _tell(verify(pool.paths, upright=data.upright, max_pixels=data.max_pixels))
        return 0
    splits = zip(("train", "held out", "test"), data.splits, strict=True)
    counts = ", ".join(f"{len(images.paths)} {name}" for name, images in splits)
    print(f"{data.name}: {len(data.classes)} classes; {counts} images")
    if is_verified:
        _tell(data.verify())
    return 0


def _look_at_target(part: Mapping[str, Any], max_pixels: int, is_verified: bool) -> None:
    from sppnet.data.image_store import verify
    from sppnet.experiment.checks import check_root
    from sppnet.experiment.making import make

    check_root(part, str(part.get("facts", {}).get("root", "target.root")))
    print("reading ...", file=sys.stderr)
    target = make(part)
    if hasattr(target, "read_boxes"):
        trainval, test = target.read_boxes()
        images = [*trainval.images, *test.images]
        paths, classes, is_upright = [image.path for image in images], trainval.classes, False
        counts = f"{len(trainval.images)} to train and {len(test.images)} to test"
        counts += f", {sum(len(image.labels) for image in images)} objects"
    else:
        listed = target.read()
        paths, classes, is_upright = list(listed.paths), listed.classes, listed.is_upright
        counts = str(len(paths))
    print(f"{part['name']}: {len(classes)} classes; images: {counts}")
    if is_verified:
        _tell(verify(paths, upright=is_upright, max_pixels=max_pixels))


def _tell(kinds: Mapping[str, int]) -> None:
    print("all readable: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


def _pool(data: "ImageDataModule") -> "ImageSet | None":
    """All the images of a data set that comes in one pool; None of one that is parted."""
    from sppnet.data.splits import require_classes

    try:
        _ = data.splits
    except ConfigError:
        if not hasattr(data.reader, "pool"):
            raise
        logging.disable(logging.WARNING)  # said already
        root = None if data.root is None else Path(data.root).expanduser()
        return require_classes(data.reader.pool(root))
    return None


def _datamodule(part: Mapping[str, Any]) -> "ImageDataModule":
    from sppnet.experiment.checks import check_data
    from sppnet.experiment.making import make

    check_data(part)
    print("reading ...", file=sys.stderr)
    data: ImageDataModule = make(part)
    return data
