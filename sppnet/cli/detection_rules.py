"""Checks of what detectors are trained on and with: protocol, windows, target, paths."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sppnet.cli.rules import Rule, are_sides, at_least, check, is_side, one_of
from sppnet.cli.transfer_rules import check_target
from sppnet.errors import ConfigError, DataError


def _is_overlap(value: Any) -> bool:
    return bool(0 <= value <= 1)


def _is_positive(value: Any) -> bool:
    return bool(0 < value < float("inf"))


_OVERLAP = "an intersection over union from 0 to 1"
_POSITIVE = "a positive number"
_COUNT = "1 or more"
RULES = (
    Rule("mining.svm_c", _is_positive, _POSITIVE),
    Rule("mining.loss", one_of("hinge", "squared_hinge"), "hinge or squared_hinge"),
    Rule(
        "mining.bias_multiplier", lambda value: 0 <= value < float("inf"), "0 (no bias) or a positive number"
    ),
    Rule("mining.positive_weight", _is_positive, _POSITIVE),
    Rule("mining.mean_norm", _is_positive, _POSITIVE),
    Rule("mining.norm_images", at_least(1), _COUNT),
    Rule("mining.norm_windows", at_least(1), _COUNT),
    Rule("mining.negative_overlap", _is_overlap, _OVERLAP),
    Rule("mining.duplicate_overlap", _is_overlap, _OVERLAP),
    Rule("mining.retrain_after", at_least(0), "0 or more"),
    Rule("mining.max_gb", _is_positive, _POSITIVE),
    Rule("mining.tolerance", lambda value: 0 < value < 1, "between 0 and 1"),
    Rule("boxes.min_overlap", lambda value: 0 < value <= 1, "above 0 and at most 1"),
    Rule("boxes.ridge", _is_positive, _POSITIVE),
    Rule("boxes.max_windows", at_least(1), _COUNT),
    Rule("boxes.mean_norm", _is_positive, _POSITIVE),
    Rule("suppression.max_overlap", _is_overlap, _OVERLAP),
    Rule("suppression.max_per_image", at_least(1), _COUNT),
    Rule("finetuning.num_steps", at_least(1), _COUNT),
    Rule("finetuning.learning_rate", _is_positive, _POSITIVE),
    Rule("finetuning.batch_size", at_least(1), _COUNT),
    Rule("finetuning.chunk_steps", at_least(1), _COUNT),
    Rule("finetuning.images_per_chunk", at_least(1), _COUNT),
    Rule("finetuning.positive_share", lambda value: 0 < value < 1, "between 0 and 1"),
    Rule("finetuning.positive_overlap", lambda value: 0 < value <= 1, "above 0 and at most 1"),
    Rule("finetuning.background_overlap", _is_overlap, _OVERLAP),
    Rule("finetuning.dropout", lambda value: 0 <= value < 1, "at least 0 and below 1"),
    Rule("finetuning.trains", one_of("fc", "all"), "fc or all"),
    Rule("timing.num_images", at_least(1), _COUNT),
    Rule("timing.num_warmup", at_least(0), "0 or more"),
    Rule("timing.max_windows", at_least(1), _COUNT),
)
_SPP_RULES = (
    Rule("windows.scales", are_sides, "different short sides in pixels, e.g. [688]"),
    Rule("windows.mapping", one_of("centre_inside", "paper", "release"), "centre_inside, paper or release"),
    Rule("windows.scale_target", one_of("paper", "release"), "paper or release"),
    Rule("windows.side", is_side, "a number of pixels"),
)
_RCNN_RULES = (
    Rule("windows.size", is_side, "a number of pixels"),
    Rule("windows.context", at_least(0), "0 pixels or more"),
    Rule("windows.batch_size", at_least(1), _COUNT),
)


def check_detection(config: Mapping[str, Any]) -> None:
    """Check the protocol and the target of a detector.

    Raises:
        ConfigError: A value is out of range, the target has no boxes, or two values contradict each other.
        DataError: The folder with the target, or a file of proposals, does not exist.
    """
    windows = config["windows"]
    rules = RULES + (_RCNN_RULES if windows["method"] == "rcnn" else _SPP_RULES)
    for rule in rules:
        part, _, key = rule.key.partition(".")
        check(rule, rule.key, config[part][key])
    if windows["method"] == "rcnn" and 2 * windows["context"] >= windows["size"]:
        raise ConfigError(
            f"windows.context={windows['context']}: twice as much does not fit into windows.size="
            f"{windows['size']}"
        )
    if windows["method"] == "rcnn" and config["mining"]["duplicate_cells"]:
        raise ConfigError("mining.duplicate_cells=true: R-CNN's windows have no cells; set it to false")
    _check_learning(config)
    target = config["target"]
    if target is None or "Voc" not in target["_target_"]:
        raise ConfigError(
            "detection needs a target with boxes: target=voc2007 (any data set in VOC's layout), or "
            "target=shapes_voc"
        )
    check_target(config)
    _check_files(config)
    if config["ensemble"] and config["detection"]["layer"] == "time":
        raise ConfigError("detection=time finds nothing that an ensemble could combine; leave ensemble out")
    if not config["pyramid"]["any_size"] and windows["method"] == "spp":
        raise ConfigError("pyramid=none cannot pool windows (§2.3); choose pyramid=bins50 or windows=rcnn")
    if not config["trained"] and config["detection"]["layer"] in ("fc6", "fc7"):
        _check_head(config)


def _check_learning(config: Mapping[str, Any]) -> None:
    """Refuse contradictions that would be found out only once a network is trained."""
    mining, tuning, method = config["mining"], config["finetuning"], config["windows"]["method"]
    if not mining["evict_below"] < mining["hard_above"]:
        raise ConfigError(
            f"mining.evict_below={mining['evict_below']} must be below "
            f"mining.hard_above={mining['hard_above']}"
        )
    if tuning["background_overlap"] >= tuning["positive_overlap"]:
        raise ConfigError("finetuning.background_overlap must be below finetuning.positive_overlap")
    drops = tuning["drop_at"]
    if not all(0 < fraction < 1 for fraction in drops) or sorted(drops) != drops:
        raise ConfigError(f"finetuning.drop_at={drops}: must rise and lie between 0 and 1")
    if round(tuning["positive_share"] * tuning["batch_size"]) < 1:
        raise ConfigError("finetuning.positive_share of finetuning.batch_size is not one window; raise them")
    if (tuning["trains"] == "all") != (method == "rcnn"):
        raise ConfigError(
            f"finetuning.trains={tuning['trains']} does not go with windows of {method}: SPP-net's "
            f"convolutions stay as they are (fc), R-CNN trains all"
        )
    if tuning["random_scale"] and method == "rcnn":
        raise ConfigError("finetuning.random_scale=true: R-CNN's windows have one size; set it to false")


def _check_files(config: Mapping[str, Any]) -> None:
    """Refuse files of proposals that are not there, before a network is trained."""
    for key in ("proposals", "test_proposals"):
        for file in _files(config[key] or {}):
            if not Path(file).expanduser().is_file():
                raise DataError(f"{key}.paths: {file}: no such file (looked at {Path(file).absolute()})")


def _files(source: Mapping[str, Any]) -> Iterator[str]:
    """The files that a source of proposals reads, or those of its parts."""
    yield from source.get("paths", ())
    for part in source.get("sources", {}).values():
        yield from _files(part)


def _check_head(config: Mapping[str, Any]) -> None:
    """Fc layers that were never trained are of no use, unless fine-tuning trains them."""
    if config["detection"]["finetuned"] and not config["finetuning"]["fresh"]:
        raise ConfigError(
            "trained=false: fc layers that were never trained are not fine-tuned from small rates; with "
            "finetuning.fresh=true they begin anew, see experiment=table9_squeezenet"
        )
    if not config["detection"]["finetuned"]:
        raise ConfigError(
            f"detection: {config['detection']['layer']} of a network that was never trained; choose "
            f"detection=pool or a fine-tuned layer (detection=ftfc7)"
        )
