"""Contradictions between keys, and what is not there, before anything is written; ranges stand in schema.py.

What a part is good for, its YAML says under `facts`. A part of the user's own that says nothing is believed,
or asked: nothing is guessed from what its class is called.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sppnet.errors import ConfigError, DataError, SppnetError
from sppnet.experiment.detection_schema import DetectionConf, RcnnWindowsConf
from sppnet.experiment.making import make, make_from, named_class
from sppnet.experiment.schema import Conf


def check(conf: Conf) -> None:
    """Check one cell's configuration.

    Raises:
        ConfigError: Two values contradict each other, or one is missing.
        DataError: A folder or a file does not exist.
    """
    if conf.trainer.precision == "16-mixed" and conf.trainer.accelerator == "cpu":
        raise ConfigError(
            "trainer.precision=16-mixed: the CPU computes in bfloat16 instead; set "
            "trainer.precision=bf16-mixed"
        )
    _check_view(conf)
    _check_sizes(conf)
    _check_schedule(conf)
    if conf.trained and conf.training.trains == "head":
        _check_head_alone(conf)
    check_data(conf.data)
    _check_weights(conf)
    if conf.detection is not None:
        _check_detection(conf, conf.detection)
    elif conf.transfer is not None:
        _check_transfer(conf)
    elif not conf.trained:
        raise ConfigError(
            f"trained=false: {conf.backbone['name']} is not trained here (backbones with weights set that), "
            f"so it cannot be tested as a classifier; its features can: transfer=svm target=folder "
            f"paths.data=DIR, or detection=pool target=voc2007 paths.data=DIR"
        )


def check_data(data: Mapping[str, Any]) -> None:
    """Check the colours and the folder of a data set.

    Raises:
        ConfigError: The folder is not given.
        DataError: It does not exist.
    """
    if not isinstance(data["colour"], Mapping):
        raise ConfigError(f"data.colour={data['colour']}: choose data/colour=imagenet or data/colour=none")
    check_root(data, "data.root")


def check_root(part: Mapping[str, Any], key: str) -> None:
    """Check the folder of a data set.

    Args:
        part: Of the configuration.
        key: Of its folder, or the one that its folder comes from.
    """
    facts, root = part.get("facts", {}), part.get("root")
    if facts.get("is_generated"):  # it makes its own folder
        return
    if root is None:
        if asked := facts.get("root"):
            missing = key if key == "data.root" else asked
            raise ConfigError(f"{missing} is missing: give the folder that holds {part['name']}, {asked}=DIR")
        return
    if not Path(root).expanduser().is_dir():
        raise DataError(f"{key}={root}: no such directory (looked at {Path(root).expanduser().absolute()})")


def check_images(conf: Conf, name: str) -> None:
    """List the images of a cell's data set or target, as its runs will; generated ones are no question.

    Args:
        conf: Of the cell.
        name: "data" or "target".

    Raises:
        ConfigError: The configuration does not say how they are parted.
        DataError: They are not what a run needs.
    """
    part = getattr(conf, name)
    if part.get("facts", {}).get("is_generated"):
        return
    from sppnet.data.targets import draw_split

    try:
        if name == "data":
            _ = make(part).splits
        elif conf.detection is not None:
            make(part).read_boxes()
        else:
            target = make(part).read()
            if conf.transfer is not None:
                make_from(draw_split, conf.transfer, target=target, split=conf.split)
    except SppnetError:
        raise
    except Exception:  # of a class of the user's own: its run will say what, and where
        return


def _check_weights(conf: Conf) -> None:
    weights = conf.backbone.get("weights")
    if weights is not None and weights.endswith(".safetensors") and not Path(weights).is_file():
        raise DataError(f"paths.weights={weights}: no such file (looked at {Path(weights).absolute()})")


def _check_view(conf: Conf) -> None:
    view = conf.view
    smallest = min(view.get("test_sides", [view.get("short_side", view.get("size", 0))]))
    if view.get("size", 0) > smallest:
        raise ConfigError(
            f"image.size={view['size']} does not fit into view.short_side={smallest} (or view.test_sides)"
        )
    if not conf.pyramid.any_size and view.get("facts", {}).get("sees", "crops") != "crops":
        raise ConfigError(
            "pyramid=none has one input size: a network without SPP sees crops only (§2.3); choose "
            "view=crop or view=ten_crop, or pyramid=bins50"
        )


def _check_sizes(conf: Conf) -> None:
    image, sizes = conf.image, conf.train_sizes
    if image.size > image.short_side:
        raise ConfigError(
            f"image.size={image.size} does not fit into image.short_side={image.short_side}: "
            f"the region is cut out of the resized image"
        )
    if image.small_size > image.size:
        raise ConfigError(f"image.small_size={image.small_size} is above image.size={image.size}")
    if not conf.pyramid.any_size and sizes != {**sizes, "sizes": [image.size]}:
        raise ConfigError(
            "pyramid=none has one input size: train_sizes must be single (a network without SPP cannot "
            "be trained at several sizes, §2.3); choose pyramid=bins50 or train_sizes=single"
        )
    if sizes.get("facts", {}).get("makes_any_shape") and conf.pyramid.pooling == "sliding":
        raise ConfigError(
            "train_sizes=buckets makes maps of any shape, for which pyramid.pooling=sliding is not defined; "
            "use pyramid.pooling=bins"
        )


def _check_head_alone(conf: Conf) -> None:
    """Refuse what a head on kept maps of a trunk that stays as it is cannot be trained with."""
    if conf.backbone.get("weights", "of the user's own class") is None:
        raise ConfigError(
            f"training.trains=head: the trunk of {conf.backbone['name']} would stay as it begins, at random; "
            f"give its weights, backbone.weights=FILE, or choose training.trains=all"
        )
    if conf.pyramid.pooling != "bins":
        raise ConfigError(
            "training.trains=head pools regions of maps of any shape, for which pyramid.pooling=sliding is "
            "not defined; use pyramid.pooling=bins"
        )
    if "sizes" not in conf.train_sizes:
        raise ConfigError(
            "training.trains=head with train_sizes=random: maps are kept at listed sizes; choose "
            "train_sizes=multi (any list of sizes) or buckets, or training.trains=all"
        )


def _check_schedule(conf: Conf) -> None:
    watches = conf.schedule.get("facts", {}).get("watches_held_out")
    may_bring_some = conf.data.get("facts", {}).get("brings_held_out", True)
    if watches and not may_bring_some and not conf.data.get("val_fraction"):
        raise ConfigError(
            "schedule=plateau watches held-out training images, but data.val_fraction is 0; "
            "set data.val_fraction=0.05 or schedule=step"
        )


def _check_target(conf: Conf) -> None:
    """Check that a target's folder is there."""
    assert conf.target is not None
    asked = conf.target.get("facts", {}).get("root", "")
    of_paths = getattr(conf.paths, asked.removeprefix("paths."), None) if asked.startswith("paths.") else None
    is_asked = of_paths is not None and of_paths == conf.target.get("root")
    check_root(conf.target, asked if is_asked else "target.root")


