"""Everything that is not a verb is a Hydra command line: compose it, and explain what is wrong with it."""

import contextlib
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import hydra
import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sppnet.errors import ConfigError
from sppnet.experiment.command_line import (
    at_home,
    did_you_mean,
    in_quotes,
    is_path,
    known_keys,
    naturally,
    quoted,
    read_command_line,
    with_homes,
)
from sppnet.experiment.guarded_hydra import register, user_folders
from sppnet.experiment.installation import conf_dir, remember_command
from sppnet.experiment.making import allow, require_allowed

_GLOBAL: Final = ("experiment", "setting", "preset", "local")  # groups whose files set keys of the root
_SAID_ELSEWHERE: Final = {  # what other programs call it -> what is said of it here
    "train": "experiment=table2 preset=mini, or backbone=zf5 data=folder data.root=DIR preset=mini",
    "fit": "experiment=table2 preset=mini, or backbone=zf5 data=folder data.root=DIR preset=mini",
    "run": "experiment=table2 preset=mini",
    "test": "report, for the results of what has run",
    "eval": "report, for the results of what has run",
    "evaluate": "report, for the results of what has run",
    "show": "report, for the results of what has run",
    "resume": "the command that ran: the same one again goes on where it stopped",
    "predict": "detect, for objects in pictures",
    "plan": "plan=true behind the command whose runs it is to say",
    "sweep": "values with commas: seed=0,1,2",
    "gc": "cache gc",
    "verify": "data verify or cache verify",
    "publish": "report RUNS_DIR --publish NAME",
    "stale": "stale=rerun behind the command that ran",
}
_EXTRAS: Final = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}


