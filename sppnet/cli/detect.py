"""`sppnet detect`: what a trained detector finds in anybody's pictures, drawn and listed (paper Fig. 6).

A picture is read upright, as viewers show it: where a camera stored it turned and noted that in EXIF, the
boxes, the width and the height refer to the turned picture, not to the pixels as stored.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from sppnet.artifacts import write_atomic, write_json
from sppnet.cli.picture_files import find_pictures, name_pictures, require_apart, require_writable
from sppnet.errors import ConfigError, DataError
from sppnet.run.interrupts import Interruption
from sppnet.tables.escape import clean

if TYPE_CHECKING:  # import torch
    from sppnet.experiment.trained_detector import LoadedDetector
    from sppnet.figures.detections import NamedDetection

_JSON = "detections.json"
# SVMs trained with hard negatives rarely see an object of a new picture on their positive side.
_SCORE_ABOVE = -0.5
_Jobs = Mapping[Path, Path | None]  # from pictures to where they are drawn
_JPEG = {"quality": 95, "subsampling": 0}  # coloured lines and text blur at the usual half resolution


@final
class _Outcome(NamedTuple):
    """What became of a picture."""

    file: Path
    size: tuple[int, int]  # width and height of the upright picture
    found: "list[NamedDetection]"
    seconds: float
    error: str = ""
    best: str = ""  # of all that was found, in words


def main(argv: Sequence[str], load: "Callable[[Path], LoadedDetector] | None" = None) -> int:
    """Run the verb.

    Args:
        argv: Words of the command line after the verb.
        load: Makes a detector of the directory after --detector; None: reads that of a finished run.

    Returns:
        0; 130 or 143 when it was told to stop.

    Raises:
        ConfigError: Options that cannot be, or an image where the pictures are to go.
        DataError: No images; or, when all others are done, some that cannot be used.
        ArtifactError: The directory holds no detector.
        ResourceError: Nowhere to write.
    """
    arguments = _parse(argv)
    files = find_pictures(arguments.images, out=arguments.out)
    listing = arguments.json or arguments.out / _JSON
    if not arguments.detector.is_dir():
        raise ConfigError(f"--detector={arguments.detector}: no such folder; give that of a finished run")
    if listing.is_dir() or listing.resolve() in {file.resolve() for file in files}:
        raise ConfigError(f"--json={listing}: is a folder or one of the images; give a new file")
    require_writable(listing.parent)
    if arguments.pictures:
        require_apart(files, arguments.out)
        require_writable(arguments.out)
    if load is None:
        from sppnet.experiment.trained_detector import load_detector

        load = load_detector
    if arguments.max_pixels is None:
        from sppnet.experiment.compose import compose_config

        arguments.max_pixels = int(compose_config([]).data_loading.max_pixels)
    names = name_pictures(files)
    jobs = {
        file: arguments.out / name if arguments.pictures else None
        for file, name in zip(files, names, strict=True)
    }
    return _run(jobs, load(arguments.detector), arguments, listing)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sppnet detect",
        description="Find objects in pictures with a trained detector, draw them as the paper's Fig. 6 does "
        "and list them: sppnet detect photos 'more/**/*.jpg' --detector runs/table9/NAME",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="files, folders, or patterns such as '*.jpg'"
    )
    parser.add_argument(
        "--detector", type=Path, required=True, metavar="DIR", help="directory of a finished run of detection"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("detections"),
        metavar="DIR",
        help="for the pictures (default: detections)",
    )
    parser.add_argument(
        "--score-above",
        type=float,
        default=_SCORE_ABOVE,
        metavar="X",
        help=f"draw and list only these (default: {_SCORE_ABOVE}; Fig. 6: 0; most objects score -1 to 1)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help=f"list of what was found (default: OUT/{_JSON})"
    )
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="only write the list")
    parser.add_argument("--max-pixels", type=int, metavar="N", help="larger images are refused")
    parser.add_argument("--jobs", type=int, metavar="N", help="images at a time (default: one a core)")
    arguments = parser.parse_args(list(argv))
    for name in ("max_pixels", "jobs"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}={value}: must be 1 or more")
    if arguments.score_above != arguments.score_above:
        raise ConfigError("--score-above=nan: must be a number")
    return arguments


def _run(jobs: _Jobs, detector: "LoadedDetector", arguments: argparse.Namespace, listing: Path) -> int:
    """Do all pictures; whatever happens, what was done is listed."""
    began = time.perf_counter()
    outcomes: list[_Outcome] = []
    interruption = Interruption()
    try:
        with interruption.listen():
            for outcome in _detect_all(jobs, detector, arguments, interruption):
                outcomes.append(outcome)
                _tell(outcome, arguments.score_above)
    finally:
        write_json(listing, _listing(jobs, outcomes, detector, arguments))
    seconds = time.perf_counter() - began
    failed = sum(bool(outcome.error) for outcome in outcomes)
    where = f"pictures in {arguments.out}, list in {listing}" if arguments.pictures else f"list in {listing}"
    print(f"{len(outcomes) - failed} of {len(jobs)} images in {seconds:.1f} s: {clean(where)}")
    if interruption.signal_number is not None:
        print("sppnet: interrupted; the list says which images are not done", file=sys.stderr)
        return 128 + interruption.signal_number
    if failed:
        raise DataError(f"{failed} of {len(jobs)} images cannot be used, see above or `failed` in {listing}")
    return 0


def _detect_all(
    jobs: _Jobs, detector: "LoadedDetector", arguments: argparse.Namespace, interruption: Interruption
) -> Iterator[_Outcome]:
    """Several pictures at a time, told in their order; none is begun after an interruption."""
    import torch

    # Threads: Pillow, OpenCV, torch and our kernels let others run, and the network is in memory once.
    # Scores depend on the threads of a convolution in their sixth digit.
    num_jobs = min(arguments.jobs or os.cpu_count() or 1, len(jobs))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // num_jobs))

    def work(file: Path) -> _Outcome | None:
        return None if interruption.requested else _detect_one(file, jobs[file], detector, arguments)

    pool = ThreadPoolExecutor(num_jobs)
    try:
        yield from (outcome for outcome in pool.map(work, jobs) if outcome is not None)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _detect_one(
    file: Path, drawn_to: Path | None, detector: "LoadedDetector", arguments: argparse.Namespace
) -> _Outcome:
    from sppnet.data.images import read_image
    from sppnet.figures.detections import draw_detections, name_detections

    began = time.perf_counter()
    try:
        image = read_image(file, upright=True, max_pixels=arguments.max_pixels)
        detections = detector.detect(file)
    except DataError as error:
        return _Outcome(file, (0, 0), [], time.perf_counter() - began, str(error))
    if drawn_to is not None:
        drawn = draw_detections(image, detections, detector.classes, show_above=arguments.score_above)
        form, options = ("JPEG", _JPEG) if drawn_to.suffix == ".jpg" else ("PNG", {})
        # The colour profile was that of the file's pixels before they became RGB.
        write_atomic(drawn_to, lambda stream: drawn.save(stream, form, icc_profile=None, **options))
    every = name_detections(detections, detector.classes, score_above=-math.inf)
    found = [one for one in every if one.score > arguments.score_above]
    best = f" (the best: {every[0].name} {every[0].score:.2f})" if every else ""
    return _Outcome(file, image.size, found, time.perf_counter() - began, best=best)


def _tell(outcome: _Outcome, score_above: float) -> None:
    """One line for a picture."""
    if outcome.error:
        print(f"sppnet: {clean(outcome.error)}", file=sys.stderr, flush=True)
        return
    scores: dict[str, list[float]] = {}
    for one in outcome.found:
        scores.setdefault(one.name, []).append(one.score)
    words = (f"{len(of)} {name} ({' '.join(f'{score:.2f}' for score in of)})" for name, of in scores.items())
    said = ", ".join(words) or f"nothing above {score_above:g}{outcome.best}"
    print(f"{clean(str(outcome.file))}: {said}; {outcome.seconds:.1f} s", flush=True)


def _listing(
    jobs: _Jobs, outcomes: Sequence[_Outcome], detector: "LoadedDetector", arguments: argparse.Namespace
) -> dict[str, Any]:
    """Everything found, for programs; scores to a millionth, boxes to a hundredth of a pixel."""
    told = {outcome.file for outcome in outcomes}
    images = [
        {
            "file": str(outcome.file),
            "picture": jobs[outcome.file] and str(jobs[outcome.file]),
            "width": outcome.size[0],
            "height": outcome.size[1],
            "detections": [
                {
                    "class": one.name,
                    "score": round(one.score, 6),
                    "box": [round(end, 2) for end in one.box_xyxy],
                }
                for one in outcome.found
            ],
        }
        for outcome in outcomes
        if not outcome.error
    ]
    return {
        "detector": str(arguments.detector),
        "classes": list(detector.classes),
        "score_above": arguments.score_above,
        "images": images,
        "failed": [{"file": str(one.file), "error": one.error} for one in outcomes if one.error],
        "not_done": [str(file) for file in jobs if file not in told],
    }
