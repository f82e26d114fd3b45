"""Checks of what SVMs are trained on: protocol, view, target, paths."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppnet.cli.rules import (
    MOST_PIXELS,
    Rule,
    are_positive,
    at_least,
    check,
    is_count_or_none,
    is_side,
    one_of,
)
from sppnet.errors import ConfigError, DataError

FEATURES_RULES = (
    Rule("view", one_of("crop", "full", "warp"), "crop, full or warp"),
    Rule("short_side", is_side, f"from 1 to {MOST_PIXELS} pixels"),
    Rule("crop", is_side, f"from 1 to {MOST_PIXELS} pixels"),
)
TRANSFER_RULES = (
    Rule("measure", one_of("average_precision", "accuracy"), "average_precision or accuracy"),
    Rule("per_class", is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("test_per_class", is_count_or_none, "a whole number of 1 or more, or null"),
    Rule("level", is_count_or_none, "a level of the pyramid, or null"),
    Rule("val_fraction", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("svm_c", are_positive, "a list of positive numbers, e.g. [1.0]"),
    Rule("patience", at_least(1), "1 or more"),
    Rule("loss", one_of("squared_hinge", "hinge"), "squared_hinge or hinge"),
    Rule("bias_multiplier", lambda value: 0 <= value < float("inf"), "0 (no bias) or a positive number"),
    Rule("positive_weight", lambda value: 0 < value < float("inf"), "a positive number"),
    Rule("tolerance", lambda value: 0 < value < 1, "between 0 and 1"),
)


def check_transfer(config: Mapping[str, Any]) -> None:
    """Check the protocol and the target of a transfer.

    Raises:
        ConfigError: A value is out of range, or the target is missing.
        DataError: The folder with the target does not exist.
    """
    protocol, target = config["transfer"], config["target"]
    if "layer" not in protocol:
        raise ConfigError("transfer=none, but a target or a layer is chosen: add transfer=svm")
    if target is None:
        raise ConfigError("target=none: choose what to transfer to, e.g. target=voc2007 or target=caltech101")
    for rule in TRANSFER_RULES:
        check(rule, f"transfer.{rule.key}", protocol[rule.key])
    for rule in FEATURES_RULES:
        check(rule, f"features.{rule.key}", config["features"][rule.key])
    _check_layer(config)
    check_target(config)


def check_target(config: Mapping[str, Any]) -> None:
    """Check that a target's folder and the network's weights are there.

    Raises:
        ConfigError: The folder is not given.
        DataError: It, or the file of weights, does not exist.
    """
    target = config["target"]
    root = target["root"]
    is_made = "hapes" in target["_target_"] or "hapes" in target.get("reader", {}).get("_target_", "")
    if root is None and not is_made:
        key = "paths.det" if target["name"] == "ILSVRC DET" else "paths.data"
        raise ConfigError(f"{key} is missing: give the folder that holds {target['name']}")
    if root is not None and not Path(root).expanduser().is_dir():
        raise DataError(
            f"paths.data={root}: no such directory (looked at {Path(root).expanduser().absolute()})"
        )
    weights = config["backbone"].get("weights")
    if weights is not None and weights.endswith(".safetensors") and not Path(weights).is_file():
        raise DataError(f"paths.weights={weights}: no such file (looked at {Path(weights).absolute()})")


def _check_layer(config: Mapping[str, Any]) -> None:
    """Refuse what would be found out only once the network is trained.

    Raises:
        ConfigError: A level that is not there, or maps of images that differ in size.
    """
    layer, level = config["transfer"]["layer"], config["transfer"]["level"]
    if level is not None and layer != "pool":
        raise ConfigError(f"transfer.level={level}: a level is a part of transfer.layer=pool, not of {layer}")
    if level is not None and level not in config["pyramid"]["levels"]:
        raise ConfigError(f"transfer.level={level}: no level of pyramid.levels={config['pyramid']['levels']}")
    if layer not in ("pool", "fc6", "fc7") and config["features"]["view"] == "full":
        raise ConfigError(
            f"transfer.layer={layer}: the maps of full images differ in size and cannot be flattened; use "
            f"features=crop or features=warp, or a layer of vectors (layer=pool)"
        )
