"""kernels: the weights of a convolution."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from workers.contract import Grant, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row, resolved
from workers.passes.units import choose

if TYPE_CHECKING:
    from convscope.protocol.operations.kernels import KernelsRequest


class Kernels(OneShotMethod["KernelsRequest"]):
    """The weights of chosen filters and inputs of a convolution, raw, in float32 whatever the precision asked for.

    `top:K` filters are those with the largest L2 norm over all inputs, `top:K` inputs those with the largest norm over
    all filters; ties by lower index. In a grouped convolution I counts the inputs of one group, and input m of filter o
    is channel m of the group that o belongs to.

    Result: array `weights` (O×I×kh×kw, as chosen, no leading N: there is no image); facts shape, extremes of the whole
    layer, norms of the chosen filters.
    """

    def group_key(self, request: KernelsRequest) -> Hashable:
        """Rows have nothing to share, and cost nothing: any may run together."""
        return "kernels"

    def run(
        self, network: Network, rows: Sequence[Row[KernelsRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        """Compute all rows; a row at no convolution gets `not-applicable`."""
        yield from ()
        return [_look(network, row.request) for row in rows]


def _look(network: Network, request: KernelsRequest) -> Result:
    name = resolved(request.layer)
    module = dict(network.module.named_modules()).get(name.partition("#")[0])
    if not isinstance(module, nn.Conv2d):
        return MethodError("not-applicable", f"{name} is no convolution, so it has no kernels")
    weight = module.weight.detach().float()
    if not bool(weight.isfinite().all()):
        return MethodError("numerical-error", f"the weights of {name} are not all finite")
    filters = choose(request.filters, len(weight), lambda: _norms(weight))
    inputs = choose(request.inputs, weight.shape[1], lambda: _norms(weight.transpose(0, 1)))
    chosen = weight[filters][:, inputs]
    return Outcome(
        {"weights": chosen.cpu().contiguous()},
        {
            "layer": name,
            "shape": list(weight.shape),
            "filters": filters,
            "inputs": inputs,
            "groups": module.groups,
            "minimum": float(weight.min()),
            "maximum": float(weight.max()),
            "norms": _norms(weight)[filters].tolist(),
        },
    )


def _norms(weight: Tensor) -> Tensor:
    """L2 norm of everything behind the first dimension."""
    norms: Tensor = torch.linalg.vector_norm(weight.double().flatten(1), dim=1)
    return norms


METHOD = Kernels()