def _check_transfer(conf: Conf) -> None:
    """Refuse what would be found out only once the network is trained."""
    assert conf.transfer is not None
    if not hasattr(conf.transfer, "layer"):  # the target alone has set some of its keys
        raise ConfigError("transfer=none, but a target or a layer is chosen: add transfer=svm")
    if conf.target is None:
        raise ConfigError("target=none: choose what to transfer to, e.g. target=voc2007 or target=caltech101")
    if conf.transfer.measure is None:
        raise ConfigError("transfer.measure=null: the target does not say; set accuracy or average_precision")
    layer, level = conf.transfer.layer, conf.transfer.level
    if level is not None and layer != "pool":
        raise ConfigError(f"transfer.level={level}: a level is a part of transfer.layer=pool, not of {layer}")
    if level is not None and level not in conf.pyramid.levels:
        raise ConfigError(f"transfer.level={level}: no level of pyramid.levels={conf.pyramid.levels}")
    if layer not in ("pool", "fc6", "fc7") and conf.features.view == "full":
        raise ConfigError(
            f"transfer.layer={layer}: the maps of full images differ in size and cannot be flattened; use "
            f"features=crop or features=warp, or a layer of vectors (layer=pool)"
        )
    _check_target(conf)


def _check_detection(conf: Conf, detection: DetectionConf) -> None:
    windows = conf.windows
    if isinstance(windows, RcnnWindowsConf):
        if 2 * windows.context >= windows.size:
            raise ConfigError(
                f"windows.context={windows.context}: twice as much does not fit into windows.size="
                f"{windows.size}"
            )
        if conf.mining.duplicate_cells:
            raise ConfigError("mining.duplicate_cells=true: R-CNN's windows have no cells; set it to false")
    elif not conf.pyramid.any_size:
        raise ConfigError("pyramid=none cannot pool windows (§2.3); choose pyramid=bins50 or windows=rcnn")
    elif windows.scale_target == "all" and (conf.mining.duplicate_cells or conf.finetuning.random_scale):
        raise ConfigError(
            "windows.scale_target=all pools at all scales: none is drawn, windows are in no one place; set "
            "finetuning.random_scale=false and mining.duplicate_cells=false"
        )
    _check_learning(conf)
    if conf.target is None or not _has_boxes(conf.target):
        raise ConfigError(
            "detection needs a target with boxes: target=voc2007 (any data set in VOC's layout), "
            "target=shapes_voc, or a class of yours with a method read_boxes"
        )
    _check_target(conf)
    for key, source in (("proposals", conf.proposals), ("test_proposals", conf.test_proposals)):
        for file in _files(source or {}):
            if not Path(file).expanduser().is_file():
                raise DataError(f"{key}.paths: {file}: no such file (looked at {Path(file).absolute()})")
    if conf.ensemble and detection.layer == "time":
        raise ConfigError("detection=time finds nothing that an ensemble could combine; leave ensemble out")
    if not conf.trained and detection.layer in ("fc6", "fc7"):
        _check_head(conf, detection)


