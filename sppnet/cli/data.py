"""`sppnet data`: look at a data set before anything is trained on it."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sppnet.errors import ConfigError

if TYPE_CHECKING:  # imports torch
    from sppnet.data.datamodule import ImageDataModule


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
    data = _datamodule(arguments.overrides)
    splits = zip(("train", "held out", "test"), data.splits, strict=True)
    counts = ", ".join(f"{len(images.paths)} {name}" for name, images in splits)
    print(f"{data.name}: {len(data.classes)} classes; {counts} images")
    if arguments.verb == "verify":
        kinds = data.verify()
        print("all readable: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return 0


def _datamodule(overrides: Sequence[str]) -> "ImageDataModule":
    from sppnet.experiment.checks import check_data
    from sppnet.experiment.compose import compose_config, plain_part
    from sppnet.experiment.making import make

    if any(override.lstrip("+").startswith(("target=", "target.")) for override in overrides):
        raise ConfigError("sppnet data looks at the images of data=..., not at a target; leave target out")
    part = plain_part(compose_config(overrides), "data")
    check_data(part)
    print("reading ...", file=sys.stderr)
    data: ImageDataModule = make(part)
    return data
