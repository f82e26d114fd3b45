"""What a feature depends on, as keys: change any of it and nothing old is found."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import PIL
import torch
from torch import Tensor, fx, nn

from sppnet.artifacts import content_key
from sppnet.features.compute import compute_rows
from sppnet.features.extract_view import ExtractView
from sppnet.features.specs import FeatureSpec
from sppnet.models.sppnet import SppNet
from sppnet.sources import code_of

_PLAIN = (bool, int, float, str, type(None))
_LIBRARIES = {"torch", "torchvision", *sys.stdlib_module_names}
_PLUMBING = frozenset(vars(nn.Module()))  # what every module has: hooks, tables of children, training


def extractor_identities(
    net: SppNet, specs: Sequence[FeatureSpec], view: ExtractView
) -> dict[FeatureSpec, dict[str, Any]]:
    """Describe, for each spec, everything besides the images that decides its rows.

    Args:
        net: In evaluation mode. Only what runs below a layer counts for it: another head, another number
            of classes leave the features of the convolutions what they were.
        specs: Which features.
        view: How images are read.
    """
    parts = {
        name: {"weights": weights_digest(part.state_dict()), "architecture": architecture_digest(part)}
        for name, part in _parts(net, specs).items()
    }
    device = net.device.type
    surroundings = {
        "view": view.identity,
        "code": source_digest(net),
        "software": {"torch": _release(torch.__version__), "pillow": _release(PIL.__version__)},
        # A GPU rounds otherwise than a CPU; either kind reproduces itself.
        "device": device if device == "cpu" else f"{device} {torch.get_float32_matmul_precision()}",
        "dtype": "float32",
    }
    return {
        spec: {
            "layer": net.backbone.roles.get(spec.layer, spec.layer),
            "levels": spec.levels,
            "pyramid": [net.pooling, *net.levels] if spec.layer in ("pool", "fc6", "fc7") else None,
            "parts": {name: parts[name] for name in _parts(net, [spec])},
            **surroundings,
        }
        for spec in specs
    }


def _parts(net: SppNet, specs: Sequence[FeatureSpec]) -> dict[str, nn.Module]:
    """Name the modules that run up to the deepest of the layers."""
    parts: dict[str, nn.Module] = {"backbone": net.backbone, "input_norm": net.input_norm}
    layers = {spec.layer for spec in specs}
    if layers & {"fc6", "fc7"}:
        parts["fc6"] = net.fc6
    if "fc7" in layers:
        parts["fc7"] = net.fc7
    return parts


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values; not of memory layout or device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def architecture_digest(module: nn.Module) -> str:
    """SHA-256 of what the modules of a tree are called, of which class they are, and their settings."""
    return content_key([[name, *_described(part)] for name, part in module.named_modules()])


def _described(module: nn.Module) -> tuple[str, Any]:
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    if isinstance(module, fx.GraphModule):
        return kind, module.code
    settings = {
        name: repr(value)
        for name, value in vars(module).items()
        # A cached property appears when first asked for; what it is computed from is here already.
        if name not in _PLUMBING
        and _is_plain(value)
        and not isinstance(getattr(type(module), name, None), cached_property)
    }
    return kind, settings


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def source_digest(net: nn.Module) -> str:
    """SHA-256 of the source that computes a feature: ours, and that of foreign modules in the net."""
    kinds = {cls.__module__ for module in net.modules() for cls in type(module).__mro__}
    written = sorted(kind for kind in kinds if kind.partition(".")[0] not in _LIBRARIES)
    return content_key(_OWN_CODE | code_of(written))


# Read now, when this code was loaded: editing a file under a running process does not change what it runs.
_OWN_CODE = code_of([compute_rows.__module__])


def _release(version: str) -> str:
    """Keep the major and minor number: "2.11.0+cu128" is "2.11"."""
    return ".".join(version.split("+", maxsplit=1)[0].split(".")[:2])