def _has_boxes(target: Mapping[str, Any]) -> bool:
    """Whether a target is annotated with boxes: its YAML says so, or its class does."""
    said = target.get("facts", {}).get("has_boxes")
    return hasattr(named_class(target), "read_boxes") if said is None else bool(said)


def _check_learning(conf: Conf) -> None:
    """Refuse contradictions that would be found out only once a network is trained."""
    mining, tuning = conf.mining, conf.finetuning
    is_rcnn = isinstance(conf.windows, RcnnWindowsConf)
    if not mining.evict_below < mining.hard_above:
        raise ConfigError(
            f"mining.evict_below={mining.evict_below} must be below mining.hard_above={mining.hard_above}"
        )
    if tuning.background_overlap >= tuning.positive_overlap:
        raise ConfigError("finetuning.background_overlap must be below finetuning.positive_overlap")
    if round(tuning.positive_share * tuning.batch_size) < 1:
        raise ConfigError("finetuning.positive_share of finetuning.batch_size is not one window; raise them")
    if (tuning.trains == "all") != is_rcnn:
        raise ConfigError(
            f"finetuning.trains={tuning.trains} does not go with windows of {conf.windows.method}: SPP-net's "
            f"convolutions stay as they are (head), R-CNN trains all"
        )
    if tuning.random_scale and is_rcnn:
        raise ConfigError("finetuning.random_scale=true: R-CNN's windows have one size; set it to false")


def _files(source: Mapping[str, Any]) -> Iterator[str]:
    """The files that a source of proposals reads, or those of its parts."""
    paths = source.get("paths", ())
    yield from [paths] if isinstance(paths, str) else paths
    for part in source.get("sources", {}).values():
        yield from _files(part)


def _check_head(conf: Conf, detection: DetectionConf) -> None:
    """Fc layers that were never trained are of no use, unless fine-tuning trains them."""
    if detection.finetuned and not conf.finetuning.fresh:
        raise ConfigError(
            "trained=false: fc layers that were never trained are not fine-tuned from small rates; with "
            "finetuning.fresh=true they begin anew, see experiment=table9_squeezenet"
        )
    if not detection.finetuned:
        raise ConfigError(
            f"detection: {detection.layer} of a network that was never trained; choose "
            f"detection=pool or a fine-tuned layer (detection=ftfc7)"
        )
