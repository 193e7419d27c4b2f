"""CKA against the double loop from the formula, numbers known by hand or from the papers, and its invariances."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.contract import MethodError
from workers.methods.cka.similarity import Comparison, Estimation, Samples
from workers.passes import hsic


def samples(rows: Any) -> Samples:
    return Samples.of_channels(rows) if isinstance(rows, Tensor) else Samples.of_layers(rows)


def compare(
    rows: Any,
    columns: Any = None,
    *,
    kernel: str = "linear",
    estimator: Any = "biased",
    fraction: float = 0.5,
    **more: int,
) -> Any:
    options = Estimation(kernel, fraction, estimator, more.get("permutations", 0), more.get("intervals", 0), 0, 1)
    comparison = Comparison(
        [str(i) for i in range(len(rows))], None if columns is None else [str(i) for i in range(len(columns))], options
    )
    comparison.add(samples(rows), None if columns is None else samples(columns))
    return comparison.summary()


def hsic_biased(k: np.ndarray, other: np.ndarray) -> float:
    """tr(KHLH)/(n−1)² (Kornblith 2019, section 3), as written."""
    n = len(k)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ h @ other @ h)) / (n - 1) ** 2


def hsic_unbiased(k: np.ndarray, other: np.ndarray) -> float:
    """HSIC1 (Song 2012, equation 5), as written."""
    n = len(k)
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return float(np.trace(k @ other) + middle - 2 / (n - 2) * one @ k @ other @ one) / (n * (n - 3))


def double_loop(rows: Any, columns: Any, estimator: str, kernel: Any = lambda x: x @ x.T) -> np.ndarray:
    measure = hsic_biased if estimator == "biased" else hsic_unbiased
    left, right = [kernel(x.numpy()) for x in rows], [kernel(y.numpy()) for y in columns]
    return np.array([[measure(k, m) / math.sqrt(measure(k, k) * measure(m, m)) for m in right] for k in left])


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize(("n", "p"), [(14, 14), (6, 30), (40, 3), (50, 1)])
def test_channels_equal_the_double_loop(estimator: str, n: int, p: int) -> None:
    torch.manual_seed(0x5EED)
    maps = torch.randn(7, n, p, dtype=torch.float64).relu()
    expected = torch.from_numpy(double_loop(maps, maps, estimator))
    found = compare(maps, estimator=estimator).matrix
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(compare(maps.float(), estimator=estimator).matrix, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_layers_of_different_widths_equal_the_double_loop(estimator: str) -> None:
    torch.manual_seed(1)
    rows = [torch.randn(12, p, dtype=torch.float64) for p in (3, 50, 200)]
    columns = [torch.randn(12, q, dtype=torch.float64) for q in (9, 40)]
    expected = torch.from_numpy(double_loop(rows, columns, estimator))
    torch.testing.assert_close(compare(rows, columns, estimator=estimator).matrix, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("p", [1, 2047, 2048, 2051, 9000])
def test_grams_of_wide_layers_are_the_plain_product_in_float64(p: int) -> None:
    features = torch.randn(6, p, generator=torch.Generator().manual_seed(p))
    for given in (features, features.repeat_interleave(2, dim=1)[:, ::2]):
        wide = given.double()
        assert torch.allclose(hsic.offset_free_gram(given).double(), wide @ wide.T, rtol=0, atol=4e-6 * p)


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_rbf_equals_the_double_loop_with_the_off_diagonal_median(estimator: str) -> None:
    torch.manual_seed(2)
    rows = [torch.randn(11, p, dtype=torch.float64) for p in (3, 20)]

    def kernel(x: np.ndarray) -> np.ndarray:
        squared = ((x[:, None] - x[None]) ** 2).sum(-1)
        distances = np.sqrt(squared[np.triu_indices(len(x), 1)])
        sigma = 0.4 * np.sort(distances)[(len(distances) - 1) // 2]
        return np.exp(-squared / (2 * sigma**2))

    expected = torch.from_numpy(double_loop(rows, rows, estimator, kernel))
    found = compare(rows, kernel="rbf", fraction=0.4, estimator=estimator).matrix
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_feature_form_by_hand() -> None:
    """X = (−1, 0, 1), Y = (1, −2, 1): uncorrelated, so 0. X with itself: HSIC = (Σx²)²/(n−1)² = 4/4 = 1."""
    x, y = torch.tensor([[-1.0], [0.0], [1.0]]), torch.tensor([[1.0], [-2.0], [1.0]])
    found = hsic.pairs_by_features(torch.stack([x, y]), torch.stack([x, y]), "biased")
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [0.0, 9.0]]))


def test_single_features_give_the_squared_correlation() -> None:
    torch.manual_seed(3)
    x, y = torch.randn(2, 30, 1, dtype=torch.float64)
    r = np.corrcoef(x[:, 0], y[:, 0])[0, 1]
    assert compare(torch.stack([x, y])).matrix[0, 1].item() == pytest.approx(r**2, abs=1e-12)


def test_diagonal_scaling_is_no_invariance_and_gives_the_known_value() -> None:
    """Orthonormal centred X against X·diag(1, 10): 101/√(2·10001) = 0.7141421 (papers.md, section 3)."""
    torch.manual_seed(4)
    x = torch.linalg.qr(hsic.center_columns(torch.randn(20, 2, dtype=torch.float64))).Q
    x = torch.linalg.qr(hsic.center_columns(x)).Q
    found = compare([x, x * torch.tensor([1.0, 10.0])]).matrix[0, 1].item()
    assert found == pytest.approx(101 / math.sqrt(2 * 10001), abs=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_invariances(kernel: str, estimator: str) -> None:
    torch.manual_seed(5)
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 9, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    plain = compare([x], [y], kernel=kernel, estimator=estimator).matrix
    for changed in (x @ rotation, x[:, torch.randperm(6)], 1e-3 * x, 1e3 * x, x + 7.0):
        torch.testing.assert_close(
            compare([changed], [y], kernel=kernel, estimator=estimator).matrix, plain, atol=1e-10, rtol=0
        )


def test_an_invertible_map_is_no_invariance() -> None:
    values = []
    for seed in range(10):
        torch.manual_seed(seed)
        x = torch.randn(200, 10, dtype=torch.float64)
        u, _, v = torch.linalg.svd(torch.randn(10, 10, dtype=torch.float64))
        a = u @ torch.diag(torch.logspace(0, -2, 10, dtype=torch.float64)) @ v
        values.append(compare([x], [x @ a]).matrix.item())
    assert all(0.40 <= value <= 0.60 for value in values)


@pytest.mark.parametrize(
    ("n", "p", "q", "expected"),
    [(50, 1000, 1000, 0.9523), (50, 10, 10, 0.165), (20, 5000, 50, 0.843), (32, 8, 8, 0.203), (64, 8, 8, 0.111)],
)
def test_bias_of_unrelated_features(n: int, p: int, q: int, expected: float) -> None:
    biased, debiased, closed = [], [], []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) for width in (p, q))
        summary = compare([x], [y])
        biased.append(summary.matrix.item())
        closed.append(summary.facts["baseline"]["permutation_mean"])
        debiased.append(compare([x], [y], estimator="debiased").matrix.item())
    assert np.mean(biased) == pytest.approx(expected, abs=0.02)
    assert np.mean(closed) == pytest.approx(expected, abs=0.02)
    assert summary.facts["baseline"]["floor"] == pytest.approx(math.sqrt(p * q / ((n + p) * (n + q))))
    assert abs(np.mean(debiased)) < 0.02 + 2 * np.std(debiased) / math.sqrt(len(debiased))


def test_permutation_mean_is_the_mean_over_all_pairings() -> None:
    """n = 4: all 24 permutations, enumerated."""
    from itertools import permutations

    torch.manual_seed(6)
    x, y = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    every = [compare([x], [y[list(order)]]).matrix.item() for order in permutations(range(4))]
    found = compare([x], [y]).facts["baseline"]["permutation_mean"]
    assert found == pytest.approx(np.mean(every), abs=1e-12)


def test_debiased_self_similarity_is_never_negative() -> None:
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        x = hsic.center_columns(torch.randn(1, 5, 3, generator=generator, dtype=torch.float64))
        gram = hsic.center_gram(hsic.gram_linear(x), "debiased")
        reference = hsic_unbiased((x[0] @ x[0].T).numpy(), (x[0] @ x[0].T).numpy())
        found = hsic.pairs(gram, gram, "debiased").item()
        assert found == pytest.approx(reference, abs=1e-10)
        assert found >= 0


def test_one_far_sample_subset_sets_the_limit_of_davari() -> None:
    """Davari 2022, theorem 1: moving a subset by c·v, c → ∞, drives CKA to a value that is not about the rest."""
    generator = torch.Generator().manual_seed(7)
    n, share = 200, 0.1
    x = hsic.center_columns(torch.randn(n, 20, generator=generator, dtype=torch.float64))
    moved = x.clone()
    subset = slice(0, int(share * n))
    moved[subset, 0] += 1e5
    values = torch.linalg.eigvalsh(x.T @ x / n)
    limit = (
        share / (1 - share) * (x[subset].mean(0).norm() ** 2) / x.norm(dim=1).square().mean()
        * torch.sqrt(values.sum() ** 2 / values.square().sum())
    )  # fmt: skip
    assert compare([x], [moved]).matrix.item() == pytest.approx(limit.item(), rel=0.01)


def test_a_common_offset_costs_no_digits() -> None:
    torch.manual_seed(8)
    x, y = torch.randn(64, 32, dtype=torch.float64), torch.randn(64, 32, dtype=torch.float64)
    y[:, :16] += x[:, :16]
    exact = compare([x], [y]).matrix
    offset = compare([(x + 1000).float()], [(y + 1000).float()]).matrix
    torch.testing.assert_close(offset, exact, atol=1e-4, rtol=0)


def test_an_offset_costs_no_digits_when_the_first_sample_is_an_outlier() -> None:
    """It is what the offset is first taken from; then the mean has to be."""
    torch.manual_seed(9)
    x, y = torch.randn(64, 32, dtype=torch.float64), torch.randn(64, 32, dtype=torch.float64)
    x[0] -= 1000
    exact = compare([x], [y]).matrix
    found = compare([(x + 3e4).float()], [(y + 1000).float()]).matrix
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_constant_sides_are_undefined_with_a_reason(kernel: str, estimator: str) -> None:
    torch.manual_seed(9)
    maps = torch.randn(3, 8, 8)
    maps[1] = 0.1
    summary = compare(maps, kernel=kernel, estimator=estimator)
    assert summary.matrix[1].isnan().all()
    assert summary.matrix[:, 1].isnan().all()
    assert not summary.matrix[[0, 2]][:, [0, 2]].isnan().any()
    assert list(summary.facts["undefined"]) == ["1"]
    assert "constant" in summary.facts["undefined"]["1"]


def test_random_maps_score_the_floor_in_rows_form() -> None:
    torch.manual_seed(10)
    maps = torch.randn(64, 14, 14)
    biased, debiased = compare(maps), compare(maps, estimator="debiased")
    assert biased.facts["baseline"]["floor"] == 0.5
    assert biased.facts["mean_off_diagonal"] == pytest.approx(0.5, abs=0.02)
    assert abs(debiased.facts["mean_off_diagonal"]) < 0.02
    assert debiased.facts["baseline"]["permutation_mean"] == 0.0
    assert any("unrelated features" in warning for warning in biased.facts["warnings"])


def test_a_single_outlier_is_warned_of() -> None:
    torch.manual_seed(11)
    x = torch.randn(50, 10)
    x[3] *= 100
    assert any("Davari" in warning for warning in compare([x], [torch.randn(50, 10)]).facts["warnings"])


def test_linear_is_the_limit_of_rbf() -> None:
    torch.manual_seed(12)
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64)
    torch.testing.assert_close(
        compare([x], [y], kernel="rbf", fraction=100.0).matrix, compare([x], [y]).matrix, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_batches_sum_before_they_are_divided(estimator: Any) -> None:
    torch.manual_seed(13)
    batches = [(torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)) for _ in range(3)]
    comparison = Comparison(["x"], ["y"], Estimation("linear", 0.5, estimator, 0, 0, 0, 3))
    measure = hsic_biased if estimator == "biased" else hsic_unbiased
    sums = np.zeros(3)
    for x, y in batches:
        comparison.add(samples([x]), samples([y]))
        k, m = (x @ x.T).numpy(), (y @ y.T).numpy()
        sums += [measure(k, m), measure(k, k), measure(m, m)]
    expected = sums[0] / math.sqrt(sums[1] * sums[2])
    assert comparison.summary().matrix.item() == pytest.approx(expected, abs=1e-10)


def _related(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, n, 3, generator=generator, dtype=torch.float64)
    return shared + noise[0], shared + noise[1]


@pytest.mark.parametrize("batches", [1, 10])
def test_intervals_cover_the_truth_about_as_often_as_they_say(batches: int) -> None:
    # Σ_xx = Σ_yy = 2I and Σ_xy = I in three dimensions: ‖Σ_xy‖²/(‖Σ_xx‖ ‖Σ_yy‖) = 3/12.
    truth = 0.25
    covered = 0
    for seed in range(1, 25):
        x, y = _related(200, seed)
        comparison = Comparison(["x"], ["y"], Estimation("linear", 0.5, "debiased", 0, 60, seed, batches))
        for part_x, part_y in zip(x.chunk(batches), y.chunk(batches), strict=True):
            comparison.add(samples([part_x]), samples([part_y]))
        summary = comparison.summary()
        covered += int(summary.low.item() <= truth <= summary.high.item())
    assert covered >= 18  # 23 of 24 expected; ten batches bootstrap somewhat too narrow


def test_activations_that_are_not_finite_are_refused() -> None:
    maps = torch.randn(2, 8, 8)
    maps[1, 2, 3] = torch.inf
    with pytest.raises(MethodError, match="numerical-error"):
        compare(maps)
