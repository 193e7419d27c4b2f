"""Fits what `maco` holds fixed: the amplitude of photographs by frequency and the covariance of their colours.

Source of the idea: Fel et al. 2023, section 3 (the magnitude of the Fourier transform is fixed to that of natural
images). Ours is a fit to the photographs that scikit-image and scikit-learn carry, in logit space, because a sigmoid
makes the picture: a radial power law for each decorrelated colour and a 3×3 colour matrix.

Run: python -m bench.fit_spectrum; paste what it prints into workers/methods/maximize/spectrum.py.
"""

from __future__ import annotations

import numpy as np
import skimage.data
import sklearn.datasets

SIDE = 256
CROPS = 40
LOWEST, HIGHEST = 4, SIDE // 4
"""Cycles a crop between which the power law is fitted: below, windows matter; above, sharpening and JPEG do."""


def photographs() -> list[np.ndarray]:
    """RGB photographs, float H×W×3 in (0, 1)."""
    left, _, _ = skimage.data.stereo_motorcycle()
    found = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket(), left]
    found += list(sklearn.datasets.load_sample_images().images)
    return [photo[:, :, :3].astype(np.float64) / 255 for photo in found]


def main() -> None:
    """Print the constants."""
    random = np.random.default_rng(0)
    crops = []
    for photo in photographs():
        for _ in range(CROPS):
            y, x = (random.integers(0, photo.shape[axis] - SIDE + 1) for axis in (0, 1))
            crops.append(photo[y : y + SIDE, x : x + SIDE])
    pixels = np.clip(np.stack(crops), 0.02, 0.98)
    logits = np.log(pixels / (1 - pixels))
    mean = logits.mean((0, 1, 2))
    flat = (logits - mean).reshape(-1, 3)
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    vectors *= np.where(vectors.sum(0) < 0, -1, 1)
    matrix = vectors * np.sqrt(values)  # column c: the colour of decorrelated channel c
    print("colour mean (logits):", np.round(mean, 4).tolist())
    print("colour matrix:", np.round(matrix, 4).tolist())

    white = (logits - mean) @ np.linalg.inv(matrix).T
    window = np.hanning(SIDE)[:, None] * np.hanning(SIDE)[None]
    white = (white - white.mean((1, 2), keepdims=True)) * window[None, :, :, None]
    power = (np.abs(np.fft.fft2(white, axes=(1, 2))) ** 2).mean(0)
    cycles = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE) * SIDE, np.fft.fftfreq(SIDE) * SIDE, indexing="ij"))
    for channel in range(3):
        rings = np.arange(LOWEST, HIGHEST)
        radial = np.array([power[(cycles >= r) & (cycles < r + 1), channel].mean() for r in rings])
        slope, _ = np.polyfit(np.log(rings + 0.5), 0.5 * np.log(radial), 1)
        print(f"channel {channel}: amplitude slope {slope:.3f}")


if __name__ == "__main__":
    main()
