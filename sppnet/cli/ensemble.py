"""`sppnet ensemble`: the mean softmax of finished runs, whatever tables they belong to (§3.1.6)."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import ArtifactError, DataError
from sppnet.run.directory import RunDirectory


def main(argv: Sequence[str]) -> int:
    """Print the errors of every run and of all together; returns the exit code.

    Raises:
        DataError: No such directory.
        ArtifactError: It holds no complete run that tested a network.
        ConfigError: The runs were tested on different images.
    """
    parser = argparse.ArgumentParser(
        prog="sppnet ensemble",
        description="Average the scores of finished runs that were tested on the same images.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN_DIR",
        help="run directories such as runs/table2/spp_multi-*",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(list(argv))
    runs = [run for run in arguments.runs if not run.is_file()] or arguments.runs  # table-*.json beside them
    for run in runs:
        if not run.is_dir():
            raise DataError(f"{run}: no such directory; name finished runs such as runs/table2/spp_multi-*")
        otherwise = (
            f"{run}: not a complete run that tested a network; name directories below runs/TABLE "
            f"(sppnet status says which are complete)"
        )
        RunDirectory(run).require_complete(otherwise)
        if not (run / "scores.safetensors").exists():
            raise ArtifactError(otherwise)

    from sppnet.tasks.evaluation import average_scores, error_rates, read_scores

    members = [read_scores(run) for run in runs]
    ensemble = average_scores(members)
    rates = {str(run): error_rates(member) for run, member in zip(runs, members, strict=True)}
    if arguments.json:
        print(json.dumps({"members": rates, "ensemble": error_rates(ensemble)}, indent=1))
        return 0
    print(f"{'top-1 %':>8} {'top-5 %':>8}  of {len(ensemble.labels)} test images")
    for name, rate in {**rates, f"ensemble of {len(members)}": error_rates(ensemble)}.items():
        print(f"{100 * rate['top1_error']:8.2f} {100 * rate['top5_error']:8.2f}  {name}")
    return 0
