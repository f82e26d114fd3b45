"""Keys that only detection reads (§4): type and range, one line each; values stand in conf/."""

from typing import Any, Literal

from sppnet.experiment import ranges as must
from sppnet.experiment.ranges import Record, key, named

Mapping = Literal["centre_inside", "paper", "release"]
Hinge = Literal["squared_hinge", "hinge"]
Trains = Literal["head", "all"]


class ProtocolConf(Record):
    """What the paper and its authors' code do differently (§4); the parts that use these hold them."""

    name: str = key()
    scales: list[int] = key(must.SIDES)
    one_scale: list[int] = key(must.SIDES)
    warped_size: int = key(must.SIDE)
    mapping: Mapping = key()
    scale_target: Literal["paper", "release"] = key()


class SppWindowsConf(Record):
    """Windows pooled from the maps of the image (§4.1)."""

    method: Literal["spp"] = key()
    scales: list[int] = key(must.SIDES)
    mapping: Mapping = key()
    scale_target: Literal["paper", "release", "all"] = key()
    side: int = key(must.SIDE)


class RcnnWindowsConf(Record):
    """Windows that are warped and taken through the whole network (§4.2)."""

    method: Literal["rcnn"] = key()
    size: int = key(must.SIDE)
    context: int = key(must.at_least(0, " pixels"))
    batch_size: int = key(must.COUNT)


class DetectionConf(Record):
    """Which vectors are scored (Table 9)."""

    layer: Literal["pool", "fc6", "fc7", "time"] = key()
    finetuned: bool = key(must.TRUTH)
    moved: bool = key(must.TRUTH)  # by box regression


class OptimizerConf(Record):
    """What optimisers have; torch's have some of these."""

    momentum: float = key(must.SHARE)
    betas: list[float] = key(must.SHARES)
    weight_decay: float = key(must.NATURAL)


class ScheduleConf(Record):
    """When the learning rate falls."""

    factor: float = key(must.BETWEEN)
    fractions: list[float] = key(must.RISING)
    patience: int = key(must.NATURAL)
    drops: int = key(must.NATURAL)


class TaskConf(Record):
    """How a stage learns: a LightningModule, its optimiser and its schedule; tasks have some of these."""

    learning_rate: float = key(must.POSITIVE)
    bias_rate: float = key(must.NATURAL)
    optimizer: dict[str, Any] | None = named(OptimizerConf)
    schedule: dict[str, Any] | None = named(ScheduleConf)


class FinetuningConf(Record):
    """Fine-tuning on windows (§4.1)."""

    num_steps: int = key(must.COUNT)
    learning_rate: float = key(must.POSITIVE)
    drop_at: list[float] = key(must.RISING)
    batch_size: int = key(must.COUNT)
    positive_share: float = key(must.BETWEEN)
    positive_overlap: float = key(must.SOME_OVERLAP)
    background_overlap: float = key(must.OVERLAP)
    flip: bool = key()
    random_scale: bool = key()
    bias_rate: float = key(must.NATURAL)
    fc8_rate: float = key(must.NATURAL)
    fresh: bool = key()
    dropout: float = key(must.SHARE)
    images_per_chunk: int = key(must.COUNT)
    chunk_steps: int = key(must.COUNT)
    chunk_gb: float = key(must.POSITIVE)
    trains: Trains = key()
    task: dict[str, Any] = named(TaskConf)


class MiningConf(Record):
    """SVMs with hard negatives (§4.1)."""

    svm_c: float = key(must.POSITIVE)
    loss: Hinge = key()
    bias_multiplier: float = key(must.NO_BIAS_OR_POSITIVE)
    positive_weight: float = key(must.POSITIVE)
    mean_norm: float = key(must.POSITIVE)
    norm_images: int = key(must.COUNT)
    norm_windows: int = key(must.COUNT)
    negative_overlap: float = key(must.OVERLAP)
    duplicate_overlap: float = key(must.OVERLAP)
    duplicate_cells: bool = key()
    difficult_positives: bool = key()
    hard_above: float = key(must.FINITE)
    evict_below: float = key(must.FINITE)
    retrain_after: int = key(must.NATURAL)
    max_gb: float = key(must.POSITIVE)
    tolerance: float = key(must.BETWEEN)


class BoxesConf(Record):
    """Bounding-box regression (§4.1)."""

    min_overlap: float = key(must.SOME_OVERLAP)
    ridge: float = key(must.POSITIVE)
    max_windows: int = key(must.COUNT)
    mean_norm: float = key(must.POSITIVE)


class SuppressionConf(Record):
    """What is kept of the scored windows."""

    score_above: float = key(must.FINITE)
    max_overlap: float = key(must.OVERLAP)
    max_per_image: int = key(must.COUNT)


class TimingConf(Record):
    """Seconds an image (§4.3)."""

    num_images: int = key(must.COUNT)
    num_warmup: int = key(must.NATURAL)
    max_windows: int = key(must.COUNT)
