"""Weights in safetensors files: no code runs when one is read, and every key must fit."""

import logging
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from sppnet.artifacts import regular, write_atomic, write_named_by_digest
from sppnet.damage import digest_matches
from sppnet.errors import ArtifactError

_MOST_NAMES = 8
log = logging.getLogger(__name__)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write named tensors, such as a net's `state_dict()`, atomically.

    Args:
        tensors: By name, of any layout and device.
        path: Where to, by convention ending in .safetensors.

    Raises:
        ResourceError: The file cannot be written.
    """
    # The format knows row-major tensors only; a net in channels-last memory gets its strides back on load.
    data = safetensors.torch.save({key: value.detach().contiguous() for key, value in tensors.items()})
    write_atomic(path, lambda stream: stream.write(data))


def save_part(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write what a run has so far, under a name that vouches for it (`<stem>-<digest>`); the last one goes.

    Raises:
        ResourceError: The file cannot be written; the last one is still there.
    """
    before = _parts(path)
    data = safetensors.torch.save({key: value.detach().contiguous() for key, value in tensors.items()})
    new = write_named_by_digest(path.parent, path.stem, path.suffix, lambda stream: stream.write(data))
    for old in before:
        if old != new:
            old.unlink(missing_ok=True)


def read_part(path: Path) -> dict[str, Tensor] | None:
    """What `save_part` wrote there; None if nothing, or if it is damaged: then it is to be made again."""
    for file in _parts(path):
        if digest_matches(file):
            return read_tensors(file)
        log.warning("%s: damaged (content does not match its name); what it held is made again", file)
    return None


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}-{'[0-9a-f]' * 16}{path.suffix}"))


def load_weights(net: nn.Module, path: Path) -> None:
    """Fill a net from a file of its `state_dict()`; other dtypes are converted to the net's.

    Args:
        net: The net; changed only if everything fits.
        path: A safetensors file.

    Raises:
        ArtifactError: The file is missing or damaged, or its keys or shapes are not the net's.
    """
    wanted = net.state_dict()
    found = without_prefix(read_tensors(path), wanted)
    require_same_keys(path, found, wanted)
    net.load_state_dict(found)


def without_prefix(found: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop what stands before every key: DataParallel's module., a LightningModule's model., backbone."""
    end = next(iter(wanted))
    for key in found:
        prefix = key.removesuffix(end)
        if prefix != key and prefix.endswith(".") and all(name.startswith(prefix) for name in found):
            return {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(regular(path))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; give the path of a .safetensors file") from error
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ArtifactError(
            f"{path}: not a readable safetensors file ({error}); make or fetch it again"
        ) from error
    return tensors


def read_tensors_like(path: Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file that must be as others are, but for their values.

    These may be infinite: an SVM without positives has an intercept of -inf.

    Raises:
        ArtifactError: The file is missing or damaged, or what `require_same_keys` raises.
    """
    found = read_tensors(path)
    require_same_keys(path, found, wanted, is_finite=False)
    return {key: value.to(wanted[key].dtype) for key, value in found.items()}


def require_same_keys(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, is_finite: bool = True
) -> None:
    """Compare a file's tensors with a net's, by name, shape and kind of number.

    Raises:
        ArtifactError: They differ; the message lists what is missing, unexpected and of another shape. Or
            numbers are complex or whole where the net's are real, or NaN or, where `is_finite`, infinite.
    """
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    mismatched = [
        f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & found.keys())
        if found[key].shape != wanted[key].shape
    ]
    if not (missing or unexpected or mismatched):
        _require_numbers(path, found, wanted, is_finite=is_finite)
        return
    columns = [("missing", missing), ("unexpected", unexpected), ("of another shape", mismatched)]
    cells = [[f"{title} ({len(names)})", *_shortened(names)] for title, names in columns]
    widths = [max(map(len, column)) for column in cells]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip_longest(*cells, fillvalue="")
    ]
    table = "\n  ".join(rows)
    inside = sorted(
        {key.removesuffix(name) for key in unexpected for name in missing if key.endswith(f".{name}")}
    )
    advice = (
        f"some keys fit behind {inside[0]!r}; save only those, without it"
        if inside
        else "these weights belong to another net; build the net they were saved from"
    )
    raise ArtifactError(f"{path}: {advice}\n  {table}")


def _require_numbers(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, is_finite: bool
) -> None:
    for key, value in found.items():
        if value.is_floating_point() != wanted[key].is_floating_point() or value.is_complex():
            raise ArtifactError(
                f"{path}: {key} holds {value.dtype} where the net has {wanted[key].dtype}; save weights as "
                f"real numbers (quantised ones are not read)"
            )
        numbers = value.double()
        is_sound = numbers.isfinite() if is_finite else ~numbers.isnan()
        if not is_sound.all():
            raise ArtifactError(f"{path}: {key} holds NaN or infinite numbers; save sound weights again")


def _shortened(names: list[str]) -> list[str]:
    return names if len(names) <= _MOST_NAMES else [*names[: _MOST_NAMES - 1], "..."]