def run_experiment(arguments: Sequence[str]) -> None:
    """Run a Hydra command line.

    Raises:
        ConfigError: An unknown key, option or value, a wrong type, or a contradiction.
        SppnetError: What the cells raised.
        Interrupted: The user or the system asked to stop.
    """
    line = read_command_line(arguments)
    if line.shows:
        options = [option for option in line.options if option not in ("-m", "--multirun")]
    else:  # every command is one
        options = [*line.options, "--multirun"]
    for place, word in enumerate(line.overrides):
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(
                unknown_word(word, before=line.overrides[:place], behind=line.overrides[place + 1 :])
            )
    register()
    remember_command(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    with _explained(), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*provider=hydra.searchpath")  # a folder that is not there
        sys.argv = ["sppnet", *options, *(quoted(override) for override in line.overrides)]
        _application()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Say what Hydra, OmegaConf and YAML find wrong as a ConfigError."""
    try:
        yield
    except UserWarning as error:
        raise ConfigError(f"hydra.searchpath: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise ConfigError(
            f"a number of more than {sys.get_int_max_str_digits()} digits stands in it; give a shorter one"
        ) from error


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose one configuration, for a verb that runs no sweep.

    Raises:
        ConfigError: An unknown key or option, a wrong type, or a value that is missing.
    """
    register()
    with _explained(), hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", overrides=[quoted(one, is_swept=False) for one in overrides])
    allow(OmegaConf.to_container(config))
    return config


def allowed(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the user's, in which nothing is named that may not be made.

    Raises:
        ConfigError: Something is.
    """
    allow(plain)
    require_allowed(plain, "the configuration")
    return plain


def plain_of(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers, without Hydra's own part.

    Raises:
        ConfigError: A value is missing.
    """
    return _plain(config, "")


def plain_part(config: DictConfig, key: str) -> dict[str, Any]:
    """One part of a configuration, its values in their ranges; the other parts may lack values.

    Raises:
        ConfigError: A value of it is missing or out of its range.
    """
    from sppnet.experiment.reading import read_conf

    plain = _plain(config[key], key)
    read_conf({key: plain})
    require_allowed({key: plain}, "the configuration")
    return plain


def _plain(node: DictConfig, key: str) -> dict[str, Any]:
    try:
        plain = {str(name): _contained(one) for name, one in node.items() if name != "hydra"}
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from error
    return dict(with_homes(plain, key))


def _contained(value: object) -> object:
    if not isinstance(value, DictConfig | ListConfig):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=True)


def _run_job(config: DictConfig) -> None:
    """What a launcher's job does; runs of this machine do not come here (sweep.py)."""
    from sppnet.experiment.execution import run_in

    run_in(Path(config.run_directory), report=lambda step: None)


# Hydra reads the command line and calls its sweeper, which calls sppnet.experiment.sweep.
_application = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(_run_job)


def explain(error: BaseException) -> str:
    """Say in one line what is wrong with a configuration and what was probably meant."""
    if isinstance(error, OverrideParseException):
        return _unreadable(str(error.override), error.message.splitlines()[0].strip())
    text = _text(error)
    if match := re.search(r"Ambiguous value for argument '(.*?)'(?=\s)", text):
        return f"{match[1]}: several values are a sweep's; give one here, with a comma in it between quotes"
    if match := re.search(r"Could not (?:find|override) '([^']+)'", text):
        return _unknown_option(match[1], text)
    if match := re.search(r"[Kk]ey '([^']+)' (?:is )?not in '?(\w+)'?", text):
        if match[1] in _GLOBAL:
            chosen = next((word for word in sys.argv if word.startswith(f"{match[1]}=")), match[1])
            return (
                f"{chosen}: the YAML file of this {match[1]} begins without the line `# @package _global_`, "
                f"so its keys would stand below {match[1]}; add it as the first line"
            )
        return (
            f"{match[1]}: no such key{did_you_mean(match[1], known_keys())}; sppnet --cfg job shows all keys"
        )
    lines = [*text.splitlines(), ""]
    said = next((one for one in lines if "be converted" in one), lines[0])
    match = re.search(r"full_key: (\S+)", text)
    if match and "Missing mandatory value" in text:
        example = "[FILE,...]" if match[1].endswith(".paths") else "DIR" if is_path(match[1]) else "VALUE"
        said = f"missing; give it, {match[1]}={example}"
    return f"{match[1]}: {said}" if match else " ".join(text.split())


def unknown_word(
    word: str, verbs: Sequence[str] = (), *, before: Sequence[str] = (), behind: Sequence[str] = ()
) -> str:
    """What is said of a word that sets nothing.

    Args:
        word: As it was typed.
        verbs: There are, if it stood where one could.
        before: The words before it.
        behind: The words behind it.
    """
    if before and os.path.lexists(at_home(f"{before[-1].partition('=')[2]} {word}")):
        return f"{word}: not KEY=VALUE; a blank parts two words: write {shlex.quote(f'{before[-1]} {word}')}"
    files = [file for place in (conf_dir(), *user_folders()) for file in place.glob("*/*.yaml")]
    options = {f"{file.parent.name}={file.stem}": file for file in files if not file.stem.startswith("_")}
    named = [option for option, file in options.items() if file.stem == word.casefold()]
    value = behind[0] if behind and "=" not in behind[0] else ""
    if f"{word}={value}" in options or (value and word in known_keys()):
        meant = f"; did you mean {word}={value}?"
    elif word in {option.partition("=")[0] for option in options}:
        choices = [one.partition("=")[2] for one in options if one.startswith(f"{word}=")]
        meant = f": write {word}=NAME; there are {', '.join(sorted(choices, key=naturally))}"
    elif word.casefold() in _SAID_ELSEWHERE:
        meant = f"; did you mean {_SAID_ELSEWHERE[word.casefold()]}?"
    else:
        meant = f"; did you mean {named[0]}?" if named else did_you_mean(word.casefold(), [*verbs, *options])
    what = "neither a verb nor KEY=VALUE" if verbs else "not KEY=VALUE"
    return f"{word}: {what}{meant}; sppnet --help lists verbs and groups, sppnet --cfg job keys"


def _unreadable(override: str, reason: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return unknown_word(override)
    return (
        f"{override}: not KEY=VALUE as Hydra reads it ({reason}); text with brackets, commas or quotes in it "
        f"goes between quotes: {shlex.quote(f'{key}={in_quotes(value)}')}"
    )


def _unknown_option(name: str, text: str) -> str:
    group, _, choice = name.rpartition("/")
    listed = re.findall(r"^\s+(\S+)$", text.partition("Available options")[2], flags=re.MULTILINE)
    options = [option for option in listed if not option.startswith("_")]  # fragments are no choices
    if group == "hydra/launcher" and choice in _EXTRAS:
        return (
            f"{group}={choice}: not installed; it comes with the extra {_EXTRAS[choice]}: "
            f'pip install -e ".[{_EXTRAS[choice]}]" in the folder of sppnet\'s code'
        )
    if options:
        suggestion = did_you_mean(choice.casefold(), options)
        there_are = ", ".join(sorted(options, key=naturally))
        return f"{group}={choice}: no such {group}{suggestion}; there are {there_are}"
    if name.startswith("hydra.launcher"):
        return f"{name}: the launcher that is chosen has no such key; choose one with hydra/launcher=..."
    known = known_keys()
    if name in known and isinstance(
        OmegaConf.select(OmegaConf.load(conf_dir() / "config.yaml"), name), DictConfig
    ):
        return f"{name}: add to it key by key, +{name}.KEY=VALUE"
    if name in known:
        return f"{name}: not a key of the {name.partition('.')[0]} that is chosen, but of another one"
    return f"{name}: no such group or key{did_you_mean(name, known)}; sppnet --help lists the groups"


def _text(error: BaseException) -> str:
    """An error's message with those of its causes, innermost first."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.insert(0, str(cause))
        cause = cause.__cause__ or cause.__context__
    return "\n".join(text for text in texts if text and "$" not in text)  # no templates such as $KEY
