"""The view `pca`: three principal components of a layer's channels as colours."""

from __future__ import annotations

import numpy as np
import pytest

from convscope.render.components import principal_components
from tests.convscope.render.helpers import draw

PCA = {"views": ("tiles", "pca")}


def by_covariance(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slow reference: eigenvectors of the covariance of channels, one by one."""
    centred = maps - maps.mean(1, keepdims=True)
    values, vectors = np.linalg.eig(centred @ centred.T / maps.shape[1])
    order = np.argsort(-values.real)[:3]
    found = []
    for place in order:
        vector = vectors[:, place].real
        vector = vector / np.linalg.norm(vector)
        vector = vector if vector[np.abs(vector).argmax()] > 0 else -vector
        found.append(vector @ centred)
    return np.array(found), (values.real / values.real.sum())[order]


@pytest.mark.parametrize(("channels", "places"), [(5, 200), (12, 7), (3, 3)])
def test_components_are_those_of_the_covariance(channels: int, places: int) -> None:
    random = np.random.default_rng(channels)
    maps = random.normal(size=(channels, places)) * np.geomspace(1, 9, channels)[:, None]
    components, shares = principal_components(maps)
    expected, expected_shares = by_covariance(maps)
    solid = expected_shares > 1e-12
    assert np.allclose(components[solid], expected[solid], atol=1e-9 * np.abs(expected).max())
    assert np.allclose(shares[solid], expected_shares[solid])


def test_one_factor_is_one_component() -> None:
    ramp = np.linspace(-1, 1, 50)
    components, shares = principal_components(np.outer([2.0, -1.0, 0.0, 2.0], ramp))
    assert np.allclose(components[0], 3 * ramp) and np.allclose(shares, [1, 0, 0])
    assert (components[1:] == 0).all()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_size_does_not_matter(size: float) -> None:
    maps = np.random.default_rng(3).normal(size=(6, 40))
    components, shares = principal_components(maps * size)
    expected, expected_shares = principal_components(maps)
    assert np.allclose(components / size, expected) and np.allclose(shares, expected_shares)


def test_places_that_differ_have_colours_that_differ_and_equal_ones_are_equal() -> None:
    kinds = np.random.default_rng(4).normal(size=(4, 8)).astype(np.float32)
    places = np.arange(24).reshape(4, 6) % 4
    maps = kinds[places].transpose(2, 0, 1)
    bare = draw(maps, None, PCA, view="pca", scale=1, title="none").pixels
    assert bare.shape == (4, 6, 3)
    colours = {tuple(bare[places == kind][0].tolist()) for kind in range(4)}
    assert len(colours) == 4
    assert all((bare[places == kind] == bare[places == kind][0]).all() for kind in range(4))


def test_the_text_chunk_says_the_shares_and_nan_has_its_colour() -> None:
    maps = np.random.default_rng(5).normal(size=(7, 9, 9)).astype(np.float32)
    maps[2, 4, 4] = np.nan
    page = draw(maps, None, PCA, view="pca", scale=2)
    assert page.scale["view"] == "pca" and 0.4 < sum(page.scale["explained"]) < 1
    body = page.body(18, 18)
    assert (body[8:10, 8:10] == (255, 0, 255)).all()
    assert draw(maps, None, PCA, view="pca", scale=2).pixels.tobytes() == page.pixels.tobytes()


@pytest.mark.parametrize("maps", [np.zeros((4, 3, 3)), np.ones((1, 2, 2)), np.full((2, 2, 2), np.nan)])
def test_nothing_to_tell_apart_is_grey_or_missing(maps: np.ndarray) -> None:
    pixels = draw(maps, None, PCA, view="pca", scale=1, title="none").pixels.reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) == 1
