"""The layer table: names in execution order, shapes as a real run gives them, further names, what applies where."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from workers.contract import Layer
from workers.networks import validity
from workers.networks.build import table_of
from workers.networks.catalogue import find_entry
from workers.networks.layers import Table, describe, meta_copy
from workers.passes.calls import CallObserver


def table(model_id: str) -> Table:
    return table_of(find_entry(model_id))


def test_resnet50_has_49_calls_of_17_relus() -> None:
    calls = [layer for layer in table("resnet50").layers if layer.activation == "relu"]
    assert len(calls) == 49
    assert len({layer.name.partition("#")[0] for layer in calls}) == 17
    assert Counter(layer.call for layer in calls) == {1: 17, 2: 16, 3: 16}
    names = [layer.name for layer in table("resnet50").layers]
    assert names.index("layer1.0.relu") < names.index("layer1.0.relu#2") < names.index("layer1.0.relu#3")


def test_googlenet_has_57_functional_relus() -> None:
    found = table("googlenet")
    assert validity.rectifications(found) == {"relu": 57}
    assert "inception3a.branch1.@relu" in found.by_name()
    assert validity.max_pools(found) == 13


def test_timms_own_activation_classes_count_once() -> None:
    found = table("timm:efficientnet_b0")
    assert validity.rectifications(found) == {"silu": 49}
    assert not any("@silu" in layer.name for layer in found.layers)


@pytest.mark.parametrize("model_id", ["resnet18", "googlenet", "mobilenet_v3_small", "efficientnet_lite0", "swin_t"])
def test_shapes_and_order_are_those_of_a_real_run(model_id: str) -> None:
    entry = find_entry(f"{model_id}-random")
    source = entry.source_or_raise()
    network = source.build().eval()
    seen: list[tuple[str, tuple[int, ...]]] = []

    def visit(name: str, kind: str, module: nn.Module | None, output: torch.Tensor) -> torch.Tensor:
        seen.append((name, tuple(output.shape[1:])))
        return output

    with torch.no_grad(), CallObserver(network, visit):
        network(torch.rand(1, 3, *entry.transform.size))
    assert [(layer.name, layer.shape) for layer in table(model_id).layers] == seen


def test_containers_come_after_their_children() -> None:
    found = table("densenet121").by_name()
    block = found["features.denseblock1"]
    assert block.container
    assert block.order > found["features.denseblock1.denselayer6.conv2"].order
    assert block.kernel_shape is None
    assert found["features.conv0"].kernel_shape == (64, 3, 7, 7)


def test_vgg_by_caffes_and_keras_names() -> None:
    found = table("vgg16").by_name()
    assert found["conv5_1"].name == "features.24"
    assert found["conv5_1"].kind == "Conv2d"
    assert found["block5_conv1"].name == "features.25"
    assert found["block5_conv1"].activation == "relu"
    assert found["relu5_3"].name == found["block5_conv3"].name == "features.29"
    assert found["pool5"].name == found["block5_pool"].name == "features.30"
    assert (found["fc6"].name, found["fc1"].name, found["fc8"].name) == ("classifier.0", "classifier.1", "classifier.6")
    with_norms = table("vgg11_bn").by_name()
    assert with_norms["conv1_1"].name == "features.0"
    assert with_norms["block1_conv1"].name == "features.2"


def test_alexnet_by_its_names() -> None:
    found = table("alexnet").by_name()
    names = [found[alias].name for alias in ("conv1", "relu1", "pool1", "conv5", "pool5", "fc6", "fc8")]
    assert names == [f"features.{k}" for k in (0, 1, 2, 10, 12)] + ["classifier.1", "classifier.6"]


@pytest.mark.parametrize("model_id", ["zfnet", "alexnet_2012", "digits"])
def test_our_own_architectures_have_alexnets_names(model_id: str) -> None:
    """Five convolutions, pools after the first, second and fifth, then fully connected layers."""
    layers = table(model_id).by_name()
    named = {alias: layers[alias].kind for alias in (f"conv{k}" for k in range(1, 6))}
    assert named == dict.fromkeys(named, "Conv2d")
    assert [layers[f"pool{k}"].kind for k in (1, 2, 5)] == ["MaxPool2d"] * 3
    assert layers["fc6"].kind == layers["fc7"].kind == "Linear"
    assert layers["conv5"].order < layers["relu5"].order < layers["pool5"].order < layers["fc6"].order


@pytest.mark.parametrize("model_id", ["vgg16", "alexnet", "vgg19_bn", "digits", "zfnet", "alexnet_2012"])
def test_no_name_means_two_layers(model_id: str) -> None:
    layers = table(model_id).layers
    names = [name for layer in layers for name in (layer.name, *layer.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("model_id", "last", "kind"),
    [
        ("densenet121", "@relu", "relu"),
        ("googlenet", "inception5b", "Inception"),
        ("resnet50", "layer4", "Sequential"),
        ("efficientnet_lite0", "bn2", "BatchNormAct2d"),
        ("squeezenet1_1", "classifier.2", "ReLU"),
        ("vgg16", "features", "Sequential"),
        ("swin_t", "permute", "Permute"),
    ],
)
def test_the_last_map_before_global_pooling(model_id: str, last: str, kind: str) -> None:
    layer = validity.last_map(table(model_id))
    assert layer is not None
    assert (layer.name, layer.kind) == (last, kind)


def test_the_last_map_is_what_the_classifier_pools() -> None:
    """Pooled and put through the head, the default CAM layer gives the logits: it is the true last map."""
    from workers.networks import load
    from workers.passes.calls import capture

    for model_id, head in (("densenet121-random", "classifier"), ("googlenet-random", "fc"), ("resnet50-random", "fc")):
        network = load(model_id)
        name = validity.default_layers(network.table)["cam"][0]
        inputs = torch.rand(1, 3, 96, 96)
        with torch.no_grad():
            seen, logits = capture(network.module, inputs, [name], to_output=True)
            pooled = seen[name].mean(dim=(2, 3))
            torch.testing.assert_close(network.module.get_submodule(head)(pooled), logits)


def test_stages_are_the_trunk() -> None:
    assert [layer.name for layer in validity.stages(table("resnet50"))] == [
        "relu",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]
    lite0 = [layer.name for layer in validity.stages(table("efficientnet_lite0"))]
    assert lite0 == ["bn1", "blocks.1", "blocks.2", "blocks.4", "bn2"]
    assert [layer.name for layer in validity.stages(table("maxvit_t"))] == ["stem", *(f"blocks.{k}" for k in range(4))]


def test_defaults_name_layers_where_the_method_applies() -> None:
    for model_id in ("efficientnet_lite0", "resnet50", "vgg16", "densenet121", "googlenet", "alexnet"):
        found = table(model_id)
        usable = validity.methods_at(found)
        defaults = validity.default_layers(found)
        assert set(defaults) == {"feature-maps", "kernels", "deconv", "cam", "occlusion", "maximize", "cka"}
        for operation, names in defaults.items():
            assert all(usable[name][operation] is None for name in names), (model_id, operation)


def test_reasons_why_a_method_does_not_apply() -> None:
    lite0 = validity.methods_at(table("efficientnet_lite0"))
    assert lite0["conv_stem"]["deconv"] is None  # linear up to there, so every rule is exact
    assert lite0["bn1.act"]["deconv"] is None
    assert "no convolution" in str(lite0["bn1.act"]["kernels"])
    assert "no map" in str(lite0["classifier"]["cam"])
    assert lite0["classifier"]["feature-maps"] is None
    assert "single position" in str(lite0["global_pool.pool"]["cam"])
    assert "nonstandard_gate" in str(validity.methods_at(table("efficientnet_b0"))["features.3"]["deconv"])
    assert "nonstandard_gate" in str(validity.methods_at(table("convnext_tiny"))["features.3"]["deconv"])
    swin = validity.methods_at(table("swin_t"))
    assert "channels last" in str(swin["features.1.0"]["feature-maps"])
    assert swin["permute"]["feature-maps"] is None
    vit = validity.methods_at(table("vit_b_16"))
    assert "neither channels with maps" in str(vit["encoder.ln"]["maximize"])
    assert "windows" in str(
        validity.methods_at(table("maxvit_t"))["blocks.0.layers.0.layers.window_attention.attn_layer.0"]["cka"]
    )


class Reused(nn.Module):
    """One ReLU called twice as a module, once as a function; a buffer that only the constructor sets."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.act = nn.ReLU(inplace=True)
        rates = [float(x) for x in torch.linspace(0, 1, 3)]
        self.register_buffer("rate", torch.tensor(rates), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.act(self.second(self.act(self.first(x)))) - self.rate[1])


