"""What a network answers is found alike with values and without, and said in the same words everywhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.protocol.cards import ModelCard
from tests.workers.methods.answers import MAPS, NUMBERS, SIDE, UNREADABLE, Form
from workers.contract import Outputs
from workers.networks import Networks, validity
from workers.networks.build import load
from workers.networks.outputs import assumption, find_outputs
from workers.passes.scores import logits_of

FORMS = NUMBERS | MAPS | UNREADABLE


def found(module: nn.Module, form: Form, device: str) -> Outputs:
    return find_outputs(
        copy.deepcopy(module).to(device),
        lambda images: torch.rand(images, 3, SIDE, SIDE, device=device),
        output=form.output,
        meaning=form.outputs,
        trained=lambda: module,
    )


@pytest.mark.parametrize("name", list(FORMS))
def test_the_meta_device_tells_what_values_tell(name: str) -> None:
    form = FORMS[name]
    module = form.network().module
    assert found(module, form, "meta") == found(module, form, "cpu")


class Head(nn.Module):
    """Four numbers of an image, and what is done to them."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * SIDE * SIDE, 4)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.linear(x.flatten(1)))


@pytest.mark.parametrize(
    ("end", "count", "link", "known"),
    [
        (lambda z: z.softmax(1)[:, 1], 1, "sigmoid", "recognised"),  # the probability of one class of a softmax
        (lambda z: z.softmax(1)[:, 1:], 3, "sigmoid", "recognised"),
        (lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2, 4, "softmax", "recognised"),  # an ensemble
        (lambda z: (z.sigmoid() + (2 * z).sigmoid()) / 2, 4, "value", "assumed"),
        (lambda z: 100 * z[:, :1].sigmoid(), 1, "value", "assumed"),  # a bounded regression
        (lambda z: z.softmax(0), 4, "value", "assumed"),  # over the images
        (lambda z: z * z.sigmoid(), 4, "softmax", "assumed"),
        (lambda z: F.normalize(z.relu() + 0.1, p=1), 4, "softmax", "recognised"),
        (lambda z: torch.ops.aten.sigmoid.default(z), 4, "sigmoid", "recognised"),
    ],
)
def test_how_networks_end(end: Any, count: int, link: str, known: str) -> None:
    torch.manual_seed(1)
    answer = find_outputs(Head(end).eval(), lambda images: torch.rand(images, 3, SIDE, SIDE))
    assert (answer.form, answer.count, answer.link, answer.known) == ("scores", count, link, known)


def test_only_the_last_call_is_left_out() -> None:
    """A gate inside is a sigmoid too, and stays."""
    module = Head(lambda z: torch.sigmoid(z * z.sigmoid())).eval()
    answer = find_outputs(module, lambda images: torch.rand(images, 3, SIDE, SIDE))
    assert answer.ending == 1
    x = torch.rand(2, 3, SIDE, SIDE)
    z = module.linear(x.flatten(1))
    torch.testing.assert_close(logits_of(module, x, answer), z * z.sigmoid(), rtol=0, atol=0)


def test_a_program_without_source_ends_as_its_network_does() -> None:
    module = Head(nn.Softmax(dim=1)).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    example = (torch.rand(2, 3, SIDE, SIDE),)
    program = torch.export.export(module, example, dynamic_shapes=({"x": {0: batch}})).module()
    answer = find_outputs(program, lambda images: torch.rand(images, 3, SIDE, SIDE))
    assert (answer.link, answer.ends_in) == ("softmax", "softmax")
    x = torch.rand(3, 3, SIDE, SIDE)
    torch.testing.assert_close(logits_of(program, x, answer), module.linear(x.flatten(1)), rtol=0, atol=0)


def test_networks_of_libraries_answer_as_ever() -> None:
    for name in ("squeezenet1_1-random", "digits"):
        answer = load(name).outputs
        assert (answer.form, answer.link, answer.known, answer.ending) == ("scores", "softmax", "assumed", None)


FACTORY = """
from torch import nn


class Segmenter(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.classes = nn.Conv2d(8, num_classes, 1)
        self.last = nn.Softmax(dim=1)

    def forward(self, x):
        return {"out": self.last(self.classes(self.features(x)))}


class Boxes(Segmenter):
    def forward(self, x):
        return [{"boxes": self.features(x), "scores": x}]
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder: Path = tmp_path_factory.mktemp("own")
    (folder / "own_answers.py").write_text(FACTORY)
    (folder / "catalogue.toml").write_text(
        "\n".join(
            f"[networks.{name}]\nsource = 'python:own_answers:{factory}'\nweights = 'random'\nnum_classes = 3\n{more}"
            "\n[networks.NAME.preprocess]\nsize = 16\nresize = 16".replace("NAME", name)
            for name, factory, more in (
                ("segmenter", "Segmenter", ""),
                ("contradicted", "Segmenter", "outputs = 'sigmoid'"),
                ("boxes", "Boxes", ""),
            )
        )
    )
    return Networks(weights_folder=folder, catalogue=folder / "catalogue.toml")


def test_the_card_says_it(networks: Networks) -> None:
    card = ModelCard.model_validate(networks.card("segmenter"))
    assert card.outputs is not None and card.outputs.problem is None
    assert (card.outputs.form, card.outputs.count, card.outputs.outputs) == ("planes", 3, "softmax")
    assert card.outputs.read == "output['out'] of a dict of 1 (out: a tensor of 1×3×16×16)"
    assert card.outputs.ends_in == "softmax" and card.dense and card.class_count == 3
    # Where the evidence for a class lies is looked for before the maps of the classes themselves.
    assert card.default_layers["cam"] == ("features",) and card.default_layers["occlusion"] == ("features",)
    network = networks.get("segmenter")
    assert network.outputs.sentence() == (
        "reads output['out'] of a dict of 1 (out: a tensor of 1×3×16×16): 3 classes, one map each, whose softmax is "
        "the probability; the network itself ends in softmax"
    )


def test_what_was_assumed_is_said_and_what_is_known_is_not(networks: Networks) -> None:
    assert networks.get("segmenter").notes("exact", answered=True) == []
    several = Outputs(count=3)
    assert "a softmax over its classes is assumed" in str(assumption(several, "tea"))
    assert "no probability is told" in str(assumption(Outputs(link="value"), "tea"))
    assert assumption(Outputs(count=3, known="declared"), "tea") is None
    assert load("squeezenet1_1-random").notes("exact", answered=True) == []


@pytest.mark.parametrize(("name", "words"), [("boxes", "a list of 1"), ("contradicted", "outputs = 'sigmoid'")])
def test_the_table_says_what_cannot_be_read(networks: Networks, name: str, words: str) -> None:
    card = ModelCard.model_validate(networks.card(name))
    assert card.outputs is not None and words in str(card.outputs.problem)
    for layer in card.layers:
        for operation in validity.OF_THE_ANSWER:
            assert layer.methods[operation] is not None
        assert layer.methods["feature-maps"] is None
    assert any(words in str(layer.methods["cam"]) for layer in card.layers)
