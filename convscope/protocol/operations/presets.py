"""Presets of `maximize`: every constant of the recipes that one might compare with, in one table, with its source.

A request names a preset and overrides what it wants; `resolve` fills the rest in from here, so a worker never looks
into this table.
"""

from __future__ import annotations

from typing import Any

ADAM = {"epsilon": 1e-8, "beta1": 0.9, "beta2": 0.999}
OPTIMIZERS: dict[str, dict[str, float]] = {
    "adam": ADAM,  # torch: epsilon stands beside the corrected root
    "keras-adam": {**ADAM, "epsilon": 1e-7},  # Keras: beside the root as it is, so that it counts more at first
    "nadam": ADAM,
    "rms": {"epsilon": 1e-5},  # FlashTorch, gradient_ascent.py
    "ascent": {},
}
"""Optimizer → its constants, where the request names none; one that it does not have is refused."""

CONSTANTS = ("epsilon", "beta1", "beta2")

COMMON: dict[str, Any] = {
    "pixel_space": None,
    "start_level": None,
    "start_distribution": None,
    "clip_each_step": False,
    "decay_power": None,
    "decorrelate": None,
    "jitter": 0,
    "scale": 0.0,
    "rotate": 0,
    "jitter_after": 0,
    "crops": 1,
    "crop_from": 1.0,
    "crop_to": 1.0,
    "crop_size_sd": 0.0,
    "crop_center_sd": 0.0,
    "noise": 0.0,
    "noise_uniform": 0.0,
    "redirect_steps": 16,
    "tv": 0.0,
    "l2": 0.0,
    "decay": 0.0,
    "blur": 0.0,
    "blur_every": 0,
    "diversity": 0.0,
    "average": 0.0,
    "float_pictures": False,
    "display": "clip",
}
"""What a preset that says nothing about it leaves out. The redirected gradient (Lucid) only ever acts on rows whose
gradient is entirely zero, which in the other recipes would return their starting noise; so every preset has it."""

PRESETS: dict[str, dict[str, Any]] = {
    # What the public VGG16 tutorials do, which are written in Keras: parameters are pixels in 0–255, start 128 +
    # U(0, 20), 30 steps of its Adam with rate 2.5 on the mean activation, stop at a threshold, clip only when the
    # picture is saved.
    "pixel": {
        **COMMON,
        "parameterization": "pixel",
        "pixel_space": "byte",
        "start_level": 128.0,
        "start_spread": 20.0,
        "start_distribution": "uniform",
        "optimizer": "keras-adam",
        "learning_rate": 2.5,
        "steps": 30,
        "float_pictures": True,
    },
    # FlashTorch 0.1.3, GradientAscent: start U(150, 180), x += g / (rms(g) + 1e-5) in normalised units, no clamp,
    # 30 iterations; shown standardised over all planes, times 0.15, plus 0.7.
    "flashtorch": {
        **COMMON,
        "parameterization": "pixel",
        "pixel_space": "normalized",
        "start_level": 150.0,
        "start_spread": 30.0,
        "start_distribution": "uniform",
        "optimizer": "rms",
        "learning_rate": 1.0,
        "steps": 30,
        "float_pictures": True,
        "display": "flashtorch",
    },
    # Yosinski et al. 2015, the third row of the authors' table, of which most figures were made: decay 1e-4, blur of
    # radius 1 every 4 iterations, rate 100, 1000 iterations; start N(0, 10) about the mean, clipped at every step.
    "yosinski": {
        **COMMON,
        "parameterization": "pixel",
        "pixel_space": "byte",
        "start_level": None,
        "start_spread": 10.0,
        "start_distribution": "normal",
        "optimizer": "ascent",
        "learning_rate": 100.0,
        "steps": 1000,
        "decay": 1e-4,
        "blur": 1.0,
        "blur_every": 4,
        "clip_each_step": True,
    },
    # Lucid, `render_vis` and `transform.standard_transforms` (Olah et al. 2017): Fourier coefficients of sd 0.01 scaled
    # by 1/frequency, decorrelated colours, sigmoid, Adam 0.05, 512 steps; pad, jitter 8, scale ±0.1, rotate ±10°,
    # jitter 4. The average is ours (Polyak & Juditsky 1992): the views are drawn anew at every step, and the mean of
    # where the second half of the steps went is less of an accident than where the last one ended.
    "lucid": {
        **COMMON,
        "parameterization": "fourier",
        "start_spread": 0.01,
        "decay_power": 1.0,
        "decorrelate": True,
        "optimizer": "adam",
        "learning_rate": 0.05,
        "steps": 512,
        "jitter": 8,
        "scale": 0.1,
        "rotate": 10,
        "jitter_after": 4,
        "average": 0.5,
    },
    # Ours: Lucid's parameters and optimizer with what later work does otherwise. Coefficients fall as 1/frequency^1.5
    # (Horama's power), so that large shapes move first; a low rate; views that ask for a thing which is seen at any
    # size and place, through noise (Horama, Fel et al. 2023). Judged by networks that took no part:
    # bench/lucent_quality.py. Jitters are those at 224 pixels, see SHARES.
    "smooth": {
        **COMMON,
        "parameterization": "fourier",
        "start_spread": 0.01,
        "decay_power": 1.5,
        "decorrelate": True,
        "optimizer": "adam",
        "learning_rate": 0.015,
        "steps": 256,
        "jitter": 32,
        "scale": 0.3,
        "rotate": 15,
        "jitter_after": 16,
        "noise": 0.05,
        "average": 0.5,
    },
    # Fel et al. 2023 as Xplique 2.0 computes it: 256 steps of Nadam with rate 1 on the phase, 32 crops a step whose
    # side shrinks from a half to a twentieth of a 512-pixel picture, centres N(0.5, 0.15). Its noise N(0, 0.08) +
    # U(−0.04, 0.04) is for pixels in (−1, 1): half of that for ours in (0, 1).
    "maco": {
        **COMMON,
        "parameterization": "maco",
        "start_spread": 1.0,
        "optimizer": "nadam",
        "learning_rate": 1.0,
        "steps": 256,
        "size": (512, 512),
        "crops": 32,
        "crop_from": 0.5,
        "crop_to": 0.05,
        "crop_size_sd": 0.05,
        "crop_center_sd": 0.15,
        "noise": 0.04,
        "noise_uniform": 0.02,
    },
}
"""Preset → every number. A `size` that is not given is the network's own input size."""

SHARES: dict[str, dict[str, float]] = {"smooth": {"jitter": 1 / 7, "jitter_after": 1 / 14}}
"""Preset → numbers that are shares of the picture's shorter side: 32 pixels are half a picture of a small network."""

FIELDS: tuple[str, ...] = ("parameterization", "optimizer", "learning_rate", "steps", "start_spread", *COMMON)
"""Everything that a preset decides and a request may override, beside `size`."""
