"""From the cells of a table to the runs that make them: networks first, what looks at them behind.

A run's directory is named by what decides its result, so cells that share a network point to one run.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sppnet.artifacts import content_key, file_digest
from sppnet.cli.detection_plan import DetectionPlan
from sppnet.cli.plan import ONLY_COLUMN, Cell
from sppnet.cli.validate import validate
from sppnet.errors import ConfigError
from sppnet.run.directory import RunDirectory, identity_key, slug


@dataclass
class PlannedRun:
    """A run to be, and the runs it builds on."""

    name: str
    directory: RunDirectory
    config: dict[str, Any]  # resolved, plain
    choices: list[str]  # overrides that make Hydra compose it
    place: dict[str, Any]  # what the run is told beside them: its stage, its table, what it builds on
    cell: Cell | None  # its place in the table; None for what cells build on
    after: "list[PlannedRun]" = field(default_factory=list)

    @property
    def overrides(self) -> list[str]:
        """What Hydra's launcher starts it with."""
        return [
            *self.choices,
            *(f"cell.{key}={_quoted(value)}" for key, value in self.place.items()),
            f"hydra.sweep.dir={_quoted(str(self.directory.path.parent))}",
            f"hydra.sweep.subdir={_quoted(self.directory.path.name)}",
        ]


