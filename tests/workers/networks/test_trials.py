"""What networks of their owners can bear, found by trying, and what is done about what they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convscope.protocol.cards import ModelCard
from tests.workers.fakes import finish
from tests.workers.networks import own_networks
from workers.contract import Grant, MethodError, Outcome, Row, params
from workers.engine.registry import find_methods
from workers.networks import LoadedNetwork, Networks
from workers.networks.trials import keep_contiguous, try_out

SIZE = (32, 32)
MODULE = "tests.workers.networks.own_networks"


def entry(factory: str, preprocess: str = "") -> str:
    how = f"size = 32\nresize = 32\nmean = 0.5\nstd = 0.25\n{preprocess}"
    return (
        f'[networks.{factory}]\nsource = "python:{MODULE}:{factory}"\nweights = "random"\nclasses = ["a", "b", "c"]\n'
        f"[networks.{factory}.preprocess]\n{how}\n"
    )


def networks_of(folder: Path, *factories: str, preprocess: str = "") -> Networks:
    (folder / "catalogue.toml").write_text("\n".join(entry(factory, preprocess) for factory in factories))
    return Networks(weights_folder=folder, catalogue=folder / "catalogue.toml")


def pictures(count: int, side: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, 256, (side, side, 3), dtype=torch.uint8, generator=generator) for _ in range(count)]


def answered(network: LoadedNetwork, operation: str, images: list[Tensor], **request: Any) -> list[Any]:
    """What an operation makes of one row for each image, all of one batch."""
    wish = {"preprocess": None, "precision": "exact", "seed": 0} | request
    rows = [Row(params(wish), [image]) for image in images]
    return finish(find_methods()[operation].run(network, rows, Grant()))[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("factory", "channels_last", "alone", "random"),
    [
        ("body", True, False, False),
        ("flattened", False, False, False),
        ("batch_statistics", True, True, False),
        ("one_at_a_time", True, True, False),
        ("dropping", True, False, True),
        ("constant", True, False, False),
        ("coordinates", True, False, False),
        ("branch", True, False, False),
        ("numpy", True, False, False),
        ("with_planes_of_time", True, False, False),
        ("weight_normed", True, False, False),
    ],
)
def test_what_each_can_bear_is_found_and_said_by_its_card(
    tmp_path: Path, factory: str, channels_last: bool, alone: bool, random: bool
) -> None:
    networks = networks_of(tmp_path, factory)
    card = ModelCard.model_validate(networks.card(factory))
    assert card.behaviour is not None
    assert card.behaviour.channels_last is channels_last
    assert (card.behaviour.alone is not None) is alone
    assert card.behaviour.random is random
    assert networks.get(factory).behaviour.as_json() == card.behaviour.model_dump()
    # Another start takes what the kept card says, and finds no other.
    again = Networks(weights_folder=tmp_path, catalogue=tmp_path / "catalogue.toml")
    assert again.get(factory).behaviour == networks.get(factory).behaviour


def test_a_network_that_flattens_with_view_runs_in_every_layout_and_precision(tmp_path: Path) -> None:
    network = networks_of(tmp_path, "flattened").get("flattened")
    plain = own_networks.Flattened().eval()
    plain.load_state_dict(network.module.state_dict())
    inputs, _ = network.prepare(pictures(3))
    with torch.no_grad():
        expected = plain(inputs)
        last = inputs.contiguous(memory_format=torch.channels_last)
        for module in (network.module, network.lean_module(False)):
            torch.testing.assert_close(module(last), expected)
        for module in (network.fast_module(), network.lean_module(True)):
            torch.testing.assert_close(module(last), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_a_grey_network_that_flattens_with_view_runs_fast() -> None:
    """One plane has one layout, so that the input alone tells nothing: the weights' layout makes the maps'."""
    torch.manual_seed(0)
    network = own_networks.Flattened(1).eval()
    behaviour = try_out("grey", network, SIZE, 1)
    assert not behaviour.channels_last and behaviour.fast_reason is None


def test_quicker_convolutions_give_contiguous_maps_where_the_network_needs_them() -> None:
    from workers.compiled.minimal_filtering import can_filter
    from workers.networks.lean import make_lean

    if not can_filter():
        pytest.skip("no minimal filtering on this machine")

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(64, 64, 3, padding=1)
            self.two = nn.Linear(64 * 96 * 96, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).view(len(x), -1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    network = Large().eval().requires_grad_(False)
    keep_contiguous(network)
    lean = make_lean(network, {"one": (64, 96, 96)}, channels_last=False)
    assert lean is not network
    inputs = torch.randn(2, 64, 96, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(lean(inputs), network(inputs), rtol=1e-4, atol=1e-4)


def test_images_whose_answers_would_depend_on_their_company_are_run_alone(tmp_path: Path) -> None:
    networks = networks_of(tmp_path, "batch_statistics", "one_at_a_time")
    images = pictures(4)
    for model in ("batch_statistics", "one_at_a_time"):
        network = networks.get(model)
        assert network.most_images == 1
        for operation, request, array in (
            ("classify", {"top": 3}, "logits"),
            ("saliency", {"method": "gradient", "target": 1, "nonstandard_gate": False}, "attribution"),
            ("feature-maps", {"layers": ["one"], "channels": "all", "by": "max"}, "maps/one"),
        ):
            wish = params(request)
            together = answered(network, operation, images, **vars(wish))
            for image, one in zip(images, together, strict=True):
                assert isinstance(one, Outcome), one
                (alone,) = answered(network, operation, [image], **vars(wish))
                torch.testing.assert_close(one.arrays[array], alone.arrays[array], rtol=1e-6, atol=1e-6)
        notes = network.notes("exact")
        assert len(notes) == 1 and "by itself" in notes[0]


def test_rows_for_one_image_at_another_size_are_refused(tmp_path: Path) -> None:
    """At 64×64 `view(-1, 640)` makes four rows of each image: image 2 would be given row 2 of image 1."""
    networks = networks_of(tmp_path, "flattened_rows")
    network = networks.get("flattened_rows")
    how = params({"size": [64, 64], "crop": None, "resize_mode": None})
    with pytest.raises(MethodError, match="4 rows of answers for one image") as caught:
        network.prepare(pictures(2, 64), how)
    assert caught.value.problem == "not-applicable"
    assert networks.card("flattened_rows")["preprocess"]["resizable"] is False


def test_rows_for_one_image_at_its_own_size_are_said_when_it_is_described(tmp_path: Path) -> None:
    (tmp_path / "catalogue.toml").write_text(entry("flattened_rows").replace("32", "64"))
    networks = Networks(weights_folder=tmp_path, catalogue=tmp_path / "catalogue.toml")
    with pytest.raises(MethodError, match="4 rows of answers for one image") as caught:
        networks.card("flattened_rows")
    assert caught.value.problem == "network-does-not-run"


@pytest.mark.parametrize("factory", ["constant", "coordinates", "branch", "numpy"])
def test_networks_that_do_not_run_on_meta_are_described_by_one_real_run(tmp_path: Path, factory: str) -> None:
    networks = networks_of(tmp_path, factory)
    card = ModelCard.model_validate(networks.card(factory))
    one = card.layer("one")
    assert one.shape == (8, 32, 32) and one.kind == "Conv2d"
    assert one.methods["cam"] is None
    network = networks.get(factory)
    plain = getattr(own_networks, factory)().eval()
    plain.load_state_dict(network.module.state_dict())
    (found,) = answered(network, "classify", pictures(1), top=3)
    with torch.no_grad():
        torch.testing.assert_close(found.arrays["logits"], plain(network.prepare(pictures(1))[0]))


def test_what_does_not_run_at_all_is_said_with_the_place_and_the_reason(tmp_path: Path) -> None:
    with pytest.raises(MethodError) as caught:
        networks_of(tmp_path, "mismatched").card("mismatched")
    assert caught.value.problem == "network-does-not-run"
    assert "in two (Linear, which takes 9 numbers an image and is given 1×8)" in caught.value.detail
    assert "mat1 and mat2 shapes cannot be multiplied" in caught.value.detail


def test_planes_that_do_not_fit_are_said_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(MethodError) as caught:
        networks_of(tmp_path, "body", preprocess="channels = 1").card("body")
    assert caught.value.problem == "network-does-not-run"
    assert "in one (Conv2d, which takes 3 planes and is given 1)" in caught.value.detail


def test_kernels_of_normed_weights_are_those_that_the_network_runs_with(tmp_path: Path) -> None:
    network = networks_of(tmp_path, "weight_normed").get("weight_normed")
    state = network.module.state_dict()
    direction, length = state["old.weight_v"], state["old.weight_g"]
    expected = {"old": length * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)}
    length, direction = state["new.parametrizations.weight.original0"], state["new.parametrizations.weight.original1"]
    expected["new"] = length * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    matrix = state["spectral.weight_orig"]
    sigma = state["spectral.weight_u"] @ matrix.flatten(1) @ state["spectral.weight_v"]
    expected["spectral"] = matrix / sigma
    for layer, kernels in expected.items():
        wish = {"layer": layer, "filters": "all", "inputs": "all"}
        (found,) = finish(find_methods()["kernels"].run(network, [Row(params(wish))], Grant()))[0]  # type: ignore[union-attr]
        assert isinstance(found, Outcome)
        torch.testing.assert_close(found.arrays["weights"], kernels)


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = own_networks.Dropping().eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    assert try_out("dropping", network, SIZE, 3).random
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert type(network) is own_networks.Dropping


@pytest.mark.parametrize("factory", ["half", "complex_weights", "compiled"])
def test_what_a_factory_gives_is_computed_in_float32_and_complex_numbers_stay(tmp_path: Path, factory: str) -> None:
    """As its own author's network answers, half a network as the same numbers in whole."""
    network = networks_of(tmp_path, factory).get(factory)
    kinds = {tensor.dtype for tensor in network.module.parameters()}
    assert kinds == ({torch.float32, torch.complex64} if factory == "complex_weights" else {torch.float32})
    torch.manual_seed(0)
    own = getattr(own_networks, factory)()
    own = getattr(own, "_orig_mod", own).eval()
    own = own.float() if factory == "half" else own
    inputs = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(network.module(inputs), own(inputs))
        assert network.fast_module()(inputs).isfinite().all()


def test_a_scripted_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="its part one is a scripted program"):
        networks_of(tmp_path, "scripted").card("scripted")
