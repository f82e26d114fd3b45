"""Everything that is not a verb is a Hydra command line: compose it, and explain what is wrong with it."""

import functools
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
from omegaconf import DictConfig, ListConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sppnet.errors import ConfigError
from sppnet.experiment.command_line import (
    did_you_mean,
    in_quotes,
    quoted,
    read_command_line,
    with_homes,
)
from sppnet.experiment.guarded_hydra import register
from sppnet.experiment.installation import conf_dir, remember_command
from sppnet.experiment.making import allow, require_allowed

_GLOBAL: Final = ("experiment", "setting", "preset", "local")  # groups whose files set keys of the root
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
    register()
    remember_command(arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting with 1
    sys.argv = ["sppnet", *options, *(quoted(override) for override in line.overrides)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*provider=hydra.searchpath")  # a folder that is not there
            _application()
    except UserWarning as error:
        raise ConfigError(f"hydra.searchpath: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}") from error


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose one configuration, for a verb that runs no sweep.

    Raises:
        ConfigError: An unknown key or option, a wrong type, or a value that is missing.
    """
    register()
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = hydra.compose("config", overrides=[quoted(one, is_swept=False) for one in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
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
    return f"{match[1]}: {said}" if match else " ".join(text.split())


def unknown_word(word: str, verbs: Sequence[str] = ()) -> str:
    """What is said of a word that sets nothing."""
    options = [f"{file.parent.name}={file.stem}" for file in conf_dir().glob("*/*.yaml") if file.stem == word]
    meant = f"; did you mean {options[0]}?" if options else did_you_mean(word, verbs)
    return f"{word}: {'no verb, and ' if verbs else ''}not KEY=VALUE{meant}; sppnet --help lists both"


def _unreadable(override: str, reason: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        return unknown_word(override)
    return (
        f"{override}: not KEY=VALUE as Hydra reads it ({reason}); text with brackets, commas or quotes in it "
        f"goes between quotes: {shlex.quote(f'{key}={in_quotes(value)}')}"
    )


@functools.cache
def known_keys() -> list[str]:
    """Every key of the default configuration that may be set, and every group, for suggestions."""
    keys = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    for file in conf_dir().rglob("*.yaml"):
        if file.parent.name not in ("experiment", "setting"):  # which set what stands elsewhere
            packaged = "@package _global_" in file.read_text(encoding="utf-8") or file.parent == conf_dir()
            keys += _paths(OmegaConf.load(file), "" if packaged else f"{file.parent.name}.")
    return sorted({key for key in keys if not key.startswith("hydra")})


def _paths(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            one = node._get_node(key)
            if not (isinstance(one, Node) and one._is_interpolation()):  # which other key to set
                yield f"{prefix}{key!s}"
            yield from _paths(one, f"{prefix}{key!s}.")


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
        suggestion = did_you_mean(choice, options)
        return f"{group}={choice}: no such {group}{suggestion}; there are {', '.join(options)}"
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
