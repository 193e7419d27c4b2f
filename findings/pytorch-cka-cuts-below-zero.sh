#!/usr/bin/env bash
# pytorch-cka 1.1.3 computes the debiased estimator and returns 0 wherever that is negative, so that its mean over unrelated features is above 0.
#
# The debiased HSIC of Song et al. 2012 is unbiased: over unrelated features its mean is 0 because half of its values are
# negative. Cut off at 0 it has a bias again.
. "$(dirname "$0")/packages" pytorch-cka==1.1.3 torch==2.15.0 tqdm==4.70.1 matplotlib==3.11.2 numpy==2.4.6
"$python" - <<'END'
import torch
from importlib.metadata import version
from cka import cka_from_features


def debiased(x: torch.Tensor, y: torch.Tensor) -> float:
    """HSIC_1 of Song et al. 2012, equation 5, normalised; in float64."""

    def hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:
        k, l, n = k - torch.diag(k.diag()), l - torch.diag(l.diag()), len(k)
        return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ l.sum(0))

    k, l = x.double() @ x.double().T, y.double() @ y.double().T
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


theirs, formula = [], []
for seed in range(200):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(32, 20, generator=generator), torch.randn(32, 20, generator=generator)
    theirs.append(float(cka_from_features(x, y)))
    formula.append(debiased(x, y))
zeros, negative = sum(value == 0 for value in theirs), sum(value < 0 for value in formula)
means = sum(theirs) / 200, sum(formula) / 200
print(f"pytorch-cka {version('pytorch-cka')}, torch {torch.__version__}; 200 pairs of unrelated features, 32 samples of 20")
print(f"exactly 0: {zeros}; negative by the formula: {negative}; means {means[0]:.4f} and {means[1]:.4f}")
assert zeros == negative > 80
assert all(abs(a - max(b, 0)) < 1e-5 for a, b in zip(theirs, formula, strict=True))
assert means[0] > 0.01 > abs(means[1]) * 2
END