def test_a_small_network_by_hand() -> None:
    found = describe(meta_copy(Reused), (9, 9))
    assert [(layer.name, layer.kind, layer.shape, layer.call) for layer in found.layers] == [
        ("first", "Conv2d", (4, 9, 9), 1),
        ("act", "ReLU", (4, 9, 9), 1),
        ("second", "Conv2d", (4, 4, 4), 1),
        ("act#2", "ReLU", (4, 4, 4), 2),
        ("@relu", "relu", (4, 4, 4), 1),
    ]
    last: Layer = found.layers[-1]
    assert last.box is not None
    # 3×3 about each pixel, then 3×3 without padding at every second place: five rows from −1 on, two apart.
    assert (last.box.size, last.box.jump, last.box.start) == ((5, 5), (2.0, 2.0), (-1.0, -1.0))


def test_skeletons_leave_other_builders_alone() -> None:
    """While a skeleton is built in one thread, another builds a real network."""
    import threading

    from workers.networks.layers import without_initialisation

    with without_initialisation():
        assert nn.Linear(2, 2).weight.is_meta
        made: list[nn.Linear] = []
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        assert not made[0].weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


def test_networks_are_built_in_several_threads_at_once() -> None:
    """Descriptions without weights beside a network with them: neither the one nor the other is disturbed."""

    def chain() -> nn.Sequential:
        return nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(300)))

    def devices(number: int) -> set[str]:
        network = chain() if number % 4 == 0 else meta_copy(chain)
        return {parameter.device.type for parameter in network.parameters()}

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(devices, range(64)))
    finally:
        sys.setswitchinterval(interval)
    assert found == [{"cpu"} if number % 4 == 0 else {"meta"} for number in range(64)]
