"""Every key of the configuration: its type and its range, one line each; its value stands in conf/.

A key that is not here, in conf/ or in a part's own file is a typo and stops the command. The records are also
what stages are given (reading.py): a stage sees the keys that its row declares, and no other.
"""

import dataclasses
import functools
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sppnet.experiment import detection_schema as detecting
from sppnet.experiment import ranges as must
from sppnet.experiment.detection_schema import Hinge
from sppnet.experiment.ranges import Record, key, named, part


class ImageConf(Record):
    """Sides in pixels."""

    short_side: int = key(must.SIDE)
    size: int = key(must.PIXELS)
    small_size: int = key(must.PIXELS)
    object_short_side: int = key(must.SIDE)
    test_sides: list[int] = key(must.SIDES)
    curve_sides: list[int] = key(must.SIDES)
    transfer_side: int = key(must.SIDE)
    transfer_side_overfeat7: int = key(must.SIDE)


class HeadConf(Record):
    """The fc layers."""

    width: int = key(must.COUNT)
    dropout: float = key(must.SHARE)


class PyramidConf(Record):
    """Grids that maps are pooled to (§2.2)."""

    levels: list[int] = key(must.LEVELS)
    pooling: Literal["bins", "sliding"] = key()
    any_size: bool = key()  # whether the network takes images of any size (§2.3)


class TrainSizesConf(Record):
    """Sides of the regions that a network is trained on (§2.3.2); ways to train have some of these."""

    sizes: list[int] = key(must.SIDES)
    low: int = key(must.SIDE)
    high: int = key(must.SIDE)


class TrainingConf(Record):
    """Of a network, as a classifier."""

    trains: detecting.Trains = key()
    epochs: int = key(must.COUNT)
    batch_size: int = key(must.BATCH)
    learning_rate: float = key(must.POSITIVE)
    bias_rate: float = key(must.NATURAL)


class DataLoadingConf(Record):
    """Speed and safety of reading; never the result."""

    workers: int = key(must.WORKERS)
    cache_gb: float = key(must.NATURAL)
    max_pixels: int = key(must.COUNT)
    keep_maps: bool = key()


class TransferConf(Record):
    """SVMs on frozen features (§3.2, §3.3)."""

    layer: str = key()
    level: int | None = key(must.COUNT_OR_NONE)
    measure: Literal["average_precision", "accuracy"] | None = key()  # the target says
    per_class: int | None = key(must.COUNT_OR_NONE)
    test_per_class: int | None = key(must.COUNT_OR_NONE)
    val_fraction: float = key(must.SHARE)
    svm_c: list[float] = key(must.POSITIVES)
    patience: int = key(must.COUNT)
    loss: Hinge = key()
    bias_multiplier: float = key(must.NO_BIAS_OR_POSITIVE)
    positive_weight: float = key(must.POSITIVE)
    tolerance: float = key(must.BETWEEN)
    task: dict[str, Any] = named(detecting.TaskConf)


class FeaturesConf(Record):
    """How images become the vectors that SVMs are trained on (§3.2)."""

    view: Literal["crop", "full", "warp"] = key()
    short_side: int = key(must.SIDE)
    crop: int = key(must.SIDE)


class ViewConf(Record):
    """How a network is shown a test image (§3.1); views have some of these."""

    short_side: int = key(must.SIDE)
    full_short_side: int | None = key(must.SIDE_OR_NONE)
    test_sides: list[int] = key(must.SIDES)
    size: int = key(must.SIDE)
    flip: bool = key(must.TRUTH)
    mapping: Literal["centre_inside", "paper", "release", "restricted"] = key()


class DataConf(Record):
    """Labelled images (§3.1); data sets have some of these."""

    reader: dict[str, Any] = named()
    per_class: int | None = key(must.COUNT_OR_NONE)
    test_per_class: int | None = key(must.COUNT_OR_NONE)
    train_crop: Literal["random", "five"] = key()
    mean_images: int | None = key(must.COUNT_OR_NONE)
    split_seed: int = key(must.WHOLE)
    val_fraction: float = key(must.SHARE)
    batch_size: int = key(must.COUNT)
    workers: int = key(must.NATURAL, role="eases")
    cache_gb: float = key(must.NATURAL, role="eases")
    max_pixels: int = key(must.COUNT, role="eases")


