"""A command line as Hydra is to read it: options first, what it cannot use refused, paths between quotes.

Hydra's grammar refuses most of what a path may hold, and takes the rest for numbers, lists and sweeps.
"""

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, Node, OmegaConf

from sppnet.errors import ConfigError
from sppnet.experiment.contents import PATH_KEYS
from sppnet.experiment.installation import conf_dir

_CFG: Final = ("job", "hydra", "all")
_INFO: Final = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# What an option takes behind it: nothing, anything (None) or one of these.
OPTIONS: Final[Mapping[str, tuple[str, ...] | None]] = {
    **dict.fromkeys(("--cfg", "-c"), _CFG),
    **dict.fromkeys(("--info", "-i"), _INFO),
    **dict.fromkeys(("--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), None),
    **dict.fromkeys(("--config-dir", "-cd"), None),
    **dict.fromkeys(("--resolve", "--multirun", "-m", "--run", "-r", "--hydra-help"), ()),
    **dict.fromkeys(("--shell-completion", "-sc"), ()),
}
_SHOWING: Final = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")
_HYDRAS: Final = ("hydra/launcher", "hydra.launcher", "hydra.searchpath", "hydra.job.env_set")
_COMPLETION: Final = re.compile(r"(install|uninstall|query)=(bash|zsh|fish)")
_LISTS: Final = ("paths", "files")
_FUNCTION: Final = re.compile(r"(choice|range|glob|shuffle|sort|str)\(")
_PART: Final = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]+?)\s*(?:,|$)""")


class CommandLine(NamedTuple):
    """What was typed, sorted."""

    options: list[str]  # each with its value behind it
    overrides: list[str]
    shows: list[str]  # the options that show something instead of running

    def value_of(self, *names: str) -> str | None:
        """What stands behind an option."""
        places = [place for place, word in enumerate(self.options) if word in names]
        return self.options[places[-1] + 1] if places else None


def read_command_line(arguments: Sequence[str]) -> CommandLine:
    """Sort the words of a command: options may stand anywhere among what is set.

    Raises:
        ConfigError: An option that there is not, lacks its value, or contradicts another one.
    """
    options: list[str] = []
    overrides: list[str] = []
    words = [part for word in arguments for part in _parted(word)]
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        options.append(word)
        known = OPTIONS[word]
        if known is None and not words:
            raise ConfigError(f"{word}: a value is missing behind it")
        if known is None or (words and words[0] in known):
            options.append(words.pop(0))
        elif known is _CFG or (known and words and re.fullmatch(r"[\w-]+", words[0])):
            raise ConfigError(f"{word}: say what to show behind it: {', '.join(known)}")
    line = CommandLine(options, overrides, [option for option in options if option in _SHOWING])
    _check(line)
    return line


def _parted(word: str) -> tuple[str, ...]:
    """`--cfg=job` as two words."""
    option, equals, value = word.partition("=")
    if not word.startswith("-"):
        return (word,)
    if option not in OPTIONS:
        key = option.lstrip("-").replace("-", "_")
        meant = did_you_mean(option, [*OPTIONS, "--help", "--version"]) or did_you_mean(key, known_keys())
        raise ConfigError(f"{option}: no such option{meant}; values are set with KEY=VALUE, without dashes")
    return (option, value) if equals else (option,)


def _check(line: CommandLine) -> None:
    if {"--run", "-r"} & set(line.options):
        raise ConfigError("--run: every command is a sweep, if of one cell; leave it out")
    if len(line.shows) > 1:
        raise ConfigError(f"{' and '.join(line.shows)}: one at a time")
    if "--resolve" in line.options and line.value_of("--cfg", "-c") not in ("job", "all"):
        raise ConfigError("--resolve goes with --cfg job or --cfg all: Hydra's own part refers to the rest")
    if {"--package", "-p"} & set(line.options) and not line.value_of("--cfg", "-c"):
        raise ConfigError("--package goes with --cfg: it says which part to show")
    completes = {"--shell-completion", "-sc"} & set(line.options)
    if completes and not _COMPLETION.fullmatch(" ".join(line.overrides)):
        raise ConfigError(
            "--shell-completion: install=SHELL or uninstall=SHELL goes with it, of bash, zsh and fish"
        )
    for override in line.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if re.match(r"hydra[./]", key) and not key.startswith(_HYDRAS):
            raise ConfigError(
                f"{key}: sppnet sets this itself; results go to paths.runs/table.name, and of Hydra's own "
                f"settings there are hydra/launcher, hydra.launcher.* and hydra.searchpath to choose"
            )


def is_path(key: str) -> bool:
    """Whether a path stands under a key: data.root, paths.data, proposals.paths."""
    return key.startswith("paths.") or key.rpartition(".")[2] in PATH_KEYS


def with_homes(node: Any, key: str) -> Any:
    """A part of a configuration, in its paths the home folder for `~`.

    Raises:
        ConfigError: A path is empty.
    """
    if isinstance(node, Mapping):
        return {name: with_homes(value, f"{key}.{name}".lstrip(".")) for name, value in node.items()}
    if isinstance(node, list):
        if is_path(key) and key.rpartition(".")[2] not in _LISTS:
            raise ConfigError(f"{key}={node}: one path is wanted, not a list")
        return [with_homes(one, f"{key}.root" if is_path(key) else key) for one in node]
    if node is None or isinstance(node, bool) or not is_path(key):
        return node
    if key.rpartition(".")[2] in _LISTS:
        raise ConfigError(f"{key}={node}: a list is wanted: {key}=[{node}]")
    node = str(node)  # a folder called 2007
    if not node.strip() or "\0" in node:
        raise ConfigError(f"{key}={node!r}: no path; give one, or null where it is optional")
    return at_home(node)


def at_home(path: str) -> str:
    """A path with the home folder for `~`; one of nobody's stays, which pathlib would raise for."""
    return os.path.expanduser(path)  # noqa: PTH111


