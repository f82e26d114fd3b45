"""The entry point: verbs first, then Hydra; every error becomes one line and an exit code."""

import contextlib
import importlib
import itertools
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sppnet.errors import ConfigError, ResourceError, SppnetError
from sppnet.experiment.installation import conf_dir
from sppnet.run.interrupts import Interrupted
from sppnet.tables.escape import CleanFormatter, clean_lines

VERBS: Final = {
    "report": "print a table: ours, the paper's, the difference, and its claims checked",
    "status": "say how far the runs of a table are",
    "why": "say what a run depends on and what has changed since, or what makes two runs differ",
    "ensemble": "average the scores of finished runs that were tested on the same images",
    "cache": "list the features kept on disk (cache stat), check them (verify), make room (gc)",
    "data": "count the images of a data set (data show) or read every file (data verify)",
    "detect": "find objects in your pictures with a trained detector: boxes drawn, and a list",
    "proposals": "compute the proposals of an image set, and how many objects they cover",
    "bench": "time our kernels against their peers, side by side",
}

HELP: Final = """sppnet: the SPP-net paper (He et al., TPAMI 2015), every table from one command

run     sppnet experiment=table2 preset=mini                      a table, small, on generated images
        sppnet experiment=table2 preset=mini data=caltech101 data.root=DIR
        sppnet experiment=table2 preset=mini seed=0,1,2           mean and standard deviation over seeds
        sppnet experiment=table2 data=imagenet data.root=DIR      the paper's scale
        sppnet experiment=table7 preset=mini                      SVMs on frozen features; table3 ... table8,
                                                                  in_text test_sizes warp lowshot short_side
        sppnet experiment=table9 preset=mini                      detection; table9 ... table13, edge_boxes
        sppnet detect photos '*.jpg' --detector runs/table9/NAME  boxes on your own pictures (Fig. 6)
        sppnet backbone=zf5,overfeat5 pyramid=none,bins50 preset=mini    a sweep of your own
        The same command again goes on where it stopped and skips what is done.

look    {verbs}

set     GROUP=NAME or KEY=VALUE; sppnet --cfg job shows all keys
        {groups}
        your own files: --config-dir DIR or $SPPNET_CONF

exit    0 done, 1 other error, 2 configuration, 3 data, 4 damaged file of ours, 5 non-finite loss,
        6 disk or memory, 7 some cells of a sweep failed, 128 + n a signal: 130 Ctrl-C, 143 SIGTERM
"""


def main() -> None:
    """Run the command line and exit with its code."""
    _open_streams()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError as error:  # found out here where the output was short: a full disk; a pipe that is closed
        code = 0 if isinstance(error, BrokenPipeError) else _fail(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python tries again at its end
    sys.exit(code)


def _open_streams() -> None:
    """Let standard streams that were closed (`>&-`) lead nowhere: the next file would get their number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115, PTH123


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code, with errors told in one line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(CleanFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("hydra").setLevel(logging.WARNING)  # the sweep says itself what it starts
    try:
        return _dispatch(arguments)
    except SppnetError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, Interrupted) as stop:
        _say("interrupted; the same command goes on where it stopped")
        return stop.exit_code if isinstance(stop, Interrupted) else 130
    except BrokenPipeError:  # sppnet report | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error)
    except Exception as error:
        traceback.print_exc()
        print(f"sppnet: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # where standard error is full or gone, the exit code has to do
        print(f"sppnet: {clean_lines(text)}", file=sys.stderr)


def _fail(error: OSError) -> int:
    """Tell what the system refused; returns the exit code."""
    where = error.filename or "standard output, or the current folder"
    _say(f"{where}: {error.strerror or error}; mend that, or choose another place, and run again")
    return ResourceError.exit_code


def _dispatch(arguments: Sequence[str]) -> int:
    """Help, a verb, or an experiment."""
    first = arguments[0] if arguments else "--help"
    asks = first not in VERBS and not {"--hydra-help", "--shell-completion", "-sc"} & {*arguments}
    if first == "help" or (asks and {"--help", "-h"} & {*arguments}):
        print(_help(arguments))
    elif first == "--version":
        from importlib.metadata import version

        print(f"sppnet {version('sppnet')}")
    elif first in VERBS:
        verb = importlib.import_module(f"sppnet.cli.{first}")
        return int(verb.main(arguments[1:]))
    else:
        from sppnet.experiment.compose import run_experiment, unknown_word  # ends in sppnet.experiment.sweep

        if "=" not in first and first[0] not in "-~":
            raise ConfigError(unknown_word(first, [*VERBS], behind=arguments[1:]))
        if words := _completed(arguments):
            print(*words)
        else:
            run_experiment(arguments)
    return 0


def _completed(arguments: Sequence[str]) -> list[str]:
    """Verbs for a shell that completes the first word; what is swept is left out of what Hydra completes."""
    if not ({"--shell-completion", "-sc"} & {*arguments} and any(word[:6] == "query=" for word in arguments)):
        return []
    program, *words = os.environ.get("COMP_LINE", "sppnet ").split(" ")
    if words and words[0] in VERBS and len(words) > 1:
        return [""]
    os.environ["COMP_LINE"] = " ".join(
        [program, *(word for word in words[:-1] if "," not in word), *words[-1:]]
    )
    return [verb for verb in VERBS if len(words) == 1 and words[0] and verb.startswith(words[0])]


def _help(arguments: Sequence[str]) -> str:
    from sppnet.experiment.command_line import naturally
    from sppnet.experiment.guarded_hydra import user_folders

    given = [Path(one) for option, one in itertools.pairwise(arguments) if option in ("--config-dir", "-cd")]
    found: dict[str, set[str]] = {}
    for file in (file for place in (conf_dir(), *user_folders(), *given) for file in place.glob("*/*.yaml")):
        if not file.stem.startswith("_") and file.parent.name != "hydra":
            found.setdefault(file.parent.name, set()).add(file.stem)
    groups = [f"{name}: {' '.join(sorted(found[name], key=naturally))}" for name in sorted(found)]
    verbs = "\n        ".join(f"sppnet {verb:8} {text}" for verb, text in VERBS.items())
    return HELP.format(verbs=verbs, groups="\n        ".join(groups))


if __name__ == "__main__":
    main()
