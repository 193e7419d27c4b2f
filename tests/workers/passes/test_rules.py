"""The backward rules against their tables, on every way a network can call a rectification."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tests.workers.fakes import traces
from workers.passes.rules import RULES, RuleMode

X = [-1.0, -1.0, 2.0, 2.0]
G = [-3.0, 5.0, -3.0, 5.0]
RELU_TABLE = {"gradient": [0.0, 0.0, -3.0, 5.0], "deconvnet": [0.0, 5.0, 0.0, 5.0], "guided": [0.0, 0.0, 0.0, 5.0]}


def back(rule: str, call: Callable[[Tensor], Tensor], x: list[float], g: list[float]) -> tuple[list[float], RuleMode]:
    """What comes down through one call for a signal g from above."""
    leaf = torch.tensor(x).view(1, -1, 1, 1).requires_grad_(True)
    mode = RuleMode(rule)
    with mode:
        output = call(leaf * 1.0)
    assert output.flatten().tolist() == call(torch.tensor(x).view(1, -1, 1, 1)).flatten().tolist()
    (down,) = torch.autograd.grad(output, leaf, torch.tensor(g).view(1, -1, 1, 1))
    mode.found = mode.report(output)  # type: ignore[attr-defined]
    return down.flatten().tolist(), mode


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(), "module in place": nn.ReLU(inplace=True), "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True), "torch.relu": torch.relu, "torch.relu_": torch.relu_,
    "x.relu()": lambda x: x.relu(), "x.relu_()": lambda x: x.relu_(), "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0), "threshold": nn.Threshold(0.0, 0.0),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("call", RELUS.values(), ids=RELUS.keys())
def test_relu_table(rule: str, call: Callable[[Tensor], Tensor]) -> None:
    down, mode = back(rule, call, X, G)
    assert down == RELU_TABLE[rule]
    assert mode.found.rectifications == {"relu": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "call", [nn.ReLU6(), nn.ReLU6(inplace=True), F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: x.clamp(0, 6)]
)
@pytest.mark.parametrize(("rule", "expected"), [("gradient", 0.0), ("guided", 0.0), ("deconvnet", 5.0)])
def test_relu6_beyond_its_limit(call: Callable[[Tensor], Tensor], rule: str, expected: float) -> None:
    down, mode = back(rule, call, [7.0, *X], [5.0, *G])
    assert down == [expected, *RELU_TABLE[rule]]
    assert mode.found.rectifications == {"relu6": 1}  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", [nn.LeakyReLU(0.1), nn.LeakyReLU(0.1, inplace=True), nn.PReLU(init=0.1)])
def test_leaky_kinds_multiply_by_their_slope_where_relu_cuts(call: nn.Module) -> None:
    call.requires_grad_(False)
    assert back("gradient", call, X, G)[0] == pytest.approx([-0.3, 0.5, -3.0, 5.0])
    assert back("deconvnet", call, X, G)[0] == pytest.approx([-0.3, 5.0, -0.3, 5.0])
    assert back("guided", call, X, G)[0] == pytest.approx([-0.03, 0.5, -0.3, 5.0])


def test_prelu_has_a_slope_for_each_channel_and_slope_one_changes_nothing() -> None:
    prelu = nn.PReLU(4).requires_grad_(False)
    prelu.weight.copy_(torch.tensor([0.0, 1.0, 0.5, 1.0]))
    assert back("guided", prelu, [-1.0] * 4, [-4.0] * 4)[0] == [0.0, -4.0, -1.0, -4.0]


def test_clamps_each_paths_own_signal_not_the_sum_over_consumers() -> None:
    """The ReLU path brings +1 and the skip path −3: clamping the sum would give 0."""
    x = torch.ones(1, requires_grad=True)
    with RuleMode("deconvnet"):
        y = x * 1.0
        out = F.relu(y) * 1.0 + y * -3.0
    assert torch.autograd.grad(out, x)[0].tolist() == [-2.0]


def test_in_place_rectification_of_a_view_and_of_a_value_used_later() -> None:
    x = torch.tensor([[-1.0, 2.0, 3.0, -4.0]], requires_grad=True)
    with RuleMode("guided") as mode:
        y = x * 1.0
        left = y[:, :2]
        left.relu_()
        out = (y * torch.tensor([[1.0, 1.0, 1.0, -1.0]])).sum()
    assert y.tolist() == [[0.0, 2.0, 3.0, -4.0]]
    assert torch.autograd.grad(out, x)[0].tolist() == [[0.0, 1.0, 1.0, -1.0]]
    assert mode is not None


@pytest.mark.parametrize(
    "module", [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.ELU(), nn.Mish(), nn.Softplus(), nn.SELU()]
)
def test_bent_gates_are_reported_and_treated_as_relus_only_on_request(module: nn.Module) -> None:
    x = torch.tensor(X, requires_grad=True)
    with RuleMode("guided") as mode:
        output = module(x * 1.0)
    report = mode.report(output)
    assert sum(report.nonstandard.values()) == 1
    assert not report.rectifications
    with RuleMode("guided", nonstandard_gate=True) as mode:
        output = module(x * 1.0)
    assert torch.autograd.grad(output, x, torch.tensor(G))[0].tolist() == RELU_TABLE["guided"]
    assert sum(mode.report(output).rectifications.values()) == 1


def test_a_rectification_that_the_mode_could_not_see_is_reported() -> None:
    x = torch.tensor(X, requires_grad=True)
    hidden = torch.relu(x * 1.0)
    with RuleMode("guided") as mode:
        output = hidden * 2
    assert mode.report(output).escaped == {"Relu": 1}


class Reference(torch.autograd.Function):
    """The rules as formulas, by multiplication."""

    @staticmethod
    def forward(ctx: object, x: Tensor, limit: float, rule: str) -> Tensor:
        ctx.x, ctx.limit, ctx.rule = x, limit, rule  # type: ignore[attr-defined]
        return x.clamp(0, limit)

    @staticmethod
    def backward(ctx: object, *signals: Tensor) -> tuple[Tensor, None, None]:
        (g,), x = signals, ctx.x  # type: ignore[attr-defined]
        forward_gate, backward_gate = (x > 0).float() * (x < ctx.limit).float(), (g > 0).float()  # type: ignore[attr-defined]
        gates = {"gradient": forward_gate, "deconvnet": backward_gate, "guided": forward_gate * backward_gate}
        return g * gates[ctx.rule], None, None  # type: ignore[attr-defined]


NETWORKS = {
    "googlenet": ("relu", 57),
    "resnet50": ("relu", 49),
    "mobilenet_v2": ("relu6", 35),
    "densenet121": ("relu", 121),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_against_functions_replaced_by_formulas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, count = NETWORKS[name]
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **extra).eval().requires_grad_(False)
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    before = traces(network)
    found = {}
    for rule in RULES:
        mode = RuleMode(rule)
        with mode:
            output = network(x)
        assert mode.report(output).rectifications == {kind: count}
        (found[rule],) = torch.autograd.grad(output[0, 7], x)
    assert traces(network) == before
    for rule in RULES:
        with monkeypatch.context() as patch:
            patch.setattr(F, "relu", lambda y, inplace=False, rule=rule: Reference.apply(y.clone(), float("inf"), rule))
            patch.setattr(
                F, "hardtanh", lambda y, low, high, inplace=False, rule=rule: Reference.apply(y.clone(), high, rule)
            )
            (expected,) = torch.autograd.grad(network(x)[0, 7], x)
        scale = float(expected.abs().max())
        assert scale > 0
        assert float((found[rule] - expected).abs().max()) <= 1e-5 * scale
    assert float((found["guided"] - found["gradient"]).norm() / found["gradient"].norm()) > 0.1


def test_threads_do_not_see_each_others_rules() -> None:
    results: dict[str, list[float]] = {}
    start = threading.Barrier(3)

    def work(rule: str) -> None:
        x = torch.tensor(X, requires_grad=True)
        start.wait()
        for _ in range(50):
            with RuleMode(rule):
                output = F.relu(x * 1.0)
            (down,) = torch.autograd.grad(output, x, torch.tensor(G))
            results.setdefault(rule, down.tolist())
            assert down.tolist() == results[rule]

    threads = [threading.Thread(target=work, args=(rule,)) for rule in RULES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == RELU_TABLE


def test_an_error_inside_leaves_no_mode_behind() -> None:
    with pytest.raises(ZeroDivisionError), RuleMode("deconvnet"):
        _ = 1 / 0
    x = torch.tensor(X, requires_grad=True)
    assert torch.autograd.grad(F.relu(x), x, torch.tensor(G))[0].tolist() == RELU_TABLE["gradient"]


class Bump(nn.Module):
    """One 5×5 plane whose centre is the maximum of all four windows."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2)


