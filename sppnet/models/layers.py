"""Several layers of a backbone from one pass over the images.

Axes: n images; a layer's output is n c h w.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from sppnet.models.backbones import LayeredBackbone, TorchvisionBackbone
from sppnet.models.trunk import Backbone


def activations_of(
    backbone: Backbone, images: Float[Tensor, "n 3 h w"], layers: Sequence[str]
) -> dict[str, Float[Tensor, "n _ _ _"]]:
    """Compute the outputs of several layers, and nothing behind the deepest.

    Args:
        backbone: The convolutions. One of a class not our own takes a pass for every layer.
        images: Normalised images.
        layers: Roles ("conv4", "conv5") or names of submodules, all of them known to the backbone.

    Returns:
        From each name to what `Backbone.activations` returns for it, bit for bit.
    """
    modules = {layer: backbone.roles.get(layer, layer) for layer in layers}
    if isinstance(backbone, LayeredBackbone):
        outputs = _of_sequence(backbone.trunk, images, set(modules.values()))
        return {layer: outputs[module] for layer, module in modules.items()}
    if isinstance(backbone, TorchvisionBackbone):
        nodes = {layer: backbone._nodes[module] for layer, module in modules.items()}
        outputs = _of_graph(backbone.trunk, backbone._graph, images, set(nodes.values()))
        return {layer: outputs[node] for layer, node in nodes.items()}
    return {layer: backbone.activations(images, layer) for layer in layers}


def _of_sequence(trunk: nn.Module, images: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
    """Run named children until all wanted ones have run."""
    outputs: dict[str, Tensor] = {}
    for name, layer in trunk.named_children():
        if len(outputs) == len(wanted):
            break
        images = layer(images)
        if name in wanted:
            # Copied where the pass goes on, because an in-place ReLU behind a layer would change it.
            outputs[name] = images.clone() if len(outputs) + 1 < len(wanted) else images
    return outputs


def _of_graph(
    trunk: nn.Module, whole: fx.Graph, images: Tensor, wanted: Collection[str]
) -> dict[str, Tensor]:
    """Run a graph's nodes until all wanted ones have run."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    outputs: dict[str, fx.Node] = {}
    for node in whole.nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.name in wanted:
            is_last = len(outputs) + 1 == len(wanted)
            outputs[node.name] = (
                copies[node] if is_last else graph.call_function(torch.clone, (copies[node],))
            )
            if is_last:
                break
    graph.output(outputs)
    computed: dict[str, Tensor] = fx.Interpreter(trunk, graph=graph).run(images)
    return computed
