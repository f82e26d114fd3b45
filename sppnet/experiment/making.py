"""Parts of a configuration become objects here, and nowhere else; nothing runs because a file says its name.

Configurations travel: detectors are folders that may be moved, and folders of YAML files are handed on. What
a `_target_` may name is therefore listed: the classes that our own conf/ names, torchvision's models,
torch's optimisers, Lightning's loggers, and what the user's own configuration names under `allow_targets`.
Whatever else is refused before anything is imported.
"""

import dataclasses
import functools
import inspect
import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from sppnet.errors import ConfigError, SppnetError
from sppnet.experiment.installation import conf_dir
from sppnet.experiment.ranges import Record

ALLOW: Final = "allow_targets"
SAID: Final = frozenset({"facts", ALLOW})  # what a part says for others to read: its class is not given it
_TARGET: Final = "_target_"
_PARTIAL: Final = "_partial_"
_ALLOWED: Final = "SPPNET_ALLOW_TARGETS"  # in the environment, for the processes that runs are given to
_LIBRARIES: Final = re.compile(
    r"torchvision\.models\.[a-z]\w*|torch\.optim\.[A-Z]\w*|pytorch_lightning\.loggers\.[A-Z]\w*Logger"
)
_Made = TypeVar("_Made")


def make(part: Mapping[str, Any] | None, **later: Any) -> Any:
    """Build what a part's `_target_` names, with all that stands in it; parts in it first.

    Args:
        part: Plain containers; text in them is text, whatever it looks like.
        **later: Arguments that no configuration has: a network, for a task.

    Raises:
        ConfigError: The class may not be named, does not exist, or does not take what is there.
    """
    assert part is not None, "checks.py refuses a stage whose part is not chosen"
    made = {key: _made(value) for key, value in part.items() if key not in SAID | {_TARGET, _PARTIAL}} | later
    target = named_class(part)
    try:
        if part.get(_PARTIAL):
            inspect.signature(target).bind_partial(**made)  # what it does not take is said now
            return functools.partial(target, **made)
        return target(**made)
    except (TypeError, ValueError) as error:
        if isinstance(error, SppnetError):
            raise
        raise ConfigError(
            f"{part[_TARGET]} cannot be made of what the configuration says: {error}"
        ) from error


def _made(node: Any) -> Any:
    if isinstance(node, Mapping):
        is_part = _TARGET in node
        return make(node) if is_part else {key: _made(value) for key, value in node.items()}
    return [_made(value) for value in node] if isinstance(node, list) else node


def make_from(kind: Callable[..., _Made], record: Record, /, **others: Any) -> _Made:
    """Call what Python names, with the keys of a record for all arguments of the same names.

    Args:
        kind: A class or function.
        record: Part of a configuration.
        **others: Arguments that it does not hold, or that replace what it holds.
    """
    wanted = inspect.signature(kind).parameters.keys() - others.keys()
    names = [one.name for one in dataclasses.fields(record) if one.name in wanted]  # type: ignore[arg-type]
    return kind(**{name: getattr(record, name) for name in names}, **others)


def named_class(part: Mapping[str, Any]) -> Any:
    """The class that a part names; imports it.

    Raises:
        ConfigError: There is none of that name, or it may not be named.
    """
    require_allowed(part, "a part of the configuration")
    try:
        return pkgutil.resolve_name(part[_TARGET])
    except Exception as error:
        raise ConfigError(f"_target_={part[_TARGET]}: cannot be imported ({error})") from error


def allow(configuration: Any) -> None:
    """Let what a user's own configuration names under `allow_targets`, at any depth, be made."""
    names = {str(name) for key, names in _pairs(configuration) if key == ALLOW for name in names or ()}
    os.environ[_ALLOWED] = ":".join(sorted(names | _allowed_by_user()))


def require_allowed(node: Any, where: str, error: type[SppnetError] = ConfigError) -> None:
    """Refuse plain containers in which something else is named than may be made.

    Args:
        node: At any depth; also keys that end so ("data._target_").
        where: What the message calls it.
        error: ArtifactError of a file of ours.

    Raises:
        error: Names the first.
    """
    for key, name in _pairs(node):
        if key.endswith(_TARGET) and not _is_allowed(name):
            raise error(
                f"{where}: _target_={name} may not be made: configurations name classes of sppnet's conf/, "
                f"torchvision.models, torch.optim and pytorch_lightning.loggers; if it is yours, name it in "
                f"your own configuration (--config-dir, $SPPNET_CONF), {ALLOW}: [{name}]"
            )


def code_named(node: Any) -> set[str]:
    """What plain containers name, at any depth, whose source counts: installed libraries have versions."""
    named = {str(name) for key, name in _pairs(node) if key.endswith(_TARGET)}
    return {name for name in named if _LIBRARIES.fullmatch(name) is None}


def _is_allowed(name: object) -> bool:
    if not isinstance(name, str):
        return False
    return name in _ours() | _allowed_by_user() or _LIBRARIES.fullmatch(name) is not None


def _allowed_by_user() -> set[str]:
    return set(filter(None, os.environ.get(_ALLOWED, "").split(":")))


@functools.cache
def _ours() -> frozenset[str]:
    """What conf/ names."""
    files = (file.read_text(encoding="utf-8") for file in conf_dir().rglob("*.yaml"))
    return frozenset(name for text in files for name in re.findall(r"_target_: *([\w.]+)", text))


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    """Keys and values of all mappings in plain containers."""
    values: Iterable[Any] = node if isinstance(node, list) else ()
    if isinstance(node, Mapping):
        yield from ((str(key), value) for key, value in node.items())
        values = node.values()
    for value in values:
        yield from _pairs(value)
