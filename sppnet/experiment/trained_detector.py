"""A trained detector, read from the directory of its run: pictures in, objects out (paper §4, Fig. 6)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sppnet.artifacts import read_json, reading
from sppnet.errors import ArtifactError, DataError, SppnetError
from sppnet.experiment.detector_testing import read_detector
from sppnet.experiment.execution import read_plan
from sppnet.experiment.installation import device_of
from sppnet.experiment.making import make
from sppnet.experiment.network import load_network
from sppnet.experiment.reading import read_conf
from sppnet.experiment.take import RunPlan
from sppnet.run.directory import RunDirectory

if TYPE_CHECKING:  # import torch
    from sppnet.metrics.detection_ap import Detections

_NOT_ONE = "give the directory of a finished detection run, such as runs/table9/pool-..."


class LoadedDetector:
    """Proposes windows in a picture, scores them, and keeps and moves the best.

    May be asked by several threads at once.

    Args:
        plan: Of the run that tested the detector.
        given: What that run was given.
        runs: The folder of runs that holds it and all it stands on.
    """

    def __init__(self, plan: RunPlan, given: dict[str, Any], runs: Path) -> None:
        from sppnet.data.proposals import SetSource
        from sppnet.tasks.detector import Suppression

        conf = read_conf(given)
        assert conf.detection is not None
        below = {role: [_require(runs / name) for name in names] for role, names in plan.below.items()}
        machines, network = below["machines"][0], below["network"][0]
        self.classes = tuple(read_json(machines / "classes.json"))
        self._max_pixels = conf.data_loading.max_pixels
        self._source = make(conf.proposals)
        if isinstance(self._source, SetSource) and not self._source.is_computed:
            self._source = make(_default_proposals())
        # A detector of a GPU runs wherever there is one; one of the CPU stays there.
        device = "cpu" if conf.trainer.accelerator == "cpu" else device_of("auto")
        net = load_network(network, constant_mean=conf.target_mean).net.to(device)
        self._detector = read_detector(conf, net, machines, below.get("regressors", []), upright=True)
        self._suppression = Suppression(**vars(conf.suppression))

    def detect(self, path: Path) -> "Detections":
        """Find the objects of all classes in a picture, the best of every class first.

        Boxes are 0-based inclusive pixels of the picture as it is displayed (EXIF orientation applied).

        Raises:
            BadImageError: The file cannot be used.
        """
        from sppnet.data.images import read_image
        from sppnet.tasks.detector import Picture, detect

        image = read_image(path, upright=True, max_pixels=self._max_pixels)
        try:
            windows = self._source.propose(image)
        except SppnetError:
            raise
        except Exception as error:  # OpenCV's own
            raise DataError(f"{path}: no proposals ({type(error).__name__}: {error})") from error
        picture = Picture(path, windows, (image.height, image.width))
        (found,) = detect([self._detector], [[picture]], self._suppression, workers=1)
        return found


def load_detector(path: Path) -> LoadedDetector:
    """Read a detector from its run's directory, which may have been moved with the runs it stands on.

    Raises:
        ArtifactError: It is no finished run of detection, or what it stands on is not there.
    """
    from sppnet.experiment.compose import compose_config

    compose_config([])  # and with it what the user's own configuration allows
    directory = RunDirectory(path)
    plan, config = read_plan(directory)
    if plan.stage != "detection":
        raise ArtifactError(f"{path}: a run, but not of a detector; {_NOT_ONE}")
    directory.require_complete(f"{path}: the run is not complete; run its command again")
    given = {key: value for key, value in config.items() if key not in ("run", "identity")}
    with reading(path / "config.yaml"):
        return LoadedDetector(plan, given, path.resolve().parent.parent)


def _require(path: Path) -> Path:
    """A run that a detector stands on, in the same folder of runs; maps and proposals may have gone."""
    if path.parent.name in ("networks", "detectors"):
        RunDirectory(path).require_complete(
            f"the detector builds on {path}, which is not there or not complete; move the folder of runs as "
            f"a whole, or run the detector's command again"
        )
    return path


def _default_proposals() -> dict[str, Any]:
    from sppnet.experiment.compose import compose_config, plain_of

    chosen: dict[str, Any] = plain_of(compose_config(["proposals=selective_search"]))["proposals"]
    return chosen