def quoted(override: str, *, is_swept: bool = True) -> str:
    """An override as Hydra reads it: paths between quotes, and other text it could not read.

    Args:
        override: As it was typed.
        is_swept: Whether commas stand between values.
    """
    spelt, equals, value = override.partition("=")
    if not equals:
        return override
    if re.search(r"(^|,)null(,|$)", value) and (conf_dir() / spelt).is_dir():
        raise ConfigError(f"{override}: choose an option of {spelt}; sppnet --help lists them")
    if is_path(spelt.lstrip("+~")):
        return f"{spelt}={_quoted_path(value, is_swept=is_swept)}"
    if re.search(r"""[][(){}'",]""", value):
        return override
    try:
        OverridesParser.create().parse_overrides([override])
    except OverrideParseException:
        return f"{spelt}={in_quotes(value)}"
    return override


def _quoted_path(value: str, *, is_swept: bool = True) -> str:
    """A path, paths to sweep over, or a list of paths."""
    if value in ("", "null"):
        return value
    if os.path.lexists(at_home(value)):  # whatever is in its name
        return in_quotes(value)
    if value[0] in "'\"" or _FUNCTION.match(value):
        return value
    if value[0] == "[" and value[-1] == "]":
        lists = re.split(r"\]\s*,\s*\[", value[1:-1])
        return ",".join(f"[{','.join(_quoted_parts(one))}]" for one in lists)
    return ",".join(_quoted_parts(value)) if is_swept and "," in value else in_quotes(value)


def _quoted_parts(text: str) -> Iterator[str]:
    return (part if part[0] in "'\"" else _quoted_path(part) for part in _PART.findall(text))


def in_quotes(text: str) -> str:
    """Text as it stands between single quotes in Hydra's override grammar, whatever is in it."""
    return str(QuotedString(text=text, quote=Quote.single).with_quotes())


def plain_value(value: str) -> str:
    """A value of a sweep as it was meant, without its quotes."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Ask for the nearest of some names: one that ends so, is abbreviated so or is spelt nearly so."""
    leaves = [key.rpartition(".")[2] for key in known]
    ends = [
        key
        for key, leaf in zip(known, leaves, strict=True)
        if word in (leaf, "".join(part[:1] for part in leaf.split("_"))) and len(word) > 1
    ]
    close = ends or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        nearest = difflib.get_close_matches(word.rpartition(".")[2], leaves, n=1, cutoff=0.6)
        close = [key for key, leaf in zip(known, leaves, strict=True) if leaf in nearest]
    close = sorted(close, key=lambda key: not key.startswith("training."))[:3]
    return f"; did you mean {' or '.join(close)}?" if close else ""


@functools.cache
def known_keys() -> list[str]:
    """Every key of the default configuration that may be set, and every group, for suggestions."""
    keys = [path.name for path in conf_dir().iterdir() if path.is_dir()]
    for file in conf_dir().rglob("*.yaml"):
        if file.parent.name not in ("experiment", "setting"):  # which set what stands elsewhere
            packaged = "@package _global_" in file.read_text(encoding="utf-8") or file.parent == conf_dir()
            keys += _paths(OmegaConf.load(file), "" if packaged else f"{file.parent.name}.")
    return sorted(
        {key for key in keys if not key.startswith(("reduced.", "hydra"))}
    )  # sentences, not settings


def _paths(node: object, prefix: str) -> Iterator[str]:
    if isinstance(node, DictConfig):
        for key in node:
            one = node._get_node(key)
            if not (isinstance(one, Node) and one._is_interpolation()):  # which other key to set
                yield f"{prefix}{key!s}"
            yield from _paths(one, f"{prefix}{key!s}.")


def naturally(name: str) -> list[tuple[int, str]]:
    """So that table2 comes before table10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
