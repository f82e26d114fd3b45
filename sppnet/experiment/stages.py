"""The pipeline as data: what each stage does, where it is kept, what it reads, and which runs it stands on.

Everything else follows from a row: a run's key is made of what its stage reads and of the keys below it, its
directory of the folder and the name, the order of a cell's runs of what they stand on. A stage is given what
its row declares and nothing else: what it cannot see cannot be missing from its key, and what it does not
read cannot change it. To add a stage: write one function that takes a `Take` and returns an `Outcome`, and
add its row.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sppnet.experiment.classification_stages import average, begin, evaluate, train
from sppnet.experiment.detection_timing import measure_seconds
from sppnet.experiment.detector_testing import combine, find
from sppnet.experiment.detector_training import compute_maps, mine, propose, regress
from sppnet.experiment.schema import Conf
from sppnet.experiment.take import Outcome, Take
from sppnet.experiment.transfer_stages import extract_features, transfer
from sppnet.experiment.window_finetuning import finetune

TABLE: Final = ""  # kept in the folder of the run's table
Condition = Callable[[Conf], bool]


class Need(NamedTuple):
    """A run that another one stands on.

    Attributes:
        stage: Its row.
        role: What it is to the other, which is given its directory and whose key holds its key; empty of what
            only has to be there before (its results are found by their content).
        image_set: Which images it looks at, of a stage that looks at one set.
        is_mirrored: Whether they are mirrored.
        when: Whether a configuration needs it.
    """

    stage: str
    role: str = ""
    image_set: str = ""
    is_mirrored: bool = False
    when: Condition = lambda conf: True


class Stage(NamedTuple):
    """A row.

    Attributes:
        does: Its work.
        kept_in: Folder of `paths.runs`.
        name: Of its directory, from the words that plan.py knows; `{network}` is that of the network below.
        reads: Keys, "mining" or "mining.mean_norm"; with a minus what a part is given without. What never
            decides a result (schema.py) every stage is given; it counts for the key where it is named here.
        stands_on: Other runs.
        each: One run for each of these scales.
        is_alone: Whether nothing may run beside it on the machine: it looks at the clock.
        is_threaded: Whether torch has all threads; otherwise several images are worked on, each on one.
    """

    does: Callable[[Take], Outcome]
    kept_in: str
    name: str
    reads: tuple[str, ...]
    stands_on: tuple[Need, ...] = ()
    each: Callable[[Conf], Sequence[int]] | None = None
    is_alone: bool = False
    is_threaded: bool = True


def _is_spp(conf: Conf) -> bool:
    return conf.windows.method == "spp"


def _keeps_maps(conf: Conf) -> bool:
    return _is_spp(conf) and conf.data_loading.keep_maps


def _is_finetuned(conf: Conf) -> bool:
    return conf.detection is not None and conf.detection.finetuned


def _moves(conf: Conf) -> bool:
    return conf.detection is not None and conf.detection.moved


def _scales(conf: Conf) -> Sequence[int]:
    return [] if conf.windows.method == "rcnn" else conf.windows.scales


def _network(when: Condition = lambda conf: True) -> tuple[Need, ...]:
    """The network, trained or as it begins."""
    return (
        Need("network", "network", when=lambda conf: when(conf) and conf.trained),
        Need("untrained", "network", when=lambda conf: when(conf) and not conf.trained),
    )


def _windows_in(image_set: str) -> tuple[Need, ...]:
    """Where windows are, and what they are pooled from."""
    return (Need("proposals", image_set=image_set), Need("maps", image_set=image_set, when=_keeps_maps))


_FROZEN: Final = (
    Need("finetuning", "network", when=_is_finetuned),
    *_network(lambda conf: not _is_finetuned(conf)),
)
# Fine-tuning leaves the convolutions of SPP-net, and so what is pooled, as they were; not those of R-CNN.
_POOLED: Final = (
    Need("finetuning", "network", when=lambda conf: _is_finetuned(conf) and not _is_spp(conf)),
    *_network(lambda conf: not _is_finetuned(conf) or _is_spp(conf)),
)
_MEMBERS: Final = (Need("member", "members"),)  # cells of other configurations: the `ensemble` lists them

_NETWORK: Final = (
    *("seed", "data", "-data.test_per_class", "backbone", "pyramid", "head", "input_norm", "init"),
    *("train_sizes", "image.size"),
)
_TRAINING: Final = ("training.epochs", "training.trains", "task")
_DEVICE: Final = ("trainer.accelerator",)
_LIGHTNING: Final = (*_DEVICE, "trainer.precision")
_SHOWN: Final = ("target", "target_mean")  # images of a target as a network gets them
_WINDOWS: Final = (*_SHOWN, "proposals", "windows")
_NORM: Final = ("mining.norm_images", "mining.norm_windows")
_NAMED: Final = "{data}-{backbone}-{pyramid}-{train_sizes}-seed{seed}"

# fmt: off
STAGES: Final = {
    "network": Stage(train, "networks", _NAMED, (*_NETWORK, *_TRAINING, *_LIGHTNING)),
    "untrained": Stage(begin, "networks", _NAMED, _NETWORK),
    "evaluation": Stage(evaluate, TABLE, "{cell}", ("seed", "data", "view", *_LIGHTNING), _network()),
    "ensemble": Stage(average, TABLE, "{cell}", (), _MEMBERS),

    "features": Stage(
        extract_features, "features", "{network}-{target}-{view}{view_side}",
        (*_SHOWN, "features", *_DEVICE), _network()),
    "transfer": Stage(
        transfer, TABLE, "{cell}", ("seed", "split", *_SHOWN, "features", "transfer", *_LIGHTNING),
        (*_network(), Need("features"))),

    "proposals": Stage(
        propose, "proposals", "{target}-{image_set}-{proposals}", ("target", "proposals"), is_threaded=False),
    "maps": Stage(
        compute_maps, "maps", "{network}-{target}-{image_set}-{scale}", (*_SHOWN, *_DEVICE), _network(),
        each=_scales, is_threaded=False),
    "finetuning": Stage(
        finetune, "networks", "{network}-finetuned",
        ("seed", *_WINDOWS, "finetuning", "mining.mean_norm", *_NORM, *_LIGHTNING),
        (*_network(), *_windows_in("trainval"),
         Need("maps", image_set="trainval", is_mirrored=True,
              when=lambda conf: _keeps_maps(conf) and conf.finetuning.flip))),
    "machines": Stage(
        mine, "detectors", "{network}-{layer}", (*_WINDOWS, "mining", "detection.layer", *_DEVICE),
        (*_FROZEN, *_windows_in("trainval")), is_threaded=False),
    "regressors": Stage(
        regress, "detectors", "{network}-boxes", ("seed", *_WINDOWS, "boxes", *_NORM, *_DEVICE),
        (*_POOLED, *_windows_in("trainval")), is_threaded=False),
    "detection": Stage(
        find, TABLE, "{cell}", (*_WINDOWS, "detection", "suppression", *_DEVICE),
        (*_FROZEN, Need("machines", "machines"), *_windows_in("test"),
         Need("regressors", "regressors", when=_moves)), is_threaded=False),
    "combination": Stage(
        combine, TABLE, "{cell}", ("target", "suppression", *_DEVICE), _MEMBERS, is_threaded=False),
    "timing": Stage(
        measure_seconds, TABLE, "{cell}", ("seed", *_WINDOWS, "timing", "trainer.threads", *_DEVICE),
        (*_network(), Need("proposals", image_set="test")), is_alone=True),
}
# fmt: on

# Cells that one table may have, and so are described together.
_FAMILIES: Final = (("evaluation", "ensemble"), ("transfer",), ("detection", "combination", "timing"))


def stage_of_cell(conf: Conf) -> str:
    """What a cell with this configuration does itself."""
    if conf.detection is not None:
        if conf.ensemble:
            return "combination"
        return "timing" if conf.detection.layer == "time" else "detection"
    if conf.ensemble:
        return "ensemble"
    return "transfer" if conf.transfer is not None else "evaluation"


def read_by_tables_of(stage: str) -> set[str]:
    """What the cells of a table that has this stage's read, with all that they may stand on."""
    waiting = [name for family in _FAMILIES if stage in family for name in family] or [stage]
    known: set[str] = set()
    while waiting:
        if (name := waiting.pop()) not in known and name in STAGES:
            known.add(name)
            waiting += [need.stage for need in STAGES[name].stands_on]
    return {key for name in known for key in STAGES[name].reads if not key.startswith("-")}
