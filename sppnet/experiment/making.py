"""Parts of a configuration become objects here, and nowhere else."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sppnet.errors import ConfigError
from sppnet.experiment.ranges import Record

_Made = TypeVar("_Made")


def make(part: Mapping[str, Any] | None, **later: Any) -> Any:
    """Build what a part's `_target_` names, with all that stands in it.

    Args:
        part: Plain containers. What it says of itself under `facts` is for others to read.
        **later: Arguments that no configuration has: a network, for a task.
    """
    from hydra.utils import instantiate

    assert part is not None, "checks.py refuses a stage whose part is not chosen"
    return instantiate(_without_facts(part), **later)


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
        ConfigError: There is none of that name.
    """
    from hydra.utils import get_object

    try:
        return get_object(part["_target_"])
    except Exception as error:
        raise ConfigError(f"_target_={part['_target_']}: cannot be imported ({error})") from error


def _without_facts(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _without_facts(value) for key, value in node.items() if key != "facts"}
    return [_without_facts(value) for value in node] if isinstance(node, list) else node
