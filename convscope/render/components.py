"""The view `pca`: all channels of a layer as three colours, their first three principal components."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convscope.protocol.pictures import Picture
from convscope.render.colors import FRAME, nan_colour, table
from convscope.render.options import Plan
from convscope.render.page import Page
from convscope.render.sheet import check_size
from convscope.render.stopping import go_on
from convscope.render.tiles import Arrays, Drawn, pixels_per_cell, read_parts

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

_TAILS = (1.0, 99.0)
"""Percentiles of each component that are no colour and full colour: single places would leave the others grey."""


def principal_components(maps: Floats, count: int = 3) -> tuple[Floats, Floats]:
    """The strongest linear combinations of channels over places (Pearson 1901).

    Args:
        maps: K×N, finite: N places of K channels.
        count: of components.

    Returns:
        Components (count×N), each with mean zero and the sign in which its largest loading is positive, zero where
        there are fewer; and the share of the variance that each has.
    """
    centred = maps - maps.mean(1, keepdims=True)
    size = np.abs(centred).max(initial=0.0)
    centred = centred / size if size > 0 else centred
    components, shares = np.zeros((count, maps.shape[1])), np.zeros(count)
    total = float((centred**2).sum())
    if total == 0:
        return components, shares
    few = min(count, *maps.shape)
    if maps.shape[0] <= maps.shape[1]:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        loadings = vectors[:, ::-1][:, :few]
    else:
        values, places = np.linalg.eigh(centred.T @ centred)
        loadings = centred @ places[:, ::-1][:, :few]
        loadings /= np.maximum(np.linalg.norm(loadings, axis=0), 1e-300)
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(0)[None], 0)
    loadings = loadings * np.where(largest < 0, -1.0, 1.0)
    shares[:few] = np.maximum(values[::-1][:few], 0.0) / total
    present = shares[:few] > 1e-12
    components[:few][present] = (loadings.T @ centred)[present] * size
    return components, shares


def _colours(components: Floats) -> Bytes:
    """Each component's middle 98 percent as 0 to 255, 128 where it is zero everywhere (3×N)."""
    low, high = np.percentile(components, _TAILS, axis=1, keepdims=True)
    span = high - low
    shares = np.where(span > 0, (components - low) / np.where(span > 0, span, 1.0), 0.5)
    levels: Bytes = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    return levels


def draw_components(picture: Picture, arrays: Arrays, plan: Plan) -> Drawn:
    """The view `pca`: the tiles' maps together as one picture.

    Raises:
        ProblemError: `too-expensive`.
    """
    parts = read_parts(picture, arrays, plan, flatten=True)
    size = parts[0].size if parts else (1, 1)
    maps = np.stack([part.array for part in parts]).astype(np.float64) if parts else np.zeros((1, 1, 1))
    go_on()
    flat = maps.reshape(len(maps), -1)
    known = np.isfinite(flat).all(0)
    components, shares = np.zeros((3, flat.shape[1])), np.zeros(3)
    colours = np.full(components.shape, 128, np.uint8)
    if known.any():
        components[:, known], shares = principal_components(flat[:, known])
        colours[:, known] = _colours(components[:, known])
    block = colours.T.reshape(*size, 3).copy()
    name, nan = nan_colour(plan.colormap)
    block[~known.reshape(size)] = nan
    factor = pixels_per_cell(size, plan, 1)
    height, width = size[0] * factor, size[1] * factor
    check_size(height, width, picture.name)
    said = [f"{100 * share:.0f} %" for share in shares]
    notes = [
        f"red, green, blue: the first three principal components of {len(maps)} channels",
        f"{said[0]}, {said[1]} and {said[2]} of their variance",
    ]
    if not known.all():
        notes.append(f"{name}: not a number")
    page = Page(height, width, picture.heading, notes, bare=plan.bare)
    sheet = page.draw(None, table(plan.colormap, False), picture.name)
    sheet.put(page.top, page.left, block.repeat(factor, 0).repeat(factor, 1))
    if not plan.bare:
        sheet.frame(page.top, page.left, height, width, FRAME)
    facts: dict[str, Any] = {
        "picture": picture.name,
        "view": plan.view,
        "normalize": "components",
        "colormap": None,
        "vmin": None,
        "vmax": None,
        "value": picture.value_name,
        "clipped": True,
        "explained": [round(float(share), 6) for share in shares],
    }
    return Drawn(sheet, facts, repeated=factor > 1)
