"""classify: the network's own answer, for all images of all rows in one batch."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.contract import Grant, MethodError, Network, OneShotMethod, Outcome, Progress, Result, Row
from workers.passes.batches import gather, module_for, preprocess_key, slices


class Classify(OneShotMethod):
    """The strongest classes of each image.

    Probabilities are the softmax of the logits, in float64; classes with equal logits come by lower index.

    Result: arrays `logits` (N×classes, float32); facts `predictions`, for each image the `top` strongest classes with
    index, name, probability and logit, and `transforms`.
    """

    def group_key(self, request: Any) -> Hashable:
        """Rows with the same input size and precision share a batch."""
        return preprocess_key(request)

    def run(self, network: Network, rows: Sequence[Row], grant: Grant) -> Generator[Progress, None, list[Result]]:
        """Compute all rows; a row whose logits are not finite gets `numerical-error`."""
        batch = gather(network, rows)
        logits: list[Tensor] = []
        module = module_for(network, rows[0].request)
        for part in slices(network, batch.inputs, grant):
            with torch.no_grad():
                found = module(part)
            if not isinstance(found, Tensor) or found.dim() != 2:
                error = MethodError(
                    "not-applicable", f"{network.id} gives no one number a class, so it classifies nothing"
                )
                return [error for _ in rows]
            logits.extend(found.float().cpu())
            if len(logits) < len(batch.inputs):
                yield Progress(len(logits), len(batch.inputs), "images")
        return [
            batch.errors[row]
            or self._outcome(network, request.request, [logits[i] for i in batch.of(row)], batch.transforms_of(row))
            for row, request in enumerate(rows)
        ]

    def _outcome(
        self, network: Network, request: Any, logits: list[Tensor], transforms: list[dict[str, Any]]
    ) -> Result:
        stacked = torch.stack(logits)
        if not bool(stacked.isfinite().all()):
            return MethodError("numerical-error", f"the logits of {network.id} are not finite on this image")
        probabilities = stacked.double().softmax(dim=1)
        order = stacked.sort(dim=1, descending=True, stable=True).indices[:, : request.top]
        predictions = [
            [
                {
                    "index": index,
                    "name": network.classes[index] if index < len(network.classes) else str(index),
                    "probability": float(probabilities[image, index]),
                    "logit": float(stacked[image, index]),
                }
                for index in chosen
            ]
            for image, chosen in enumerate(order.tolist())
        ]
        return Outcome({"logits": stacked}, {"predictions": predictions, "transforms": transforms})


METHOD = Classify()