def in_order(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """The runs that are not complete, each once, behind all it builds on."""
    ordered: dict[Path, PlannedRun] = {}
    for run in runs:
        if not run.directory.is_complete:
            before = {one.directory.path: one for one in in_order(run.after)}
            ordered = {**ordered, **before, run.directory.path: run}
    return list(ordered.values())


def waves(pending: Sequence[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs that can go at once, then those that build on them, and so on."""
    waves: list[list[PlannedRun]] = []
    left = list(pending)
    while left:
        waiting = {run.directory.path for run in left}
        waves.append([run for run in left if not any(one.directory.path in waiting for one in run.after)])
        left = [run for run in left if run not in waves[-1]]
    return waves


class Planner:
    """Composes the configuration of every run, and checks it, before the first one starts.

    Args:
        compose: From overrides to a configuration; Hydra's.
        repeats: The key over whose values cells repeat.
    """

    def __init__(self, compose: Callable[[Sequence[str]], DictConfig], *, repeats: str) -> None:
        self._compose = compose
        self._repeats = repeats
        self._composed: dict[tuple[str, ...], DictConfig] = {}  # by overrides, but for `repeats`
        self._digests: dict[Path, str] = {}
        self._layers: dict[Path, list[str]] = {}  # of every directory of features, filled cell by cell

    def cell(self, cell: Cell, *, labels: Mapping[str, str], group: str) -> PlannedRun:
        """Plan one cell of the table with all that it builds on."""
        names = [labels.get(name, name) for name in (cell.row, cell.column) if name != ONLY_COLUMN]
        label = " · ".join(names)
        place = {"row": cell.row, "column": cell.column, "repeat": cell.seed, "group": group, "label": label}
        run = self._evaluation(cell.overrides, lambda config: run_directory(config, cell), place)
        run.cell, run.name = cell, f"{label}, {self._repeats} {cell.seed}"
        return run

    def _evaluation(
        self,
        overrides: list[str],
        directory_of: Callable[[dict[str, Any]], RunDirectory] | None,
        place: dict[str, Any],
    ) -> PlannedRun:
        """Plan the test of one network, or of an ensemble of several."""
        composed = self._repeated(overrides)
        config = resolved(composed)
        validate(config)
        built_on: dict[str, Any]
        if config["detection"] is not None and not config["ensemble"]:
            plan = DetectionPlan(self, overrides, composed, config)
            after, built_on = plan.cell()
            place = {**place, "stage": plan.stage}
        elif config["transfer"] is not None and not config["detection"]:
            after = self._features(overrides, composed, config)
            place = {**place, "stage": "transfer"}
            built_on = {"network": str(after[0].directory.path)}
        elif config["ensemble"]:
            after = [
                self._evaluation([*overrides, *member, "ensemble=[]"], None, {})
                for member in config["ensemble"]
            ]
            place = {**place, "stage": "combination" if config["detection"] else "ensemble"}
            built_on = {"members": [str(member.directory.path) for member in after]}
        else:
            after = [self.network(overrides, composed, config)]
            built_on = {"network": str(after[0].directory.path)}
        named_by = self.with_digest(config)
        if directory_of is None:
            directory = evaluation_directory(named_by, after[0].directory)
        else:
            directory = directory_of(named_by)
        name = f"evaluation of {directory.path.name}"
        return self.planned(name, directory, config, overrides, {"label": name, **place, **built_on}, after)

    def _repeated(self, overrides: list[str]) -> DictConfig:
        """Compose a configuration; cells that differ in the repeated key only are composed once.

        Composing takes a sixth of a second, and a table of ten splits has hundreds of cells. What
        refers to the key is resolved later, so that it follows.
        """
        key, equals = self._repeats, f"{self._repeats}="
        shared = tuple(override for override in overrides if not override.startswith(equals))
        if shared not in self._composed:
            self._composed[shared] = self._compose(shared)
        config = copy.deepcopy(self._composed[shared])
        for override in overrides:
            if override.startswith(equals):
                OmegaConf.update(config, key, int(override.removeprefix(equals)))
        return config

    def _features(
        self, overrides: list[str], composed: DictConfig, config: dict[str, Any]
    ) -> list[PlannedRun]:
        """Plan the network of a transfer cell, and its features of the target's images.

        Cells that want different layers of the same images share one run that computes them together.
        """
        network = self.network(overrides, composed, config)
        extracted = {**config, "cell": {**config["cell"], "stage": "features"}}
        directory = features_directory(self.with_digest(extracted), network.directory)
        name = f"features {directory.path.name.rpartition('-')[0]}"
        layers = self._layers.setdefault(directory.path, [])
        if (layer := config["transfer"]["layer"]) not in layers:
            layers.append(layer)
        place = {"label": name, "stage": "features", "network": str(network.directory.path), "layers": layers}
        return [network, self.planned(name, directory, extracted, overrides, place, [network])]

    def network(self, overrides: list[str], composed: DictConfig, config: dict[str, Any]) -> PlannedRun:
        """Plan the training of a cell's network."""
        trained = {**self.with_digest(config), "cell": {**config["cell"], "stage": "network"}}
        choices = OmegaConf.to_container(composed.hydra.runtime.choices)
        directory = network_directory(trained, choices)  # type: ignore[arg-type]
        name = f"network {directory.path.name.rpartition('-')[0]}"
        return self.planned(name, directory, config, overrides, {"label": name, "stage": "network"}, [])

    def with_digest(self, config: dict[str, Any]) -> dict[str, Any]:
        """Name files of weights and of proposals by content: others under the same name make other runs."""
        named = {part: self._digested(config[part]) for part in ("proposals", "test_proposals")}
        backbone = {**config["backbone"], "weights": self._digest(config["backbone"].get("weights"))}
        return {**config, **named, "backbone": backbone if backbone["weights"] else config["backbone"]}

    def _digested(self, part: Any) -> Any:
        """A part of a configuration, every file in it by its content."""
        if isinstance(part, dict):
            return {key: self._digested(value) for key, value in part.items()}
        if isinstance(part, list):
            return [self._digested(value) for value in part]
        return self._digest(part) if isinstance(part, str) else part

    def _digest(self, text: str | None) -> str | None:
        """The digest of a file; what is no file's path stays as it is."""
        if text is None or not Path(text).is_file():
            return text
        file = Path(text)
        self._digests[file] = self._digests.get(file) or file_digest(file)
        return self._digests[file]

    def planned(
        self,
        name: str,
        directory: RunDirectory,
        config: dict[str, Any],
        overrides: list[str],
        place: dict[str, Any],
        after: list[PlannedRun],
    ) -> PlannedRun:
        """Make a run of what was planned."""
        config = {**config, "cell": {**config["cell"], **place}}
        return PlannedRun(name, directory, config, overrides, place, None, after)


def built_on(runs: Iterable[PlannedRun]) -> Iterator[PlannedRun]:
    """All networks, features and members that runs build on, directly or through others."""
    for run in runs:
        yield from run.after
        yield from built_on(run.after)


def check_all_differ(cells: Sequence[PlannedRun]) -> None:
    """Refuse a sweep in which two cells are one and the same run.

    Raises:
        ConfigError: Names the two cells.
    """
    first: dict[str, PlannedRun] = {}
    for cell in cells:
        key = cell.directory.path.name.rpartition("-")[2]
        if key in first:
            raise ConfigError(
                f"the cells {first[key].name} and {cell.name} have the same configuration: a value on the "
                f"command line overrides what makes them differ"
            )
        first[key] = cell


def run_directory(config: Mapping[str, Any], cell: Cell) -> RunDirectory:
    """Where a cell with this resolved configuration runs: a readable name and its identity."""
    name = f"{slug(f'{cell.row}-{cell.column}')}-seed{cell.seed}-{identity_key(config)}"
    return RunDirectory(Path(config["paths"]["runs"]) / config["table"]["name"] / name)


def network_directory(config: Mapping[str, Any], choices: Mapping[str, str]) -> RunDirectory:
    """Where the network of this resolved configuration is trained: `runs/networks/<name>-<hash>`.

    Args:
        config: With `cell.stage` "network", so that only what decides its weights decides its name.
        choices: From groups to the options that are chosen, for a readable name.
    """
    name = "-".join(choices[group] for group in ("data", "backbone", "pyramid", "train_sizes"))
    name = f"{slug(name)}-seed{config['seed']}-{identity_key(config)}"
    return RunDirectory(Path(config["paths"]["runs"]) / "networks" / name)


def features_directory(config: Mapping[str, Any], network: RunDirectory) -> RunDirectory:
    """Where it is said that the features of a network are kept: `runs/features/<network>-<view>-<hash>`."""
    readable, _, digest = network.path.name.rpartition("-")
    view = f"{slug(config['target']['name'])}-{config['features']['view']}{config['features']['short_side']}"
    key = content_key([identity_key(config), digest])[:8]
    return RunDirectory(Path(config["paths"]["runs"]) / "features" / f"{readable}-{view}-{key}")


def evaluation_directory(config: Mapping[str, Any], network: RunDirectory) -> RunDirectory:
    """Where a network is evaluated for an ensemble: `runs/evaluations/<network>-<hash>`."""
    readable = network.path.name.rpartition("-")[0]
    return RunDirectory(Path(config["paths"]["runs"]) / "evaluations" / f"{readable}-{identity_key(config)}")


def resolved(config: DictConfig) -> dict[str, Any]:
    """A configuration as plain containers, without Hydra's own part."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    container = OmegaConf.to_container(plain, resolve=True, enum_to_str=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _quoted(value: int | str | Sequence[str]) -> str:
    """A number, a string or a list of them, as Hydra's override grammar takes it, whatever is in it."""
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        return f"[{','.join(_quoted(text) for text in value)}]"
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
