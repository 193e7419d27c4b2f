"""What may be asked of each layer, and which layers are used when a request names none."""

from __future__ import annotations

from collections import Counter

from workers.contract import Layer, Outputs
from workers.networks.layers import BETWEEN, RECTIFIERS, SMOOTH, Table, is_max_pool, keeps_map

LAYER_OPERATIONS = (
    "feature-maps",
    "kernels",
    "deconv",
    "saliency",
    "occlusion",
    "cam",
    "maximize",
    "cka",
    "top-activations",
)
"""Operations that name layers."""

ASSUMED = Outputs()

MOST_EXTRA_TOKENS = 16
"""Beside one for each place: of the class, of distillation, registers."""

OF_THE_ANSWER = ("occlusion", "cam")
"""Those of them that read the network's answer whatever else is asked of them."""


def rectifications(table: Table) -> dict[str, int]:
    """Kind of activation → calls of it, gates such as sigmoid left out."""
    kinds = Counter(layer.activation for layer in table.layers if layer.activation in RECTIFIERS)
    return {str(kind): count for kind, count in sorted(kinds.items(), key=lambda item: str(item[0]))}


def max_pools(table: Table) -> int:
    """Calls of max-pools, the places where a deconvnet has switches."""
    return sum(is_max_pool(layer) for layer in table.layers)


def methods_at(table: Table, outputs: Outputs = ASSUMED) -> dict[str, dict[str, str | None]]:
    """Call name → operation → None where it applies, else the reason why not."""
    found: dict[str, dict[str, str | None]] = {}
    before: Counter[str] = Counter()
    for layer in table.layers:
        if layer.activation is not None:
            before[layer.activation] += 1
        found[layer.name] = _methods_of(layer, table, before)
        if outputs.refusal is not None:
            found[layer.name] |= {name: found[layer.name][name] or outputs.refusal for name in OF_THE_ANSWER}
    return found


def _methods_of(layer: Layer, table: Table, before: Counter[str]) -> dict[str, str | None]:
    shape = _shape_refusal(layer, table)
    reasons: dict[str, str | None] = dict.fromkeys(LAYER_OPERATIONS, shape)
    reasons["kernels"] = (
        None if layer.kernel_shape is not None else f"it is a {layer.kind}, no convolution with kernels"
    )
    if shape is None:
        reasons["deconv"] = _deconv_refusal(layer, before)
        if not layer.spatial:
            reasons["cam"] = "its output has no map, only one number a channel"
        elif layer.shape[1] * layer.shape[2] == 1:
            reasons["cam"] = "its map has a single position, which tells no place"
    return reasons


def _shape_refusal(layer: Layer, table: Table) -> str | None:
    sides = "×".join(map(str, layer.shape))
    if layer.name in table.channels_last:
        return f"its output is laid out {sides} with the channels last"
    if layer.name in table.folded:
        return f"its output {sides} folds the positions of the map into windows"
    if len(layer.shape) not in (1, 3):
        return f"its output has the shape {sides or '()'}, neither channels with maps nor one number a channel"
    return None


def _deconv_refusal(layer: Layer, before: Counter[str]) -> str | None:
    if not layer.spatial:
        return "its output has no map, only one number a channel"
    if not before:
        return None  # the way back is linear, and every rule is exact
    if not set(before) & RECTIFIERS:
        return "no rectification lies between the input and it, so every rule would give the plain gradient"
    smooth = sorted(set(before) & SMOOTH)
    if smooth:
        return (
            f"its activations ({', '.join(smooth)}) pass negative values, for which the deconvnet and guided rules are "
            "not defined; nonstandard_gate=true applies them nevertheless"
        )
    return None


