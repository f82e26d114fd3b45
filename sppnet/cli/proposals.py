"""`sppnet proposals`: compute the proposals of an image set, keep them, say what they cover (§4.1, §4.3)."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import ConfigError, DataError


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns the exit code.

    Raises:
        ConfigError: An unknown key or option.
        DataError: The data set, an image or a file of proposals cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="sppnet proposals",
        description="Compute the proposals of an image set in VOC's layout, keep them in paths.cache, and "
        "print their recall: sppnet proposals test proposals=edge_boxes paths.data=DIR",
    )
    parser.add_argument("image_set", help="such as trainval or test")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="paths.data=DIR; proposals=selective_search, edge_boxes, or mat with proposals.paths=[FILE]",
    )
    parser.add_argument("--first", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes (default: one a core)")
    arguments = parser.parse_args(list(argv))
    for name in ("first", "jobs"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ConfigError(f"--{name}={value}: must be 1 or more")
    return _report(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from sppnet.experiment.compose import compose_config, plain_part

    config = compose_config(arguments.overrides)
    chosen = plain_part(config, "proposals")
    if config.paths.data is None:
        raise ConfigError("paths.data is missing: give the folder that holds VOCdevkit/VOC2007")
    root = Path(config.paths.data).expanduser()
    if not root.is_dir():
        raise DataError(f"paths.data={root}: no such directory (looked at {root.absolute()})")

    from sppnet.data.proposals import proposals_of
    from sppnet.data.voc2007 import read_voc
    from sppnet.experiment.making import make
    from sppnet.metrics.proposal_recall import proposal_recall

    images = read_voc(root, arguments.image_set, classes=None).images[: arguments.first]
    source = make(chosen)
    began = time.perf_counter()
    found = proposals_of(
        images,
        source,
        cache_dir=Path(config.paths.cache),
        jobs=arguments.jobs or os.cpu_count() or 1,
        max_pixels=config.data_loading.max_pixels,
    )
    seconds = time.perf_counter() - began
    truth = [image.boxes_xyxy for image in images]
    is_difficult = [image.is_difficult for image in images]
    mean = sum(map(len, found)) / len(images)
    print(f"{arguments.image_set}: {len(images)} images, {mean:.0f} proposals a picture")
    for overlap in (0.5, 0.7):
        recalled = proposal_recall(found, truth, is_difficult, min_overlap=overlap)
        print(
            f"recall at IoU {overlap}: {recalled.recall:.3f} of {int(recalled.objects.sum())} objects "
            f"(difficult ones left out)"
        )
    print(f"mean best overlap: {float(recalled.best_overlaps.mean()):.3f}")
    print(f"{seconds:.1f} s, what was on disk already included")
    return 0