@pytest.mark.parametrize(("switches", "expected"), [("sum", 15.0), ("last", 8.0)])
def test_one_pixel_the_switch_of_four_windows(switches: str, expected: float) -> None:
    """Signals 1, 2, 4, 8: autograd adds them, `max_unpool2d` leaves the last."""
    x = torch.zeros(1, 1, 5, 5)
    x[..., 2, 2] = 9
    x.requires_grad_(True)
    with RuleMode("gradient", switches=switches) as mode:
        output = Bump()(x)
    signal = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    (down,) = torch.autograd.grad(output, x, signal)
    assert float(down[..., 2, 2]) == expected
    assert float(down.sum()) == expected
    assert mode.report(output).max_pools == 1


@pytest.mark.parametrize("shape", [(1, 2, 13, 12), (2, 3, 8, 8)])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 2),
        nn.MaxPool2d(3, 1, padding=1), nn.MaxPool2d(5, 3, padding=2, ceil_mode=True),
    ],
)  # fmt: skip
def test_last_switches_are_those_of_max_unpool(pool: nn.MaxPool2d, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x = torch.randint(0, 5, shape).float().requires_grad_(True)  # many ties
    with RuleMode("gradient", switches="last"):
        output = pool(x)
    signal = torch.randn_like(output)
    plain, places = F.max_pool2d(
        x.detach(), pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, return_indices=True
    )
    assert torch.equal(output, plain)
    expected = torch.zeros(*shape[:2], shape[2] * shape[3])
    for n in range(shape[0]):
        for c in range(shape[1]):
            for place, value in zip(places[n, c].flatten().tolist(), signal[n, c].flatten().tolist(), strict=True):
                expected[n, c, place] = value  # one after another, as max_unpool2d writes
    assert torch.equal(torch.autograd.grad(output, x, signal)[0], expected.view(shape))


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="rule"):
        RuleMode("lrp")
    with pytest.raises(ValueError, match="switches"):
        RuleMode("guided", switches="first")
