"""Backbones: the convolutions below the pyramid (paper Table 1, §3.1.1).

Why two classes: the paper's nets are sequences, so a table in YAML says all there is to say about one; any
other topology is a torchvision model, cut at a named layer.

Axes: n images, c channels, h w pixels or cells.
"""

from collections.abc import Mapping, Sequence, Set
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, final

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from sppnet.errors import ConfigError, ResourceError
from sppnet.models.trunk import Backbone, close_matches
from sppnet.models.weights import read_tensors, require_same_keys, without_prefix
from sppnet.ops.lrn import LocalResponseNorm, WithinChannelNorm

__all__ = ["Backbone", "LayeredBackbone", "TorchvisionBackbone"]

# Channel means of ImageNet images in RGB and their deviations, on 0..255 (torchvision's 0.485 and so on).
_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


@final
class LayeredBackbone(Backbone):
    """A sequence of convolutions, poolings and normalisations, written as a table (Table 1).

    A row is one of
    `{conv: channels, kernel: k, stride: s, padding: p}`, always followed by a ReLU,
    `{pool: k, stride: s, ceil: true | false}`, a maximum; `ceil` rounds the output's size up, as Caffe does,
    `{lrn: across | within, size: n, alpha: a, beta: b, k: k}`.

    Args:
        name: What reports call it.
        layers: The rows, from the image up.
        width: Factor on every convolution's channels, which are rounded to multiples of 4, at least 8; 1 is
            the paper's.
        weights: None for a random start, or the .safetensors file of a trained network, of which the trunk is
            taken.

    Raises:
        ConfigError: A row that is none of the above.
        ArtifactError: The weights file does not fit the rows.
    """

    def __init__(
        self, *, name: str, layers: Sequence[Mapping[str, Any]], width: float, weights: str | None
    ) -> None:
        trunk = nn.Sequential()
        channels, number = 3, 0
        for position, row in enumerate(layers, start=1):
            kind = _kind_of(row, f"backbone {name}, layer {position}")
            if kind == "conv":
                number += 1
                wide = max(8, 4 * round(row["conv"] * width / 4))
                conv = nn.Conv2d(channels, wide, row["kernel"], row["stride"], row["padding"])
                trunk.add_module(f"conv{number}", conv)
                trunk.add_module(f"relu{number}", nn.ReLU(inplace=True))
                channels = wide
            elif kind == "pool":
                pool = nn.MaxPool2d(row["pool"], row["stride"], ceil_mode=row["ceil"])
                trunk.add_module(f"pool{number}", pool)
            else:
                settings = {key: row[key] for key in ("size", "alpha", "beta", "k")}
                trunk.add_module(f"norm{number}", _NORMS[row["lrn"]](**settings))
        if number < 2:
            raise ConfigError(f"backbone {name}: {number} convolutions; the layer table needs two or more")
        if weights is not None:
            _load_trunk(Path(weights), trunk, trunk)
        roles = {"conv4": f"relu{number - 1}", "conv5": f"relu{number}"}
        # The paper's nets subtract a mean and stay on 0..255, where LRN's alpha of 1e-4 has an effect.
        super().__init__(
            name=name,
            trunk=trunk,
            roles=roles,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            own_init=weights is not None,
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the rows' modules: conv1, relu1, norm1, pool1 and so on."""
        return tuple(name for name, _ in self.trunk.named_children())

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Compute the maps of normalised images."""
        maps: Tensor = self.trunk(images)
        return maps

    def _outputs(self, images: Tensor, modules: Set[str]) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for name, layer in self.trunk.named_children():
            if len(outputs) == len(modules):
                break
            images = layer(images)
            if name in modules:
                # Copied where the pass goes on, because an in-place ReLU behind a layer would change it.
                outputs[name] = images.clone() if len(outputs) + 1 < len(modules) else images
        return outputs


_NORMS = {"across": LocalResponseNorm, "within": WithinChannelNorm}
_KEYS = {
    "conv": {"conv", "kernel", "stride", "padding"},
    "pool": {"pool", "stride", "ceil"},
    "lrn": {"lrn", "size", "alpha", "beta", "k"},
}


def _kind_of(row: Mapping[str, Any], where: str) -> str:
    """Say what a row builds, or which key of it is wrong."""
    kinds = [kind for kind in _KEYS if kind in row]
    if len(kinds) != 1:
        raise ConfigError(f"{where}: found the keys {sorted(row)}, expected exactly one of conv, pool, lrn")
    (kind,) = kinds
    if unlike := _KEYS[kind] ^ set(row):
        raise ConfigError(
            f"{where}: {', '.join(sorted(unlike))} missing or unknown; "
            f"a {kind} row has exactly {', '.join(sorted(_KEYS[kind]))}"
        )
    if kind == "lrn" and row["lrn"] not in _NORMS:
        raise ConfigError(f"{where}: lrn is {row['lrn']!r}, expected across or within")
    return kind


@final
class TorchvisionBackbone(Backbone):
    """A torchvision model up to a named layer.

    Args:
        name: What reports call it.
        model: A classification model of torchvision, such as "resnet18".
        layer: The submodule whose output are the maps.
        weights: None for a random start; "DEFAULT" or the name of one of the model's weights, downloaded by
            torchvision; or the path of a .safetensors file with torchvision's keys, or that of a network that
            was trained here (a head is ignored).

    Raises:
        ConfigError: No such model, layer or weights.
        ArtifactError: The weights file does not fit the model.
        ResourceError: The weights cannot be downloaded.
    """

    def __init__(self, *, name: str, model: str, layer: str, weights: str | None) -> None:
        known = torchvision.models.list_models(module=torchvision.models)
        if model not in known:
            raise ConfigError(
                f"backbone {name}: no model {model!r} in torchvision{close_matches(model, known)}"
            )
        mean, std, whole = _built(name, model, weights)
        nodes = _nodes(whole)
        if layer not in nodes:
            raise ConfigError(f"backbone {name}: {model} has no layer {layer!r}{close_matches(layer, nodes)}")
        trunk = create_feature_extractor(whole, {layer: "maps"})
        if weights is not None and _is_file(weights):
            _load_trunk(Path(weights).expanduser(), trunk, whole)
        roles = {"conv4": _before_last_convolution(whole, layer), "conv5": layer}
        super().__init__(name=name, trunk=trunk, roles=roles, mean=mean, std=std, own_init=True)
        self._graph: fx.Graph = trunk.eval_graph
        reached = {node.name for node in self._graph.nodes}
        self._nodes = {module: node for module, node in nodes.items() if node in reached}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the model's submodules up to the cut."""
        return tuple(self._nodes)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Compute the maps of normalised images."""
        maps: Tensor = self.trunk(images)["maps"]
        return maps

    def _outputs(self, images: Tensor, modules: Set[str]) -> dict[str, Tensor]:
        wanted = {self._nodes[module] for module in modules}
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        found: dict[str, fx.Node] = {}
        for node in self._graph.nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.name in wanted:
                found[node.name] = copies[node]
                if len(found) == len(wanted):
                    break
                # Copied where the pass goes on, because an in-place ReLU behind a layer would change it.
                found[node.name] = graph.call_function(torch.clone, (copies[node],))
        graph.output({module: found[self._nodes[module]] for module in modules})
        outputs: dict[str, Tensor] = fx.Interpreter(self.trunk, graph=graph).run(images)
        return outputs


def _built(name: str, model: str, weights: str | None) -> tuple[Sequence[float], Sequence[float], nn.Module]:
    """Make the whole model, and say which mean and deviation (0..255) its weights expect."""
    extra = {"init_weights": True} if model in ("googlenet", "inception_v3") else {}  # silences their warning
    if weights is None or _is_file(weights):
        return _IMAGENET_MEAN, _IMAGENET_STD, torchvision.models.get_model(model, weights=None, **extra)
    choices = torchvision.models.get_model_weights(model)
    names = list(dict.fromkeys([*choices.__members__, "DEFAULT"]))
    if weights not in names:
        raise ConfigError(
            f"backbone {name}: {weights!r} is neither a .safetensors file nor weights of {model}, "
            f"which are {', '.join(names)}{close_matches(weights, names)}{_CONVERT if '.' in weights else ''}"
        )
    chosen = choices[weights]
    preset = chosen.transforms()
    try:
        whole = torchvision.models.get_model(model, weights=chosen)
    except (OSError, RuntimeError, HTTPException) as error:  # no network, no room, not the bytes expected
        raise ResourceError(
            f"backbone {name}: weights {weights} of {model} cannot be downloaded from {chosen.url} "
            f"({error}); fetch them where there is a network, and give the path of a .safetensors file"
            f"{_CONVERT}"
        ) from error
    return [255 * value for value in preset.mean], [255 * value for value in preset.std], whole


_TRUNK: Final = "backbone.trunk."  # how the names of a trunk's weights begin in a network of ours
_CONVERT = """; a PyTorch file is converted once, by
    weights = torch.load(FILE, weights_only=True, map_location="cpu")
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, "weights.safetensors")"""


def _is_file(weights: str) -> bool:
    return weights.lower().endswith(".safetensors")


def _nodes(model: nn.Module) -> dict[str, str]:
    """Find the graph node that computes each submodule's output (its last node in the evaluation graph)."""
    train, evaluation = get_graph_node_names(model)
    paths = [path for path in evaluation[1:] if path in set(train)]
    extractor = create_feature_extractor(model, paths)
    (outputs,) = next(node for node in extractor.eval_graph.nodes if node.op == "output").args
    nodes = {}
    for path in paths:  # in order of execution: later nodes of a module overwrite earlier ones
        parts = path.split(".")
        for depth in range(1, len(parts) + 1):
            nodes[".".join(parts[:depth])] = outputs[path].name
    return nodes


