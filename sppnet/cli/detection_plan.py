"""The runs behind a detector: proposals, maps, fine-tuning, SVMs, box regression (paper §4.1).

Each is named by what decides its result, so the cells of all tables share whatever they can.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omegaconf import DictConfig

from sppnet.run.directory import RunDirectory, identity_key, slug

if TYPE_CHECKING:
    from sppnet.cli.planner import PlannedRun, Planner

TIMING: Final = "time"  # the layer of a cell that measures seconds


class DetectionPlan:
    """Plans one cell of a detection table.

    Args:
        planner: Plans networks, and makes runs of what is planned here.
        overrides: Of the cell.
        composed: Its configuration.
        config: The same, resolved and plain.
    """

    def __init__(
        self, planner: "Planner", overrides: list[str], composed: DictConfig, config: dict[str, Any]
    ) -> None:
        self._planner = planner
        self._overrides = overrides
        self._config = config
        self._is_spp = config["windows"]["method"] == "spp"
        self._network = planner.network(overrides, composed, config)

    @property
    def stage(self) -> str:
        """What the cell itself does."""
        return "timing" if self._config["detection"]["layer"] == TIMING else "detection"

    def cell(self) -> "tuple[list[PlannedRun], dict[str, Any]]":
        """Everything the cell builds on, its network first, and what it is told of it."""
        detection = self._config["detection"]
        if self.stage == "timing":
            proposals = self._proposals("test")
            return [self._network, proposals], {"network": str(self._network.directory.path)}
        network = self._finetuned() if detection["finetuned"] else self._network
        after = [network, self._machines(network), self._proposals("test"), *self._maps("test")]
        built_on = {"network": str(network.directory.path), "machines": str(after[1].directory.path)}
        if detection["moved"]:
            # Fine-tuning leaves the convolutions of SPP-net as they were, and what is pooled from them.
            regressors = self._regressors(self._network if self._is_spp else network)
            after.append(regressors)
            built_on["regressors"] = str(regressors.directory.path)
        return after, built_on

    def _proposals(self, image_set: str) -> "PlannedRun":
        source = self._config["proposals"]
        if image_set == "test":
            source = self._config["test_proposals"] or source
        kind = source["_target_"].rpartition(".")[2]
        name = f"{self._config['target']['name']}-{image_set}-{kind}"
        return self._run("proposals", "proposals", name, [], image_set=image_set)

    def _maps(self, image_set: str, *, is_mirrored: bool = False) -> "list[PlannedRun]":
        """One run a scale; none where maps are not kept."""
        if not (self._is_spp and self._config["data_loading"]["keep_maps"]):
            return []
        kind = f"{image_set}-mirrored" if is_mirrored else image_set
        return [
            self._run(
                "maps",
                "maps",
                f"{_readable(self._network)}-{self._config['target']['name']}-{kind}-{scale}",
                [self._network],
                image_set=image_set,
                scale=scale,
                is_mirrored=is_mirrored,
            )
            for scale in self._config["windows"]["scales"]
        ]

    def _trained_on(self) -> "list[PlannedRun]":
        return [self._proposals("trainval"), *self._maps("trainval")]

    def _finetuned(self) -> "PlannedRun":
        after = [self._network, *self._trained_on()]
        if self._config["finetuning"]["flip"]:
            after += self._maps("trainval", is_mirrored=True)
        return self._run("finetuning", "networks", f"{_readable(self._network)}-finetuned", after)

    def _machines(self, network: "PlannedRun") -> "PlannedRun":
        name = f"{_readable(network)}-{self._config['detection']['layer']}"
        return self._run("machines", "detectors", name, [network, *self._trained_on()])

    def _regressors(self, network: "PlannedRun") -> "PlannedRun":
        return self._run(
            "regressors", "detectors", f"{_readable(network)}-boxes", [network, *self._trained_on()]
        )

    def _run(
        self, stage: str, folder: str, name: str, after: "list[PlannedRun]", **place: Any
    ) -> "PlannedRun":
        """Plan a stage; the network it looks at, if any, stands first in `after`."""
        if after:
            place["network"] = str(after[0].directory.path)
        cell = {**self._config["cell"], "stage": stage, **place}
        config = self._planner.with_digest({**self._config, "cell": cell})
        directory = RunDirectory(
            Path(config["paths"]["runs"]) / folder / f"{slug(name)}-{identity_key(config)}"
        )
        label = f"{folder} {slug(name)}" if stage != "finetuning" else f"network {slug(name)}"
        return self._planner.planned(
            label, directory, config, self._overrides, {"label": label, "stage": stage, **place}, after
        )


def _readable(run: "PlannedRun") -> str:
    """A run's name without its hash."""
    return run.directory.path.name.rpartition("-")[0]
