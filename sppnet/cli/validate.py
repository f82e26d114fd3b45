"""Checks of a resolved configuration before anything is written: ranges, contradictions, paths."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppnet.cli.detection_rules import check_detection
from sppnet.cli.rules import MOST_PIXELS, Rule, are_sides, at_least, check, is_count_or_none, is_side, one_of
from sppnet.cli.schema import Conf
from sppnet.cli.transfer_rules import check_transfer
from sppnet.errors import ConfigError, DataError

RULES = (
    Rule("trainer.accelerator", one_of("auto", "cpu", "gpu", "cuda", "mps"), "auto, cpu, gpu, cuda or mps"),
    Rule(
        "trainer.precision",
        one_of("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"),
        "32-true, bf16-mixed, 16-mixed, bf16-true or 64-true",
    ),
    Rule("pyramid.pooling", one_of("bins", "sliding"), "bins or sliding"),
    Rule("seed", at_least(0), "0 or more"),
    Rule("jobs", at_least(0), "0 (one per core) or more"),
    Rule("width", lambda value: 0 < value <= 16, "above 0 and at most 16"),
    Rule("image.short_side", lambda value: 1 <= value <= MOST_PIXELS, f"from 1 to {MOST_PIXELS} pixels"),
    Rule("image.object_short_side", is_side, f"from 1 to {MOST_PIXELS} pixels"),
    Rule("image.test_sides", are_sides, f"different short sides of 1 to {MOST_PIXELS} pixels"),
    Rule("image.curve_sides", are_sides, f"different short sides of 1 to {MOST_PIXELS} pixels"),
    Rule("image.size", at_least(1), "1 pixel or more"),
    Rule("image.small_size", at_least(1), "1 pixel or more"),
    Rule("head.width", at_least(1), "1 or more"),
    Rule("head.dropout", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("training.epochs", at_least(1), "1 or more"),
    Rule("split", at_least(0), "0 or more"),
    Rule("training.batch_size", at_least(1), "1 or more"),
    Rule("training.learning_rate", lambda value: 0 < value < float("inf"), "a positive number"),
    Rule("training.momentum", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("training.weight_decay", at_least(0), "0 or more"),
    Rule("training.bias_rate", at_least(0), "0 or more"),
    Rule("trainer.devices", at_least(1), "1 or more"),
    Rule("trainer.threads", lambda value: value is None or value >= 1, "1 or more, or null"),
    Rule("trainer.checkpoint_minutes", at_least(0), "0 or more"),
    Rule("trainer.every_steps", at_least(1), "1 or more"),
    Rule("data_loading.workers", at_least(0), "0 or more"),
    Rule("data_loading.cache_gb", at_least(0), "0 or more"),
    Rule("data_loading.max_pixels", at_least(1), "1 or more"),
)
VIEW_RULES = (
    Rule("short_side", is_side, f"from 1 to {MOST_PIXELS} pixels"),
    Rule("full_short_side", lambda value: value is None or is_side(value), f"null, or 1 to {MOST_PIXELS}"),
    Rule("test_sides", are_sides, f"different short sides of 1 to {MOST_PIXELS} pixels, e.g. [224,256]"),
    Rule("size", is_side, f"from 1 to {MOST_PIXELS} pixels"),
    Rule("flip", lambda value: isinstance(value, bool), "true or false"),
    Rule("mapping", one_of("centre_inside", "paper", "release"), "centre_inside, paper or release"),
)
DATA_RULES = (
    Rule("per_class", is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("test_per_class", is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("train_crop", one_of("random", "five"), "random or five"),
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
        check(rule, rule.key, _at(config, rule.key))
    _check_view(config)
    _check_pyramid(config)
    _check_sizes(config)
    _check_schedule(config)
    validate_data(config["data"])
    if config["detection"] is not None:
        check_detection(config)
    elif config["transfer"] is not None:
        check_transfer(config)
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
            check(rule, f"data.{rule.key}", data[rule.key])
    if not isinstance(data["colour"], Mapping):
        raise ConfigError(f"data.colour={data['colour']}: choose data/colour=imagenet or data/colour=none")
    root = data.get("root")
    is_made = data["reader"]["_target_"].endswith("ShapesReader")  # makes its own folder
    if root is None and not is_made:
        key = "data.root"
        if data["reader"]["_target_"].endswith("VocObjectReader"):
            key = "paths.det (data.root without an experiment)"
        raise ConfigError(f"data.root is missing: give the folder of {data['name']} with {key}=DIR")
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


def _check_pyramid(config: Mapping[str, Any]) -> None:
    levels = config["pyramid"]["levels"]
    whole = isinstance(levels, list) and all(isinstance(level, int) and level >= 1 for level in levels)
    if not whole or not levels or len(set(levels)) != len(levels):
        raise ConfigError(
            f"pyramid.levels={levels}: must be different whole numbers of 1 or more, e.g. [6,3,2,1]"
        )


def _check_view(config: Mapping[str, Any]) -> None:
    view = config["view"]
    for rule in VIEW_RULES:
        if rule.key in view:
            check(rule, f"view.{rule.key}", view[rule.key])
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