class TrainerConf(Record):
    """Where and how training runs."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = key()
    devices: int = key(must.ONE_DEVICE, role="eases")
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = key()
    threads: int | None = key(must.THREADS, role="eases")
    keep_memory: bool = key(role="eases")
    checkpoint_minutes: float = key(must.NATURAL, role="eases")
    every_steps: int = key(must.COUNT, role="eases")


class PathsConf(Record):
    """Where things are written, and where the data sets to transfer to are."""

    runs: str = key()
    cache: str = key()
    data: str | None = key(default=None)
    weights: str | None = key(default=None)
    det: str | None = key(default=None)
    cls: str | None = key(default=None)


class LearnedConf(Record):
    """What a network must have come to before a claim is decided by it, in percent."""

    error: float = key(must.NATURAL)  # of the training images, at most
    fall: float = key(must.NATURAL)  # of the training loss over the last tenth of the epochs, at most


class TableConf(Record):
    """A table's axes, layout, the paper's numbers and its claims."""

    name: str = key(must.FOLDER)
    title: str = key()
    axes: dict[str, Any] = key(must.AXES, default={})
    rows: str | None = key(default=None)
    columns: str | None = key(default=None)
    curve: str | None = key(default=None)
    per_class: str | None = key(default=None)
    paper_per_class: dict[str, Any] = key(default={})
    repeats: Literal["seed", "split"] = key()
    skip: list[Any] = key(must.SKIP, default=[])
    labels: dict[str, str] = key(default={})
    metrics: list[Any] = key(must.METRICS, default=[])
    measures: dict[str, list[Any]] = key(default={})
    paper: dict[str, Any] = key(default={})
    paper_data: list[str] = key(default=[])
    others: list[Any] = key(default=[])
    claims: list[Any] = key(default=[])
    learned: LearnedConf = part(LearnedConf)


class Conf(Record):
    """The root of every configuration."""

    seed: int = key(must.SEED)
    split: int = key(must.WHOLE)
    width: float = key(must.WIDTH)
    trained: bool = key()
    data: dict[str, Any] = named(DataConf)
    backbone: dict[str, Any] = named()
    pyramid: PyramidConf = part(PyramidConf)
    head: HeadConf = part(HeadConf)
    input_norm: dict[str, Any] = named()
    init: dict[str, Any] = named()
    train_sizes: dict[str, Any] = named(TrainSizesConf)
    image: ImageConf = part(ImageConf)
    training: TrainingConf = part(TrainingConf)
    schedule: dict[str, Any] = named(detecting.ScheduleConf)
    task: dict[str, Any] = named(detecting.TaskConf)
    view: dict[str, Any] = named(ViewConf)
    ensemble: list[Any] = key(default=[], role="sweep")  # members are runs that a cell stands on
    target: dict[str, Any] | None = named()
    target_mean: float | None = key(must.GREY_OR_NONE)
    features: FeaturesConf = part(FeaturesConf)
    transfer: TransferConf | None = named(TransferConf)
    protocol: detecting.ProtocolConf = part(detecting.ProtocolConf)
    proposals: dict[str, Any] = named()
    test_proposals: dict[str, Any] | None = key(default=None)
    windows: detecting.SppWindowsConf | detecting.RcnnWindowsConf = named(
        detecting.SppWindowsConf, detecting.RcnnWindowsConf
    )
    detection: detecting.DetectionConf | None = named(detecting.DetectionConf)
    mining: detecting.MiningConf = part(detecting.MiningConf)
    boxes: detecting.BoxesConf = part(detecting.BoxesConf)
    suppression: detecting.SuppressionConf = part(detecting.SuppressionConf)
    finetuning: detecting.FinetuningConf = part(detecting.FinetuningConf)
    timing: detecting.TimingConf = part(detecting.TimingConf)
    trainer: TrainerConf = part(TrainerConf)
    data_loading: DataLoadingConf = part(DataLoadingConf, role="eases")
    paths: PathsConf = part(PathsConf, role="eases")
    logger: dict[str, Any] = named(role="eases")
    preset: str = key(role="sweep")
    reduced: dict[str, str] = key(default={}, role="sweep")
    table: TableConf = part(TableConf, role="sweep")
    progress: bool = key(default=True, role="sweep")
    jobs: int = key(must.Rule(lambda value: value >= 0, "0 (one per core) or more"), role="sweep")
    plan: bool | str = key(must.PLAN, default=False, role="sweep")
    stale: Literal["keep", "rerun"] = key(role="sweep")
    allow_targets: list[str] = key(default=[], role="sweep")  # making.py
    run_directory: str = key(default="", role="sweep")  # of a launcher's job; the sweep says it


@functools.cache
def for_hydra(record: type) -> type:
    """The record as OmegaConf takes it: it knows no parts that name their own class, and no Literal."""
    types, fields = get_type_hints(record), []
    for one in dataclasses.fields(record):
        kind: Any = types[one.name]
        default: Any = one.default_factory
        if dataclasses.is_dataclass(kind):
            kind = default = for_hydra(kind)  # type: ignore[arg-type]
        elif get_origin(kind) is Literal:
            kind = type(get_args(kind)[0])
        elif "records" in one.metadata or "dict" in str(kind):
            kind = Any
        fields.append((one.name, kind, dataclasses.field(default_factory=default)))
    return dataclasses.make_dataclass(record.__name__, fields)
