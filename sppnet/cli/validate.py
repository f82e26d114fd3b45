"""Checks of a resolved configuration before anything is written: ranges, contradictions, paths."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sppnet.cli.schema import Conf
from sppnet.errors import ConfigError, DataError

_MOST_PIXELS = 4000  # of a short side


class Rule(NamedTuple):
    """What a key's value must be."""

    key: str
    holds: Callable[[Any], bool]
    expected: str


def _at_least(bound: int) -> Callable[[Any], bool]:
    return lambda value: bool(value >= bound)


def _is_count_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_PIXELS


def _are_sides(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_side, value)) and 0 < len(set(value)) == len(value)


def _are_positive(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(0 < one < float("inf") for one in value)


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: value in names


RULES = (
    Rule("trainer.accelerator", _one_of("auto", "cpu", "gpu", "cuda", "mps"), "auto, cpu, gpu, cuda or mps"),
    Rule(
        "trainer.precision",
        _one_of("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"),
        "32-true, bf16-mixed, 16-mixed, bf16-true or 64-true",
    ),
    Rule("pyramid.pooling", _one_of("bins", "sliding"), "bins or sliding"),
    Rule("seed", _at_least(0), "0 or more"),
    Rule("jobs", _at_least(0), "0 (one per core) or more"),
    Rule("width", lambda value: 0 < value <= 16, "above 0 and at most 16"),
    Rule("image.short_side", lambda value: 1 <= value <= _MOST_PIXELS, f"from 1 to {_MOST_PIXELS} pixels"),
    Rule("image.object_short_side", _is_side, f"from 1 to {_MOST_PIXELS} pixels"),
    Rule("image.test_sides", _are_sides, f"different short sides of 1 to {_MOST_PIXELS} pixels"),
    Rule("image.curve_sides", _are_sides, f"different short sides of 1 to {_MOST_PIXELS} pixels"),
    Rule("image.size", _at_least(1), "1 pixel or more"),
    Rule("image.small_size", _at_least(1), "1 pixel or more"),
    Rule("head.width", _at_least(1), "1 or more"),
    Rule("head.dropout", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("training.epochs", _at_least(1), "1 or more"),
    Rule("split", _at_least(0), "0 or more"),
    Rule("training.batch_size", _at_least(1), "1 or more"),
    Rule("training.learning_rate", lambda value: 0 < value < float("inf"), "a positive number"),
    Rule("training.momentum", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("training.weight_decay", _at_least(0), "0 or more"),
    Rule("training.bias_rate", _at_least(0), "0 or more"),
    Rule("trainer.devices", _at_least(1), "1 or more"),
    Rule("trainer.threads", lambda value: value is None or value >= 1, "1 or more, or null"),
    Rule("trainer.checkpoint_minutes", _at_least(0), "0 or more"),
    Rule("trainer.every_steps", _at_least(1), "1 or more"),
    Rule("data_loading.workers", _at_least(0), "0 or more"),
    Rule("data_loading.cache_gb", _at_least(0), "0 or more"),
    Rule("data_loading.max_pixels", _at_least(1), "1 or more"),
)
VIEW_RULES = (
    Rule("short_side", _is_side, f"from 1 to {_MOST_PIXELS} pixels"),
    Rule("full_short_side", lambda value: value is None or _is_side(value), f"null, or 1 to {_MOST_PIXELS}"),
    Rule("test_sides", _are_sides, f"different short sides of 1 to {_MOST_PIXELS} pixels, e.g. [224,256]"),
    Rule("size", _is_side, f"from 1 to {_MOST_PIXELS} pixels"),
    Rule("flip", lambda value: isinstance(value, bool), "true or false"),
    Rule("mapping", _one_of("centre_inside", "paper", "release"), "centre_inside, paper or release"),
)
FEATURES_RULES = (
    Rule("view", _one_of("crop", "full", "warp"), "crop, full or warp"),
    Rule("short_side", _is_side, f"from 1 to {_MOST_PIXELS} pixels"),
    Rule("crop", _is_side, f"from 1 to {_MOST_PIXELS} pixels"),
)
TRANSFER_RULES = (
    Rule("measure", _one_of("average_precision", "accuracy"), "average_precision or accuracy"),
    Rule("per_class", _is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("test_per_class", _is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("level", _is_count_or_none, "a level of the pyramid, or null"),
    Rule("val_fraction", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("svm_c", _are_positive, "a list of positive numbers, e.g. [1.0]"),
    Rule("patience", _at_least(1), "1 or more"),
    Rule("loss", _one_of("squared_hinge", "hinge"), "squared_hinge or hinge"),
    Rule("bias_multiplier", lambda value: 0 <= value < float("inf"), "0 (no bias) or a positive number"),
    Rule("positive_weight", lambda value: 0 < value < float("inf"), "a positive number"),
    Rule("tolerance", lambda value: 0 < value < 1, "between 0 and 1"),
)
DATA_RULES = (
    Rule("per_class", _is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("test_per_class", _is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("train_crop", _one_of("random", "five"), "random or five"),
    Rule("split_seed", lambda value: isinstance(value, int) and value >= 0, "a whole number of 0 or more"),
    Rule(
        "val_fraction",
        lambda value: isinstance(value, int | float) and 0 <= value < 1,
        "at least 0 and below 1",
    ),
)


def validate(config: Mapping[str, Any]) -> None:
    """Check one cell's resolved configuration.

    Raises:
        ConfigError: A value is out of range, or two values contradict each other.
        DataError: data.root does not exist.
    """
    _check_keys(config, Conf, "")
    for rule in RULES:
        _check(rule, rule.key, _at(config, rule.key))
    _check_view(config)
    _check_pyramid(config)
    _check_sizes(config)
    _check_schedule(config)
    validate_data(config["data"])
    if config["transfer"] is not None:
        _check_transfer(config)
    elif not config["trained"]:
        raise ConfigError(
            "trained=false: a network that was never trained cannot be tested as a classifier; "
            "its features can (experiment=table7)"
        )


def validate_data(data: Mapping[str, Any]) -> None:
    """Check the numbers and the folder of a data set.

    Raises:
        ConfigError: A number is out of range.
        DataError: data.root does not exist.
    """
    for rule in DATA_RULES:
        if rule.key in data:
            _check(rule, f"data.{rule.key}", data[rule.key])
    if not isinstance(data["colour"], Mapping):
        raise ConfigError(f"data.colour={data['colour']}: choose data/colour=imagenet or data/colour=none")
    root = data.get("root")
    is_made = data["reader"]["_target_"].endswith("ShapesReader")  # makes its own folder
    if root is None and not is_made:
        raise ConfigError(f"data.root is missing: give the folder of {data['name']} with data.root=DIR")
    if root is not None and not is_made and not Path(root).expanduser().is_dir():
        raise DataError(
            f"data.root={root}: no such directory (looked at {Path(root).expanduser().absolute()})"
        )


def _check_keys(config: Mapping[str, Any], schema: type, prefix: str) -> None:
    """Refuse keys added with + that nothing reads; parts with a `_target_` check their own."""
    known = {field.name: field.type for field in dataclasses.fields(schema)}
    for key, value in config.items():
        if key not in known:
            raise ConfigError(f"{prefix}{key}: no such key, nothing reads it; sppnet --cfg job shows all")
        part = known[key]
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            _check_keys(value, part, f"{prefix}{key}.")


def _at(config: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _check(rule: Rule, key: str, value: Any) -> None:
    if not rule.holds(value):
        raise ConfigError(f"{key}={value}: must be {rule.expected}")


def _check_pyramid(config: Mapping[str, Any]) -> None:
    levels = config["pyramid"]["levels"]
    whole = isinstance(levels, list) and all(isinstance(level, int) and level >= 1 for level in levels)
    if not whole or not levels or len(set(levels)) != len(levels):
        raise ConfigError(
            f"pyramid.levels={levels}: must be different whole numbers of 1 or more, e.g. [6,3,2,1]"
        )


def _check_transfer(config: Mapping[str, Any]) -> None:
    """Check the protocol and the target of a transfer.

    Raises:
        ConfigError: A value is out of range, or the target is missing.
        DataError: The folder with the target does not exist.
    """
    for rule in TRANSFER_RULES:
        _check(rule, f"transfer.{rule.key}", config["transfer"][rule.key])
    for rule in FEATURES_RULES:
        _check(rule, f"features.{rule.key}", config["features"][rule.key])
    target = config["target"]
    if target is None:
        raise ConfigError("target=none: choose what to transfer to, e.g. target=voc2007 or target=caltech101")
    root = target["root"]
    is_made = "hapes" in target["_target_"] or "hapes" in target.get("reader", {}).get("_target_", "")
    if root is None and not is_made:
        raise ConfigError(f"paths.data is missing: give the folder that holds {target['name']}")
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(
            f"paths.data={root}: no such directory (looked at {Path(root).expanduser().absolute()})"
        )
    weights = config["backbone"].get("weights")
    if weights is not None and weights.endswith(".safetensors") and not Path(weights).is_file():
        raise DataError(f"paths.weights={weights}: no such file (looked at {Path(weights).absolute()})")


def _check_view(config: Mapping[str, Any]) -> None:
    view = config["view"]
    for rule in VIEW_RULES:
        if rule.key in view:
            _check(rule, f"view.{rule.key}", view[rule.key])
    smallest = min(view.get("test_sides", [view.get("short_side")]))
    if view.get("size", 0) > smallest:
        raise ConfigError(
            f"image.size={view['size']} does not fit into view.short_side={smallest} (or view.test_sides)"
        )
    if not config["pyramid"]["any_size"] and not view["_target_"].endswith("CropView"):
        raise ConfigError(
            "pyramid=none has one input size: a network without SPP sees crops only (§2.3); choose "
            "view=crop or view=ten_crop, or pyramid=bins50"
        )


def _check_sizes(config: Mapping[str, Any]) -> None:
    image = config["image"]
    if image["size"] > image["short_side"]:
        raise ConfigError(
            f"image.size={image['size']} does not fit into image.short_side={image['short_side']}: "
            f"the region is cut out of the resized image"
        )
    if image["small_size"] > image["size"]:
        raise ConfigError(f"image.small_size={image['small_size']} is above image.size={image['size']}")
    sizes = config["train_sizes"]
    if not config["pyramid"]["any_size"] and sizes != {**sizes, "sizes": [image["size"]]}:
        raise ConfigError(
            "pyramid=none has one input size: train_sizes must be single (a network without SPP cannot "
            "be trained at several sizes, §2.3); choose pyramid=bins50 or train_sizes=single"
        )
    if sizes["_target_"].endswith("BucketSizes") and config["pyramid"]["pooling"] == "sliding":
        raise ConfigError(
            "train_sizes=buckets makes maps of any shape, for which pyramid.pooling=sliding is not defined; "
            "use pyramid.pooling=bins"
        )


def _check_schedule(config: Mapping[str, Any]) -> None:
    fractions = config["schedule"].get("fractions", [])
    if not all(0 < fraction < 1 for fraction in fractions) or sorted(fractions) != fractions:
        raise ConfigError(f"schedule.fractions={fractions}: must rise and lie between 0 and 1")
    has_own = "FolderReader" in config["data"]["reader"]["_target_"]  # perhaps with a folder val
    watches = config["schedule"]["_target_"].endswith("PlateauSchedule")
    if watches and not has_own and not config["data"].get("val_fraction"):
        raise ConfigError(
            "schedule=plateau watches held-out training images, but data.val_fraction is 0; "
            "set data.val_fraction=0.05 or schedule=step"
        )
