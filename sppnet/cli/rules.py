"""What a key's value must be, and how it is said when it is not."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sppnet.errors import ConfigError

MOST_PIXELS: Final = 4000  # of a short side


class Rule(NamedTuple):
    """What a key's value must be."""

    key: str
    holds: Callable[[Any], bool]
    expected: str


def at_least(bound: int) -> Callable[[Any], bool]:
    """A number of `bound` or more."""
    return lambda value: bool(value >= bound)


def is_count_or_none(value: Any) -> bool:
    """A whole number of 1 or more, or nothing."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def is_side(value: Any) -> bool:
    """A short side in pixels."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_PIXELS


def are_sides(value: Any) -> bool:
    """Different short sides."""
    return isinstance(value, list) and all(map(is_side, value)) and 0 < len(set(value)) == len(value)


def are_positive(value: Any) -> bool:
    """One positive number or more."""
    return isinstance(value, list) and bool(value) and all(0 < one < float("inf") for one in value)


def one_of(*names: str) -> Callable[[Any], bool]:
    """One of these names."""
    return lambda value: value in names


def check(rule: Rule, key: str, value: Any) -> None:
    """Refuse a value that breaks its rule.

    Raises:
        ConfigError: It does.
    """
    try:
        holds = rule.holds(value)
    except TypeError:  # a word where a number is compared
        holds = False
    if not holds:
        raise ConfigError(f"{key}={value}: must be {rule.expected}")