def _maps(table: Table) -> list[Layer]:
    """Calls with maps of more than one position that are their own, in execution order.

    What is put together of the input's planes before the first convolution is still the input.
    """
    first = next((layer.order for layer in table.layers if layer.kernel_shape is not None), 0)
    return [
        layer
        for layer in table.layers
        if layer.spatial
        and (layer.order >= first or layer.kind not in BETWEEN)
        and layer.name not in table.channels_last | table.folded
        and layer.shape[1] * layer.shape[2] > 1
        and not keeps_map(layer)
    ]


def last_map(table: Table) -> Layer | None:
    """The last spatial map before global pooling: the last call in execution order whose map has positions.

    In ResNet-50 that is `layer4` after its addition and ReLU, in GoogLeNet the concatenation `inception5b`, in DenseNet
    the functional ReLU after `features`, none of which is a convolution.
    """
    maps = _maps(table)
    return maps[-1] if maps else None


def stages(table: Table) -> list[Layer]:
    """One layer for each resolution on the trunk, shallow to deep: of each map size, the last call of least depth."""
    last: dict[tuple[int, ...], Layer] = {}
    for layer in _maps(table):
        size = layer.shape[1:]
        if size not in last or _depth(layer) <= _depth(last[size]):
            last[size] = layer
    trunk: list[Layer] = []
    for layer in sorted(last.values(), key=lambda layer: layer.order):
        # Maps only shrink along a trunk; a larger one later on belongs to a side branch.
        if not trunk or layer.shape[1] * layer.shape[2] < trunk[-1].shape[1] * trunk[-1].shape[2]:
            trunk.append(layer)
    return trunk


def _depth(layer: Layer) -> int:
    return layer.name.partition("#")[0].count(".")


def before_classes(table: Table, outputs: Outputs) -> Layer | None:
    """The last map that is not yet one of the classes' own, of a network that answers in maps.

    At the end such a network has as many channels as classes: the convolution that makes them, its container, what
    resizes them. What comes before tells where in the features the evidence for a class lies.
    """
    maps = [layer for layer in table.layers if layer.spatial]
    own = len(maps)
    while own and maps[own - 1].shape[0] == outputs.count:
        own -= 1
    inside = {layer.name for layer in maps[:own]}
    chosen = [layer for layer in _maps(table) if layer.name in inside]
    return chosen[-1] if chosen else None


def works_on_tokens(table: Table, last: Layer) -> bool:
    """Whether the places of the last map go on as tokens, T×C, as in a vision transformer (Dosovitskiy 2021)."""
    places = last.shape[1] * last.shape[2]
    return any(
        layer.order > last.order and len(layer.shape) == 2 and places <= layer.shape[0] <= places + MOST_EXTRA_TOKENS
        for layer in table.layers
    )


def default_layers(table: Table, outputs: Outputs = ASSUMED) -> dict[str, tuple[str, ...]]:
    """Operation → the layers used when a request names none."""
    names: dict[str, tuple[str, ...]] = {}
    usable = methods_at(table, outputs)
    convolution = next((layer.name for layer in table.layers if layer.kernel_shape is not None), None)
    if convolution is not None:
        names["kernels"] = (convolution,)
    for layer in table.layers:
        if "feature-maps" not in names and usable[layer.name]["feature-maps"] is None:
            names["feature-maps"] = (layer.name,)  # of a network without convolutions, whatever comes first
    if convolution is not None and usable[convolution]["feature-maps"] is None:
        names["feature-maps"] = (convolution,)
    last, trunk = last_map(table), stages(table)
    if outputs.form == "planes":
        last = before_classes(table, outputs) or last
    if last is not None:
        names |= {"deconv": (last.name,), "cam": (last.name,), "occlusion": (last.name,)}
        if works_on_tokens(table, last):
            # A map of evidence at the patch embedding would look like one of the class, and tell nothing of it.
            del names["cam"]
    if trunk:
        middle = trunk[len(trunk) // 2].name
        names |= {"maximize": (middle,), "cka": (middle,)}
    elif "feature-maps" in names:
        names |= {"maximize": names["feature-maps"], "cka": names["feature-maps"]}
    return names
