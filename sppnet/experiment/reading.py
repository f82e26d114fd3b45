"""From a composed configuration to typed records, every value in its range; what a stage is given of it."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from sppnet.errors import ConfigError
from sppnet.experiment import ranges
from sppnet.experiment.making import SAID
from sppnet.experiment.schema import Conf

_RecordT = TypeVar("_RecordT")


def read_conf(plain: Mapping[str, Any]) -> Conf:
    """Make records of plain containers; keys that are not there stay away.

    Raises:
        ConfigError: A key that nothing reads, or a value out of its range.
    """
    return _read(Conf, plain, "")


def _read(record: type[_RecordT], plain: Mapping[str, Any], prefix: str) -> _RecordT:
    fields, types = _fields_of(record)  # type: ignore[arg-type]  # a class can be a key
    made = record.__new__(record)
    for name, value in plain.items():
        if name not in fields:
            raise ConfigError(f"{prefix}{name}: no such key, nothing reads it; sppnet --cfg job shows all")
        setattr(made, name, _read_value(fields[name], types[name], value, prefix + name))
    return made


@functools.cache
def _fields_of(record: type) -> "tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]":
    return {one.name: one for one in dataclasses.fields(record)}, get_type_hints(record)


def _read_value(one: "dataclasses.Field[Any]", kind: Any, value: Any, path: str) -> Any:
    is_record = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    if value is None and (is_record or "records" in one.metadata) and "None" not in str(kind):
        raise ConfigError(f"{path}=null: cannot be left out; choose an option, or leave it as it was")
    if is_record:
        return _read(kind, value, f"{path}.")
    if rule := one.metadata.get("rule") or _rule_of(kind):
        ranges.check(rule, path, value)
    records = one.metadata.get("records")
    if not records or not isinstance(value, Mapping):
        return value
    if "_target_" not in value and "dict" not in str(kind):
        best = max(records, key=lambda record: len(_fields_of(record)[0].keys() & value.keys()))
        return _read(best, value, f"{path}.")
    for record in records:
        fields, types = _fields_of(record)
        for name in value.keys() & fields.keys():
            _read_value(fields[name], types[name], value[name], f"{path}.{name}")
    return value


def _rule_of(kind: Any) -> ranges.Rule | None:
    """A type that lists its values is a range itself."""
    kinds = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    listed = next((get_args(one) for one in kinds if get_origin(one) is Literal), None)
    if listed is None:
        return None
    rule = ranges.one_of(*listed)
    return rule._replace(holds=lambda value: value is None or value in listed) if len(kinds) > 1 else rule


def narrowed(plain: Mapping[str, Any], reads: Iterable[str]) -> dict[str, Any]:
    """The part of a configuration that a stage is given: what it declares, and what eases any work.

    Args:
        plain: The whole configuration.
        reads: Keys, "mining" or "mining.mean_norm"; with a minus those that a part is given without.
    """
    kept: dict[str, Any] = {}
    # Whole parts before what is in them: the order of a set is another in every process.
    reads = sorted(reads, key=lambda name: name.count("."))
    left_out = {name[1:] for name in reads if name.startswith("-")}
    for name in [*(name for name in reads if not name.startswith("-")), *_easing(Conf, "")]:
        *parents, leaf = name.split(".")
        value: Any = plain
        for parent in parents:
            value = value[parent] or {}
        if leaf in value:
            node = kept
            for parent in parents:
                node = node.setdefault(parent, {})
            node.setdefault(leaf, _without(value[leaf], name, left_out))
    return kept


def _without(value: Any, name: str, left_out: set[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without(one, f"{name}.{key}", left_out)
        for key, one in value.items()
        if f"{name}.{key}" not in left_out
    }


@functools.cache
def _easing(record: type, prefix: str) -> tuple[str, ...]:
    """Keys that never decide a result, as deep as whole parts."""
    fields, types = _fields_of(record)
    names = []
    for name, one in fields.items():
        if one.metadata.get("role") == "eases":
            names.append(prefix + name)
        elif dataclasses.is_dataclass(types[name]):
            names += _easing(types[name], f"{prefix}{name}.")
    return tuple(names)


def deciding(given: Mapping[str, Any], reads: Iterable[str]) -> dict[str, Any]:
    """What of the given decides the result: key by key, sorted.

    A key that never does still counts where a stage names it: a clock's result depends on its threads.
    """
    named = set(reads)
    return {name: value for name, value in sorted(leaves(given)) if name in named or not _only_eases(name)}


def _only_eases(name: str) -> bool:
    if any(name == easing or name.startswith(f"{easing}.") for easing in _easing(Conf, "")):
        return True
    first, _, rest = name.partition(".")
    if not SAID.isdisjoint(name.split(".")):
        return True
    fields, _ = _fields_of(Conf)
    for record in fields[first].metadata.get("records", ()):
        one = _fields_of(record)[0].get(rest)
        if one is not None and one.metadata.get("role") == "eases":
            return True
    return False


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings with its dotted key; an empty mapping is a value."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, dict(node) if isinstance(node, Mapping) else node
