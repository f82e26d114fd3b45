"""A directory of what is kept, source by source."""

import contextlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from sppnet.artifacts import (
    content_key,
    make_directory,
    read_json,
    remove_temporaries,
    require_inside,
    write_sealed_json,
)
from sppnet.errors import ArtifactError, DataError, ResourceError
from sppnet.store.entry import MANIFEST, ROWS, Counts, Entry, cache_lock

SHARD_IMAGES: Final = 64  # some seconds of work on one core, some megabytes
_ENTRY_NAME = re.compile(r"[0-9a-f]{32}")


@final
class FeatureCache:
    """Vectors, maps and proposals on disk, which any number of processes may use at once.

    Args:
        root: The directory; made when missing.
        shard_images: Images whose rows share a file. Other shards hold other rows: keep to one number.

    Attributes:
        counts: What became of the shards asked for so far.
    """

    def __init__(self, root: Path, *, shard_images: int = SHARD_IMAGES) -> None:
        self.root = root.expanduser().resolve()
        self.shard_images = shard_images
        self.counts = Counts()

    def entry(
        self, identity: Mapping[str, Any], *, source: str, kind: str, dim: int, suffix: str = ROWS
    ) -> Entry:
        """Open, or begin, the shards of a source; `gc` leaves them alone while the entry is alive.

        Args:
            identity: Everything but the images that decides what is computed of them.
            source: What reports call what computes: a net, a method.
            kind: What they call what is computed: a layer and its levels, maps, proposals.
            dim: Length of a row; of maps, their channels.
            suffix: `ROWS`, `MAPS` or `BOXES`.

        Raises:
            ResourceError: The directory cannot be used.
        """
        name = content_key(identity)[:32]
        hold = cache_lock(self.root, f"entry-{name}", shared=True, wait=True)
        assert hold is not None, "it was waited for"
        manifest = {"source": source, "kind": kind, "dim": dim, "identity": identity}
        require_inside(self.root / name, self.root)
        written = None
        with contextlib.suppress(ArtifactError):
            written = read_json(self.root / name / MANIFEST)
        # For people only; keys and sizes decide. One that is missing or damaged is written again.
        if written != json.loads(json.dumps(manifest)):
            lock = cache_lock(self.root, "manifests", wait=True)
            assert lock is not None, "it was waited for"
            with lock:
                remove_temporaries(self.root / name, of=MANIFEST)
                write_sealed_json(self.root / name / MANIFEST, manifest)
        return Entry(self.root / name, dim=dim, suffix=suffix, hold=hold, counts=self.counts)

    def require_space(self, needed: int) -> None:
        """Refuse to begin what cannot be finished.

        Raises:
            ResourceError: The disk has fewer than `needed` bytes left.
        """
        make_directory(self.root)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            raise ResourceError(
                f"{self.root}: these features need {needed} bytes ({needed / 1e9:.2f} GB) and {free} bytes "
                f"({free / 1e9:.2f} GB) are free; run sppnet cache gc, or choose another cache directory"
            )


def entries(root: Path) -> list[Path]:
    """List the sources' directories; whatever else lies in `root` is left alone.

    Raises:
        DataError: There is no such directory.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such directory; give the directory of the feature cache")
    return sorted(
        path
        for path in root.iterdir()
        if _ENTRY_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )
