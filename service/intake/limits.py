"""What one request may cost: pixels, length, result arrays, forward passes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.base import Operation
from convscope.protocol.problems import ProblemError
from convscope.protocol.requests import CommonRequest
from convscope.queue.jobs import JobImage, Lane
from convscope.settings import Settings
from convscope.store.images import ImageRecord

LIKE_THE_DEFAULT = 4e8
"""Multiplications of one forward pass of EfficientNet-Lite0."""


def check_pixels(images: Sequence[ImageRecord | JobImage], settings: Settings) -> None:
    """Refuse images that are too large together: a worker has all of them in memory at once, three bytes a pixel.

    Raises:
        ProblemError: `too-many-pixels`, with the limit.
    """
    millions = sum(image.width * image.height for image in images) / 1e6
    if millions > settings.request_megapixels:
        raise ProblemError(
            "too-many-pixels",
            f"The {len(images)} images have {millions:,.1f} million pixels together; "
            f"{settings.request_megapixels:g} million are allowed in one request. Send fewer, or smaller ones.",
            limit_megapixels=settings.request_megapixels,
        )


def check_length(resolved: Mapping[str, Any], settings: Settings) -> None:
    """Refuse a request that is too long to be kept in the queue, where its job and its run each have it.

    Args:
        resolved: the request without its uploads.
        settings: where the limit is.

    Raises:
        ProblemError: `body-too-large`, with the limit.
    """
    length = len(json.dumps(resolved, separators=(",", ":")))
    if length > settings.request_kib << 10:
        raise ProblemError(
            "body-too-large",
            f"The request has {length / 2**10:,.0f} KiB of JSON beside its images; {settings.request_kib} KiB are "
            "allowed. Ask for fewer channels, directions or objectives at once.",
            limit_bytes=settings.request_kib << 10,
        )


def check_cost(
    resolved: CommonRequest, operation: Operation[Any], card: ModelCard, images: int, settings: Settings, lane: Lane
) -> float:
    """Refuse a request whose result or computation would be larger than is allowed, and say what it costs.

    Args:
        resolved: the request as a worker will get it.
        operation: what is asked for.
        card: the network's card.
        images: how many images it is about.
        settings: where the limits are.
        lane: `batch` for what may take long.

    Returns:
        Forward passes of one image through a network like the default one, at its own size.

    Raises:
        ProblemError: `too-expensive`, with the cost and the limit.
    """
    cost = operation.cost(resolved, card, images)
    limit = settings.result_mib << 20
    if cost.result_bytes > limit:
        raise ProblemError(
            "too-expensive",
            f"The result would have {cost.result_bytes / 2**20:.1f} MiB of arrays; {settings.result_mib} MiB "
            "are allowed. Ask for fewer channels, layers or images.",
            cost_bytes=cost.result_bytes,
            limit_bytes=limit,
        )
    forwards = cost.forwards * _relative_size(resolved, card)
    most = settings.interactive_forwards if lane == "interactive" else settings.batch_forwards
    if forwards > most:
        raise ProblemError(
            "too-expensive",
            f"The request would cost about {forwards:,.0f} forward passes of one image; {most:,} are allowed for "
            f"{operation.name}. Ask for fewer images, targets, samples, steps or places.",
            cost_forwards=round(forwards),
            limit_forwards=most,
        )
    memory = operation.working_bytes(resolved, card, images, cost.result_bytes)
    if memory > settings.memory_mib << 20:
        raise ProblemError(
            "too-expensive",
            f"The request needs at least {memory / 2**20:,.0f} MiB of a worker's memory; {settings.memory_mib:,} MiB "
            "are allowed. Ask for smaller inputs, fewer images, channels or samples.",
            cost_bytes=memory,
            limit_bytes=settings.memory_mib << 20,
        )
    return forwards * max(1.0, card.multiplications / LIKE_THE_DEFAULT)


def lane_of(lane: Lane, cost: float, settings: Settings) -> Lane:
    """The lane of a request: what is really quick goes before all others, whatever its operation may cost at most."""
    return "quick" if lane == "interactive" and cost <= settings.quick_forwards else lane


def _relative_size(resolved: CommonRequest, card: ModelCard) -> float:
    """How many times the pixels of the network's own input size the request asks for."""
    preprocess = getattr(resolved, "preprocess", None)
    if preprocess is None or preprocess.size is None:
        return 1.0
    return float(math.prod(preprocess.size) / math.prod(card.preprocess.size))