def _before_last_convolution(model: nn.Module, layer: str) -> str:
    """Name the sibling of `layer` that holds the last but one step: "conv4" of a torchvision model.

    It is the last one before the last sibling with a convolution; poolings do not count. For a sequence of
    layers that is the activation of the last but one convolution, for a net of stages the stage before.
    """
    parent, _, own = layer.rpartition(".")
    siblings = dict(model.get_submodule(parent).named_children())
    names = list(siblings)[: list(siblings).index(own) + 1] if own in siblings else [own]
    while len(names) > 1 and not any(isinstance(m, nn.Conv2d) for m in siblings[names[-1]].modules()):
        names.pop()
    earlier = [n for n in names[:-1] if not isinstance(siblings[n], (nn.MaxPool2d, nn.AvgPool2d))]
    return f"{parent}.{earlier[-1]}".lstrip(".") if earlier else layer


def _load_trunk(path: Path, trunk: nn.Module, whole: nn.Module) -> None:
    """Fill the trunk from a file with the whole model's keys, or with those of a network of ours."""
    wanted = trunk.state_dict()
    head = whole.state_dict().keys() - wanted.keys()
    stored = read_tensors(path)
    ours = {key.removeprefix(_TRUNK): value for key, value in stored.items() if key.startswith(_TRUNK)}
    stored = ours or without_prefix(stored, whole.state_dict())
    found = {key: value for key, value in stored.items() if key not in head}
    # BatchNorm's step counter is not a weight; converters leave it out.
    for key in wanted.keys() - found.keys():
        if key.endswith("num_batches_tracked"):
            found[key] = wanted[key]
    require_same_keys(path, found, wanted)
    with torch.no_grad():
        trunk.load_state_dict(found)
