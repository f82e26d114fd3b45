"""A trained detector, read from the directory of its run: pictures in, objects out (paper §4, Fig. 6)."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sppnet.cli.detection_cells import classes_of, read_parts
from sppnet.cli.detection_inputs import device_of, windows_of
from sppnet.cli.trained import load_network
from sppnet.errors import ArtifactError, DataError, SppnetError
from sppnet.run.directory import RunDirectory

if TYPE_CHECKING:  # import torch
    from sppnet.metrics.detection_ap import Detections

_POINTERS = ("network", "machines", "regressors")
_NOT_ONE = "give the directory of a finished detection run, such as runs/table9/pool-..."


class LoadedDetector:
    """Proposes windows in a picture, scores them, and keeps and moves the best.

    May be asked by several threads at once.

    Args:
        config: Of the run that tested the detector.
    """

    def __init__(self, config: DictConfig) -> None:
        from sppnet.data.proposal_files import MatProposals
        from sppnet.windows.conv_maps import ConvMaps

        settings: Any = OmegaConf.to_container(config, resolve=True)
        self.classes = tuple(classes_of(settings))
        self._max_pixels = settings["data_loading"]["max_pixels"]
        self._parts = read_parts(settings)
        self._source = instantiate(config.test_proposals or config.proposals)
        if isinstance(self._source, MatProposals):  # files know no other pictures
            self._source = instantiate(_default_proposals())
        net, _ = load_network(config, Path(settings["cell"]["network"]), classes=None)
        net = net.to(device_of(settings))
        self._paths: list[Path] = []
        self._maps = ConvMaps(
            net, self._paths, is_mirrored=False, cache=None, max_pixels=self._max_pixels, upright=True
        )
        self._windows = windows_of(settings, net, self._maps, settings["detection"]["layer"])
        self._pooled = windows_of(settings, net, self._maps, "pool")
        self._lock = threading.Lock()

    def detect(self, path: Path) -> "Detections":
        """Find the objects of all classes in a picture, the best of every class first.

        Boxes are 0-based inclusive pixels of the picture as it is displayed (EXIF orientation applied).

        Raises:
            BadImageError: The file cannot be used.
        """
        from sppnet.data.images import read_image
        from sppnet.tasks.finding import detect

        image = read_image(path, upright=True, max_pixels=self._max_pixels)
        try:
            windows = self._source.propose(image)
        except SppnetError:
            raise
        except Exception as error:  # OpenCV's own
            raise DataError(f"{path}: no proposals ({type(error).__name__}: {error})") from error
        with self._lock:
            number = len(self._paths)
            self._paths.append(path)
        shown = {number: (windows, (image.height, image.width))}
        ((_, found),) = detect(self._parts, self._windows, self._pooled, shown, numbers=[number], workers=1)
        return found


def load_detector(path: Path) -> LoadedDetector:
    """Read a detector from its run's directory, which may have been moved with the runs it builds on.

    Raises:
        ArtifactError: It is no finished run of detection, or what it builds on is not there.
    """
    file = path / "config.yaml"
    if not file.is_file():
        raise ArtifactError(f"{path}: no config.yaml in it; {_NOT_ONE}")
    if not RunDirectory(path).is_complete:
        raise ArtifactError(f"{path}: the run is not complete, or damaged; run its command again")
    config = OmegaConf.load(file)
    if not isinstance(config, DictConfig) or config.get("cell", {}).get("stage") != "detection":
        raise ArtifactError(f"{path}: a run, but not of a detector; {_NOT_ONE}")
    if str(config.backbone.get("weights", "")).endswith(".safetensors"):
        config.backbone.weights = None  # those of its network's run are the same, and go where it goes
    for name in _POINTERS:
        if config.cell[name]:
            config.cell[name] = str(_find(path, Path(config.cell[name])))
    return LoadedDetector(config)


def _find(path: Path, pointer: Path) -> Path:
    """A run that another one points to: where it was, or beside it in the same folder of runs."""
    beside = path.resolve().parent.parent / pointer.parent.name / pointer.name
    for place in (beside, pointer):
        if RunDirectory(place).is_complete:
            return place
    raise ArtifactError(
        f"{path}: builds on {pointer}, which is neither there nor at {beside}, or not complete; run the "
        f"detector's command again"
    )


def _default_proposals() -> DictConfig:
    from sppnet.cli.experiment import compose_config

    chosen: DictConfig = compose_config(["proposals=selective_search"]).proposals
    return chosen
