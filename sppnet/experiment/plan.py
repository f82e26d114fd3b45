"""From the cells of a table to the runs that make them, each behind all that it stands on.

A run's directory is named by what decides its result, so cells that share a network point to one run.
"""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from sppnet.artifacts import content_key
from sppnet.errors import ConfigError
from sppnet.experiment.checks import check
from sppnet.experiment.compose import allowed, plain_of
from sppnet.experiment.contents import Contents
from sppnet.experiment.installation import command_line, device_of
from sppnet.experiment.layout import ONLY_COLUMN, Cell
from sppnet.experiment.reading import deciding, narrowed, read_conf
from sppnet.experiment.schema import Conf
from sppnet.experiment.stages import STAGES, TABLE, Need, stage_of_cell
from sppnet.experiment.take import RunPlan
from sppnet.run.directory import RunDirectory, slug


@dataclass
class PlannedRun:
    """A run to be, and the runs it stands on.

    Attributes:
        plan: What it is.
        directory: Where it is kept.
        given: What its stage is given of the configuration, plain.
        identity: What its key is made of.
        after: Runs that have to be complete before.
        conf: All of the configuration that it was first planned for.
        cell: Its place in the table; None of what cells stand on.
    """

    plan: RunPlan
    directory: RunDirectory
    given: dict[str, Any]
    identity: dict[str, Any]
    after: "list[PlannedRun]"
    conf: Conf
    cell: Cell | None = None

    @property
    def config(self) -> dict[str, Any]:
        """All that a take of it needs: `config.yaml`."""
        return {"run": asdict(self.plan), "identity": self.identity, **self.given}

    @property
    def place(self) -> str:
        """Its directory from `paths.runs` on: networks/<name>."""
        return f"{self.directory.path.parent.name}/{self.directory.path.name}"


class _Composed(NamedTuple):
    """A cell's configuration."""

    conf: Conf
    plain: dict[str, Any]
    choices: Mapping[str, str]  # from groups to the options that are chosen
    overrides: list[str]


@dataclass
class Planner:
    """Composes the configuration of every run, and checks it, before the first one starts.

    Args:
        compose: From overrides to a configuration; Hydra's.
        repeats: The key over whose values cells repeat.
        contents: What files and folders hold.
    """

    compose: Callable[[Sequence[str]], DictConfig]
    repeats: str
    contents: Contents
    _composed: dict[tuple[str, ...], DictConfig] = field(default_factory=dict)  # by overrides but `repeats`
    _planned: dict[Path, PlannedRun] = field(default_factory=dict)

    def cell(self, cell: Cell, *, labels: Mapping[str, str]) -> PlannedRun:
        """Plan one cell of the table with all that it stands on.

        Raises:
            ConfigError: It could not run.
            DataError: What it looks at is not there.
        """
        names = [labels.get(name, name) for name in (cell.row, cell.column) if name != ONLY_COLUMN]
        label = f"{' · '.join(names)}, {self.repeats} {cell.repeat}"
        name = f"{slug(f'{cell.row}-{cell.column}')}-{self.repeats}{cell.repeat}"
        composed = self._read(cell.overrides)
        run = self._run(composed, Need(stage_of_cell(composed.conf)), name=name, label=label)
        run.cell = cell
        return run

    def composed(self, overrides: Sequence[str]) -> DictConfig:
        """Compose a configuration; those that differ in the repeated key only are composed once.

        Composing takes a tenth of a second, and a table of ten splits has hundreds of cells. What
        refers to the key is resolved later, so that it follows.
        """
        equals = f"{self.repeats}="
        shared = tuple(override for override in overrides if not override.startswith(equals))
        if shared not in self._composed:
            self._composed[shared] = self.compose(shared)
        config = self._composed[shared]
        for override in overrides:
            if override.startswith(equals):
                config = copy.deepcopy(config)
                OmegaConf.update(config, self.repeats, int(override.removeprefix(equals)))
        return config

    def _read(self, overrides: list[str]) -> _Composed:
        composed = self.composed(overrides)
        plain = allowed(plain_of(composed))
        # Where `auto` leads is what counts.
        plain["trainer"]["accelerator"] = device_of(plain["trainer"]["accelerator"])
        conf = read_conf(plain)
        check(conf)
        choices = OmegaConf.to_container(composed.hydra.runtime.choices)
        assert isinstance(choices, dict)
        return _Composed(conf, plain, {str(key): str(value) for key, value in choices.items()}, overrides)

    def _run(
        self, composed: _Composed, need: Need, *, scale: int = 0, name: str = "", label: str = ""
    ) -> PlannedRun:
        """Plan a run of one stage; a run that is planned already is the same one."""
        row = STAGES[need.stage]
        below = list(self._below(composed, row.stands_on))
        after = [run for _, run in below]
        plain = composed.plain
        if need.image_set == "test" or row.kept_in == TABLE:  # test images may have proposals of their own
            plain = {**plain, "proposals": plain["test_proposals"] or plain["proposals"]}
        given = narrowed(plain, row.reads)
        looks_at = {"image_set": need.image_set, "scale": scale, "is_mirrored": need.is_mirrored}
        identity = {
            "stage": need.stage,
            **{key: value for key, value in looks_at.items() if value},
            "settings": deciding(self.contents.named(given), row.reads),
            "below": _by_role((role, run.plan.key[:8]) for role, run in below if role),
        }
        # Through JSON, so that tuples and lists are alike here and on disk.
        key = content_key(json.loads(json.dumps(identity)))
        words = _words(composed, need, scale, below, name)
        folder = row.kept_in or (plain["table"]["name"] if name else "evaluations")
        readable = slug(row.name.format(**words))
        path = Path(plain["paths"]["runs"]) / folder / f"{readable}-{key[:8]}"
        if path not in self._planned:
            plan = RunPlan(
                stage=need.stage,
                key=key,
                label=label or f"{folder.removesuffix('s')} {readable}",
                below=_by_role((role or "before", run.place) for role, run in below),
                command=command_line(),
                is_waited_for=not name,
                image_set=need.image_set,
                scale=scale,
                is_mirrored=need.is_mirrored,
            )
            self._planned[path] = PlannedRun(plan, RunDirectory(path), given, identity, after, composed.conf)
        return self._planned[path]

    def _below(self, composed: _Composed, needs: Iterable[Need]) -> "Iterator[tuple[str, PlannedRun]]":
        """The runs that a stage of this configuration stands on, with what they are to it."""
        for need in needs:
            if not need.when(composed.conf):
                continue
            if need.role == "members":
                for member in composed.conf.ensemble:
                    read = self._read([*composed.overrides, *member, "ensemble=[]"])
                    yield need.role, self._run(read, Need(stage_of_cell(read.conf)))
                continue
            each = STAGES[need.stage].each
            for scale in each(composed.conf) if each else [0]:
                run = self._run(composed, need, scale=scale)
                protocol = composed.conf.transfer
                # Cells that want different layers of the same images share one run.
                if need.stage == "features" and protocol and protocol.layer not in run.plan.layers:
                    run.plan.layers.append(protocol.layer)
                yield need.role, run


