"""Types of the configuration; its values stand in conf/.

A key that is not here, in conf/ or in a part's own file is a typo and stops the command.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


@dataclass
class ImageConf:
    """Sides in pixels."""

    short_side: int = MISSING
    size: int = MISSING
    small_size: int = MISSING
    object_short_side: int = MISSING
    test_sides: list[int] = MISSING
    curve_sides: list[int] = MISSING
    transfer_side: int = MISSING
    transfer_side_overfeat7: int = MISSING


@dataclass
class HeadConf:
    """The fc layers."""

    width: int = MISSING
    dropout: float = MISSING


@dataclass
class TrainingConf:
    """Momentum SGD."""

    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    bias_rate: float = MISSING


@dataclass
class DataLoadingConf:
    """Speed and safety of reading; never the result."""

    workers: int = MISSING
    cache_gb: float = MISSING
    max_pixels: int = MISSING
    keep_maps: bool = MISSING


@dataclass
class ProtocolConf:
    """What the paper and its authors' code do differently (§4)."""

    name: str = MISSING
    scales: list[int] = MISSING
    one_scale: list[int] = MISSING
    warped_size: int = MISSING
    mapping: str = MISSING
    scale_target: str = MISSING


@dataclass
class MiningConf:
    """SVMs with hard negatives (§4.1)."""

    svm_c: float = MISSING
    loss: str = MISSING
    bias_multiplier: float = MISSING
    positive_weight: float = MISSING
    mean_norm: float = MISSING
    norm_images: int = MISSING
    norm_windows: int = MISSING
    negative_overlap: float = MISSING
    duplicate_overlap: float = MISSING
    duplicate_cells: bool = MISSING
    difficult_positives: bool = MISSING
    hard_above: float = MISSING
    evict_below: float = MISSING
    retrain_after: int = MISSING
    max_gb: float = MISSING
    tolerance: float = MISSING


@dataclass
class BoxesConf:
    """Bounding-box regression (§4.1)."""

    min_overlap: float = MISSING
    ridge: float = MISSING
    max_windows: int = MISSING
    mean_norm: float = MISSING


@dataclass
class SuppressionConf:
    """What is kept of the scored windows."""

    score_above: float = MISSING
    max_overlap: float = MISSING
    max_per_image: int = MISSING


@dataclass
class FinetuningConf:
    """Fine-tuning on windows (§4.1)."""

    num_steps: int = MISSING
    learning_rate: float = MISSING
    drop_at: list[float] = MISSING
    batch_size: int = MISSING
    positive_share: float = MISSING
    positive_overlap: float = MISSING
    background_overlap: float = MISSING
    flip: bool = MISSING
    random_scale: bool = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    bias_rate: float = MISSING
    fc8_rate: float = MISSING
    fresh: bool = MISSING
    dropout: float = MISSING
    images_per_chunk: int = MISSING
    chunk_steps: int = MISSING
    chunk_gb: float = MISSING
    trains: str = MISSING


@dataclass
class TimingConf:
    """Seconds an image (§4.3)."""

    num_images: int = MISSING
    num_warmup: int = MISSING
    max_windows: int = MISSING


@dataclass
class TrainerConf:
    """Where and how training runs."""

    accelerator: str = MISSING
    devices: int = MISSING
    precision: str = MISSING
    threads: int | None = None
    keep_memory: bool = MISSING
    checkpoint_minutes: float = MISSING
    every_steps: int = MISSING


@dataclass
class PathsConf:
    """Where things are written, and where the data sets to transfer to are."""

    runs: str = MISSING
    cache: str = MISSING
    data: str | None = None
    weights: str | None = None
    det: str | None = None
    cls: str | None = None


@dataclass
class FeaturesConf:
    """How images become the vectors that SVMs are trained on (§3.2)."""

    view: str = MISSING
    short_side: int = MISSING
    crop: int = MISSING


@dataclass
class CellConf:
    """A run's place in its table; filled in by the sweep."""

    stage: str = "evaluation"
    network: str = ""
    members: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    machines: str = ""
    regressors: str = ""
    image_set: str = ""
    scale: int = 0
    is_mirrored: bool = False
    row: str = ""
    repeat: int = 0
    column: str = ""
    group: str = ""
    label: str = ""
    position: int = 1
    total: int = 1


@dataclass
class TableConf:
    """A table's axes, layout, the paper's numbers and its claims."""

    name: str = MISSING
    title: str = MISSING
    axes: dict[str, Any] = field(default_factory=dict)
    rows: str | None = None
    columns: str | None = None
    curve: str | None = None
    per_class: str | None = None
    repeats: str = MISSING
    skip: list[Any] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    metrics: list[Any] = field(default_factory=list)
    paper: dict[str, Any] = field(default_factory=dict)
    others: list[Any] = field(default_factory=list)
    claims: list[Any] = field(default_factory=list)


@dataclass
class Conf:
    """The root of every configuration. `Any` marks a part that names its own class with `_target_`."""

    seed: int = MISSING
    preset: str = MISSING
    reduced: list[str] = field(default_factory=list)
    reduced_detection: list[str] = field(default_factory=list)
    width: float = MISSING
    progress: bool = True
    jobs: int = MISSING
    image: ImageConf = field(default_factory=ImageConf)
    head: HeadConf = field(default_factory=HeadConf)
    training: TrainingConf = field(default_factory=TrainingConf)
    data_loading: DataLoadingConf = field(default_factory=DataLoadingConf)
    trainer: TrainerConf = field(default_factory=TrainerConf)
    paths: PathsConf = field(default_factory=PathsConf)
    cell: CellConf = field(default_factory=CellConf)
    table: TableConf = field(default_factory=TableConf)
    ensemble: list[Any] = field(default_factory=list)
    split: int = MISSING
    trained: bool = MISSING
    features: FeaturesConf = field(default_factory=FeaturesConf)
    target: Any = MISSING
    transfer: Any = MISSING
    proposals: Any = MISSING
    test_proposals: Any = None
    windows: Any = MISSING
    detection: Any = MISSING
    protocol: ProtocolConf = field(default_factory=ProtocolConf)
    mining: MiningConf = field(default_factory=MiningConf)
    boxes: BoxesConf = field(default_factory=BoxesConf)
    suppression: SuppressionConf = field(default_factory=SuppressionConf)
    finetuning: FinetuningConf = field(default_factory=FinetuningConf)
    timing: TimingConf = field(default_factory=TimingConf)
    input_norm: Any = MISSING
    backbone: Any = MISSING
    pyramid: Any = MISSING
    train_sizes: Any = MISSING
    view: Any = MISSING
    data: Any = MISSING
    init: Any = MISSING
    schedule: Any = MISSING
    task: Any = MISSING
    logger: Any = MISSING


def register_schema() -> None:
    """Make the schema known to Hydra, first in config.yaml's defaults."""
    ConfigStore.instance().store(name="schema", node=Conf)
