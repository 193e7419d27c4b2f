"""Every classification network that torchvision lists: its table without weights, and feature maps with random ones."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations import operations
from tests.workers.fakes import finish
from workers.contract import Grant, MethodError, Row, params
from workers.methods.feature_maps import METHOD
from workers.networks import Networks
from workers.networks.build import table_of
from workers.networks.catalogue import find_entry
from workers.networks.skeletons import skeleton
from workers.networks.sources import torchvision_names

ONE_OF_EACH_FAMILY = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16",
]  # fmt: skip
SMALL = [
    "efficientnet_b0", "googlenet", "mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1",
]  # fmt: skip


def check_card(model_id: str, folder: Path) -> None:
    card = ModelCard(**Networks(weights_folder=folder).card(model_id))
    assert len(card.layers) > 20
    assert [layer.order for layer in card.layers] == list(range(len(card.layers)))
    assert len({layer.name for layer in card.layers}) == len(card.layers)
    assert card.layers[-1].channels == 1000
    first = card.layer(card.default_layers["feature-maps"][0])
    assert first.kernel_shape is not None
    assert first.receptive_field is not None
    assert first.receptive_field.size == first.kernel_shape[2:]
    last = card.layer(card.default_layers["deconv"][0])
    assert last.spatial
    assert last.shape[1] * last.shape[2] > 1
    assert ("cam" in card.default_layers) != model_id.startswith("vit"), "the patch embedding tells nothing of classes"


def check_maps(model_id: str, folder: Path) -> None:
    networks = Networks(weights_folder=folder, memory_mib=8192)
    card = ModelCard(**networks.card(f"{model_id}-random"))
    operation = operations()["feature-maps"]
    layers = list(dict.fromkeys([card.default_layers["feature-maps"][0], card.default_layers["deconv"][0]]))
    wish = operation.request(images=[{"id": "one"}], layers=layers, channels="first:3")
    request = params(operation.resolve(wish, card).model_dump(mode="json"))
    upload = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8))
    (result,), _ = finish(METHOD.run(networks.get(f"{model_id}-random"), [Row(request, [upload])], Grant()))
    assert not isinstance(result, MethodError), result
    for name in layers:
        shape = card.layer(name).shape
        assert result.arrays[f"maps/{name}"].shape == (1, 3, *shape[1:])


@pytest.mark.parametrize("model_id", ONE_OF_EACH_FAMILY)
def test_one_of_each_family_has_its_table(model_id: str, tmp_path: Path) -> None:
    check_card(model_id, tmp_path)


@pytest.mark.parametrize("model_id", SMALL)
def test_small_networks_answer_with_random_weights(model_id: str, tmp_path: Path) -> None:
    check_maps(model_id, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("model_id", torchvision_names())
def test_every_network_has_its_table(model_id: str, tmp_path: Path) -> None:
    check_card(model_id, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model_id", torchvision_names())
def test_every_network_answers_with_random_weights(model_id: str, tmp_path: Path) -> None:
    check_maps(model_id, tmp_path)


def test_tables_are_made_once() -> None:
    entry = find_entry("squeezenet1_1")
    assert table_of(entry) is table_of(entry)
    assert isinstance(table_of, functools._lru_cache_wrapper)


COPYING = ("swin_transformer_v2", "swin_transformer_v2_cr", "vision_transformer_hybrid", "vitamin")
"""Families whose constructors read their parameters back, which parameters without values cannot give."""


def smallest_of(family: str) -> str:
    """A small network of a module of timm's, by its name."""
    small = ("pico", "nano", "micro", "atto", "femto", "tiny", "xxs", "xs", "small", "mini", "_s", "18", "b0", "050")
    names = timm.list_models(module=family)
    return min(names, key=lambda name: (next((k for k, word in enumerate(small) if word in name), len(small)), name))


def described(family: str) -> None:
    entry = find_entry(f"timm:{smallest_of(family)}")
    network = skeleton(entry)
    assert all(parameter.is_meta for parameter in network.parameters()), family
    assert sum(parameter.numel() for parameter in network.parameters()) > 10_000


@pytest.mark.parametrize("family", [*COPYING, "resnet", "efficientnet", "beit", "vgg"])
def test_families_of_timm_are_built_without_weights_through_the_catalogue(family: str) -> None:
    described(family)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_family_of_timm_is_built_without_weights_through_the_catalogue() -> None:
    families = sorted(timm.list_modules())
    assert len(families) == 98  # of timm 1.0.31
    failed = {}
    for family in families:
        try:
            described(family)
        except (MethodError, AssertionError) as error:
            failed[family] = str(error)
    assert not failed