def _words(
    composed: _Composed, need: Need, scale: int, below: "Sequence[tuple[str, PlannedRun]]", name: str
) -> dict[str, Any]:
    """What names of directories are made of."""
    conf, target = composed.conf, composed.conf.target
    networks = (run.directory.path.name for role, run in below if role == "network")
    network = next(networks, "").rpartition("-")[0]  # without the key
    words = {
        **composed.choices,
        **({"pyramid": f"bins{sum(n**2 for n in conf.pyramid.levels)}"} if conf.pyramid.any_size else {}),
        "seed": conf.seed,
        "network": network,
        "target": target["name"] if target else "",
        "view": conf.features.view,
        "view_side": conf.features.short_side,
        "image_set": need.image_set + ("-mirrored" if need.is_mirrored else ""),
        "scale": scale,
        "layer": conf.detection.layer if conf.detection else "",
        "cell": name or network or need.stage,
    }
    return {key: slug(str(value)) if value != "" else "" for key, value in words.items()}


def _by_role(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    roles: dict[str, list[str]] = {}
    for role, value in pairs:
        roles.setdefault(role, []).append(value)
    return roles


def built_on(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """All runs that others stand on, directly or through others, each once and behind what it stands on."""
    return in_order((one for run in runs for one in run.after), lambda run: True)


def in_order(runs: Iterable[PlannedRun], is_wanted: Callable[[PlannedRun], bool]) -> list[PlannedRun]:
    """Runs that are wanted and what these stand on, each once and behind what it stands on.

    Nothing is looked at below what is not wanted.
    """
    ordered: dict[Path, PlannedRun] = {}

    def visit(run: PlannedRun) -> None:
        if run.directory.path not in ordered and is_wanted(run):
            for one in run.after:
                visit(one)
            ordered[run.directory.path] = run

    for run in runs:
        visit(run)
    return list(ordered.values())


def check_all_differ(cells: Sequence[PlannedRun]) -> None:
    """Refuse a sweep in which two cells are one and the same run.

    Raises:
        ConfigError: Names the two cells.
    """
    first: dict[str, PlannedRun] = {}
    for cell in cells:
        if cell.plan.key in first:
            other = first[cell.plan.key].plan.label
            if other == cell.plan.label:
                raise ConfigError(
                    f"the cell {other} is asked for twice: a value of the sweep stands there twice"
                )
            raise ConfigError(
                f"the cells {other} and {cell.plan.label} have the same "
                f"configuration: a value on the command line overrides what makes them differ"
            )
        first[cell.plan.key] = cell
