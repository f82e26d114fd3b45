"""`sppnet why`: what a run's numbers depend on, and what has changed since; or what makes two runs differ."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sppnet.artifacts import reading
from sppnet.errors import ArtifactError, DataError
from sppnet.experiment.installation import software
from sppnet.run.directory import RunDirectory
from sppnet.tables.escape import clean
from sppnet.tables.provenance import Provenance, changes_since, read_provenance

_SHOWN = ("version", "commit", "machine", "device", "threads", "precision", "command")


def main(argv: Sequence[str]) -> int:
    """Run the verb; returns 0, whether the run is fresh or stale.

    Raises:
        DataError: No such directory.
        ArtifactError: It holds no run.
    """
    parser = argparse.ArgumentParser(
        prog="sppnet why",
        description="Say what a run depends on (settings, data, code, software, the runs below it) and what "
        "has changed since; of two runs, what differs.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="such as runs/table2/spp_single-zf5-...")
    parser.add_argument("other", type=Path, metavar="RUN_DIR", nargs="?", help="a run to compare with")
    arguments = parser.parse_args(list(argv))
    with reading(arguments.run):
        if arguments.other is None:
            lines = list(_explained(arguments.run))
        else:
            same = "the same: settings, data, code, software and the runs below"
            lines = list(_differences(arguments.run, arguments.other, "")) or [same]
    print("\n".join(map(clean, lines)))
    return 0


def _explained(path: Path) -> Iterator[str]:
    config, provenance = _read(path)
    run = config["run"]
    yield f"{path}"
    yield f"  {run['label']}, stage {run['stage']}, key {run['key'][:8]}"
    yield "settings, of which each counts:"
    for key, value in _settings(config["identity"]):
        yield f"  {key}: {value}"
    yield "runs below, of which those with a role count:"
    for role, names in run["below"].items():
        for name in names:
            yield f"  {role}: {path.parent.parent / name}"
    if provenance is not None:
        yield "made by:"
        for key in _SHOWN:
            yield f"  {key}: {provenance.last.get(key)}"
        if len(provenance.takes) > 1:
            yield f"  takes: {len(provenance.takes)}, the first from {provenance.takes[0].get('started')}"
        yield f"  ended: {provenance.ended or 'not yet'}"
        yield "  software: " + ", ".join(f"{key} {value}" for key, value in _software(provenance).items())
        yield f"  code: {len(provenance.code)} modules and functions of stages"
    changes = [*changes_since(path), *_changed_data(config)]
    if provenance is not None:
        changes += _differing(_software(provenance), software(), "software ")
    yield "changed since:" if changes else "changed since: nothing"
    for change in changes:
        yield f"  {change}"


def _differences(one: Path, other: Path, indent: str) -> Iterator[str]:
    """What differs between two runs, and below them, in lines."""
    (first, made_first), (second, made_second) = _read(one), _read(other)
    if first["run"]["stage"] != second["run"]["stage"]:
        yield f"{indent}stage: {first['run']['stage']} | {second['run']['stage']}"
    yield from _differing(dict(_settings(first["identity"])), dict(_settings(second["identity"])), indent)
    if made_first is not None and made_second is not None:
        yield from _differing(_software(made_first), _software(made_second), f"{indent}software ")
        yield from _differing(made_first.code, made_second.code, f"{indent}code of ", values=False)
        shown = {key: (made_first.last.get(key), made_second.last.get(key)) for key in _SHOWN[:-1]}
        yield from (f"{indent}made by {key}: {a} | {b}" for key, (a, b) in shown.items() if a != b)
    below_first, below_second = first["run"]["below"], second["run"]["below"]
    for role in dict.fromkeys([*below_first, *below_second]):
        names = below_first.get(role, []), below_second.get(role, [])
        if len(names[0]) != len(names[1]):
            yield f"{indent}{role}: {len(names[0])} runs | {len(names[1])} runs"
        for a, b in zip(*names, strict=False):
            if a != b:
                yield f"{indent}{role}: {a} | {b}"
                yield from _differences(one.parent.parent / a, other.parent.parent / b, indent + "  ")


def _differing(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str, *, values: bool = True
) -> Iterator[str]:
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key, "-"), other.get(key, "-")
        if a != b:
            yield f"{prefix}{key}: {a} | {b}" if values else f"{prefix}{key}"


def _settings(identity: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What counts for the key; a folder's four facts in one line."""
    for key in ("image_set", "scale", "is_mirrored"):
        if key in identity:
            yield key, identity[key]
    settings = identity["settings"]
    for key, value in settings.items():
        stem, _, leaf = key.rpartition(".")
        if leaf == "sha256" and f"{stem}.by" in settings:
            yield stem, f"{settings[f'{stem}.files']} files, by {settings[f'{stem}.by']}: {value[:16]}"
        elif not (leaf in ("files", "bytes", "by") and f"{stem}.sha256" in settings):
            yield key, value


def _changed_data(config: Mapping[str, Any]) -> Iterator[str]:
    """Say what files and folders are not what they were, or not where they were."""
    from sppnet.experiment.contents import Contents
    from sppnet.experiment.reading import leaves

    given = {key: value for key, value in config.items() if key not in ("run", "identity")}
    now = dict(leaves(Contents(Path(config["paths"]["cache"])).named(given)))
    was = config["identity"]["settings"]
    for key, place in leaves(given):
        before, after = (one.get(f"{key}.sha256", one.get(key)) for one in (was, now))
        # What the key has something else for than the configuration was named by its content.
        if before not in (None, place) and before != after:
            exist = all(
                Path(one).expanduser().exists() for one in (place if isinstance(place, list) else [place])
            )
            holds = "holds something else now (the same command makes another run)"
            yield f"{key}: {place} {holds if exist else 'is not there any more'}"


def _software(provenance: Provenance) -> dict[str, str]:
    return dict(provenance.last.get("software", {}))


def _read(path: Path) -> tuple[dict[str, Any], Provenance | None]:
    """A run's configuration, and what made it."""
    if not path.is_dir():
        raise DataError(f"{path}: no such directory; name a run such as runs/table2/spp_single-zf5-...")
    config = RunDirectory(path).read_config()
    if "identity" not in config:
        raise ArtifactError(f"{path}: its config.yaml says nothing of its key; run its command again")
    return config, read_provenance(path)
