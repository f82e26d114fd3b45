"""Parts of a configuration become objects here, and nowhere else."""

from collections.abc import Mapping
from typing import Any

from sppnet.errors import ConfigError


def make(part: Mapping[str, Any] | None, **later: Any) -> Any:
    """Build what a part's `_target_` names, with all that stands in it.

    Args:
        part: Plain containers. What it says of itself under `facts` is for others to read.
        **later: Arguments that no configuration has: a network, for a task.
    """
    from hydra.utils import instantiate

    assert part is not None, "checks.py refuses a stage whose part is not chosen"
    return instantiate(_without_facts(part), **later)


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
