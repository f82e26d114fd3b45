"""What a key's value must be: a range is said once, beside the key's type (schema.py)."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, dataclass_transform

from omegaconf import MISSING

from sppnet.errors import ConfigError

# Folders of paths.runs that hold other things than tables.
_TAKEN: Final = ("networks", "features", "proposals", "maps", "detectors", "evaluations", "published")
MOST_PIXELS: Final = 4000  # of a short side


# What a key is to a run: it can change a result; it makes a run faster or shows it, and is given to every
# stage; or the sweep alone reads it.
Role = Literal["decides", "eases", "sweep"]


class Rule(NamedTuple):
    """A test of a value, and how it is said what passes."""

    holds: Callable[[Any], bool]
    expected: str


def key(rule: Rule | None = None, *, default: Any = MISSING, role: Role = "decides") -> Any:
    """A key of the configuration; its value stands in conf/.

    Args:
        rule: What its value must be, beside its type.
        default: For what the sweep fills in.
        role: What it is to a run.
    """
    # A default would be an attribute of the class, and hide that a record lacks the key.
    return dataclasses.field(default_factory=lambda: default, metadata={"rule": rule, "role": role})


def part(record: type, *, role: Role = "decides") -> Any:
    """Keys of one record."""
    return dataclasses.field(default_factory=record, metadata={"role": role})


def named(*records: type, role: Role = "decides") -> Any:
    """A part that names its own class, whose keys are checked where a record has them; or a record."""
    return dataclasses.field(default_factory=lambda: MISSING, metadata={"records": records, "role": role})


@dataclass_transform(kw_only_default=True, field_specifiers=(key, part, named))
class Record:
    """Keys of the configuration as attributes; in what a stage is given, those that its row declares."""

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(kw_only=True)(cls)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"{type(self).__name__}.{name} is not among what this stage reads: declare it in the stage's "
                f"row (sppnet/experiment/stages.py), so that it counts for the run's key"
            )


def check(rule: Rule, name: str, value: Any) -> None:
    """Refuse a value that breaks its rule.

    Raises:
        ConfigError: It does.
    """
    try:
        holds = rule.holds(value)
    except TypeError:  # a word where a number is compared
        holds = False
    if not holds:
        raise ConfigError(f"{name}={value}: must be {rule.expected}")


def one_of(*names: str) -> Rule:
    """One of these names."""
    listed = " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return Rule(lambda value: value in names, listed)


def at_least(bound: int, unit: str = "") -> Rule:
    """A number of `bound` or more."""
    return Rule(lambda value: bool(bound <= value < float("inf")), f"{bound}{unit} or more")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_side(value: Any) -> bool:
    return _is_count(value) and value <= MOST_PIXELS


def _are_different(value: Any, is_one: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_one, value)) and 0 < len(set(value)) == len(value)


def _are_positive(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(0 < one < float("inf") for one in value)


def _are_shares(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(0 <= one < 1 for one in value)


def _are_axes(value: Any) -> bool:
    named = isinstance(value, Mapping) and all(
        isinstance(values, list) and values for values in value.values()
    )
    return named and all(not isinstance(one, list | Mapping) for values in value.values() for one in values)


def _rise(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(0 < fraction < 1 for fraction in value)
        and sorted(value) == list(value)
    )


ONE_DEVICE: Final = Rule(lambda value: value == 1, "1: a run has one device; jobs=N runs several cells")
COUNT: Final = at_least(1)
NATURAL: Final = at_least(0)
PIXELS: Final = at_least(1, " pixel")
WHOLE: Final = Rule(lambda value: _is_whole(value) and value >= 0, "a whole number of 0 or more")
SEED: Final = Rule(
    lambda value: _is_whole(value) and 0 <= value < 2**32, f"a whole number of 0 or more, up to {2**32 - 1}"
)
WORKERS: Final = Rule(lambda value: _is_whole(value) and 0 <= value <= 256, "from 0 (none) to 256 processes")
COUNT_OR_NONE: Final = Rule(
    lambda value: value is None or _is_count(value), "a whole number of 1 or more, or null"
)
GREY_OR_NONE: Final = Rule(
    lambda value: value is None or (not isinstance(value, bool) and 0 <= value <= 255), "null, or 0 to 255"
)
THREADS: Final = Rule(lambda value: value is None or value >= 1, "1 or more, or null")
POSITIVE: Final = Rule(lambda value: bool(0 < value < float("inf")), "a positive number")
POSITIVES: Final = Rule(_are_positive, "a list of positive numbers, e.g. [1.0]")
NO_BIAS_OR_POSITIVE: Final = Rule(lambda value: 0 <= value < float("inf"), "0 (no bias) or a positive number")
FINITE: Final = Rule(lambda value: float("-inf") < value < float("inf"), "a number")
WIDTH: Final = Rule(lambda value: 0.01 <= value <= 16, "from 0.01 to 16")
BATCH: Final = Rule(lambda value: _is_whole(value) and 1 <= value <= 65536, "from 1 to 65536")
AXES: Final = Rule(_are_axes, "axes with a list of values each, e.g. {backbone: [zf5, overfeat5]}")
SKIP: Final = Rule(
    lambda value: all(map(_are_axes, value)), "a list such as [{backbone: [zf5], pyramid: [none, bins30]}]"
)
METRICS: Final = Rule(
    lambda value: all(isinstance(one, Mapping) and {"key", "id", "label"} <= {*one} for one in value),
    "a list of metrics with key, id and label each, as in conf/config.yaml",
)
SHARE: Final = Rule(lambda value: not isinstance(value, str) and 0 <= value < 1, "at least 0 and below 1")
SHARES: Final = Rule(_are_shares, "a list of numbers of at least 0 and below 1, e.g. [0.9,0.999]")
BETWEEN: Final = Rule(lambda value: 0 < value < 1, "between 0 and 1")
OVERLAP: Final = Rule(lambda value: 0 <= value <= 1, "an intersection over union from 0 to 1")
SOME_OVERLAP: Final = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
RISING: Final = Rule(_rise, "fractions that rise and lie between 0 and 1")
SIDE: Final = Rule(_is_side, f"from 1 to {MOST_PIXELS} pixels")
SIDE_OR_NONE: Final = Rule(lambda value: value is None or _is_side(value), f"null, or 1 to {MOST_PIXELS}")
SIDES: Final = Rule(
    lambda value: _are_different(value, _is_side),
    f"different short sides of 1 to {MOST_PIXELS} pixels, e.g. [224,256]",
)
LEVELS: Final = Rule(
    lambda value: _are_different(value, _is_count), "different whole numbers of 1 or more, e.g. [6,3,2,1]"
)
FOLDER: Final = Rule(
    lambda value: re.fullmatch(r"\w[\w.-]{0,59}", value) is not None and value not in _TAKEN,
    "a name for a folder in paths.runs: 1 to 60 letters, digits and _ . - behind the first",
)
PLAN: Final = Rule(lambda value: isinstance(value, bool) or value == "names", "true, false or names")
TRUTH: Final = Rule(lambda value: isinstance(value, bool), "true or false")
