"""What an ascent moves, and the picture that it stands for: pixels, Fourier coefficients, or phases alone.

Every function works on a batch, B×…, row by row independent of the others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from workers.methods.maximize import spectrum
from workers.methods.maximize.recipes import Recipe
from workers.passes.batches import on

LUCID_COLORS = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""Lucid, `param/color.py`: a square root of the colour covariance of ImageNet, before its columns' norms."""
LUCID_DIVISOR = 4.0
"""Lucid, `param/spatial.py`: divides the inverse transform, against saturation of the sigmoid."""
_CLOSEST_TO_EDGE = 1e-3
"""A start image's pixels keep this far from 0 and 1, where the logit is infinite."""


class Parameterization(ABC):
    """A picture C×H×W in [0, 1] as a function of parameters; C is 3 for colours, 1 for grey, the network's planes."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def start(self, generator: torch.Generator) -> Tensor:
        """Random parameters of one row, on the CPU."""

    @abstractmethod
    def of_image(self, image: Tensor) -> Tensor:
        """Parameters whose picture is `image` (C×H×W in [0, 1]), as nearly as the parameterization allows."""

    @abstractmethod
    def decode(self, parameters: Tensor) -> Tensor:
        """Parameters B×… → pictures B×C×H×W; differentiable."""

    def rest(self, parameters: Tensor) -> Tensor | float:
        """Where `decay` pulls parameters to."""
        return 0.0


class Pixels(Parameterization):
    """The pixels themselves, in bytes, in [0, 1], or in the network's normalised units.

    The picture may leave [0, 1] while it is made, as in the recipes that this serves; it is clipped at its end.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._scale, self._offset = _pixel_units(recipe)

    def start(self, generator: torch.Generator) -> Tensor:
        recipe = self.recipe
        shape = (recipe.planes, *recipe.size)
        mean = torch.tensor(recipe.mean).view(-1, 1, 1) * 255.0
        level = mean if recipe.start_level is None else torch.tensor(recipe.start_level)
        if recipe.start_distribution == "normal":
            noise = torch.randn(shape, generator=generator)
        else:
            noise = torch.rand(shape, generator=generator)
        return self.of_image((level + recipe.start_spread * noise) / 255.0)

    def of_image(self, image: Tensor) -> Tensor:
        return ((image - on(image, self._offset)) / on(image, self._scale)).contiguous()

    def decode(self, parameters: Tensor) -> Tensor:
        return parameters * on(parameters, self._scale) + on(parameters, self._offset)

    def rest(self, parameters: Tensor) -> Tensor | float:
        return self.of_image(torch.tensor(self.recipe.mean).view(-1, 1, 1)).to(parameters.device)


class Fourier(Parameterization):
    """Fourier coefficients, scaled by 1/frequency, with decorrelated colours and a sigmoid.

    Source: Lucid, `param/spatial.py` and `param/color.py`; parameters are 3×H×(W//2+1)×2 (real and imaginary part),
    picture = σ(C · irfft2(p · scale) / 4), with scale = max(f, 1/max(W, H))^−decay and the transform's `ortho` norm,
    which is Lucid's √(W·H). For odd widths Lucid carries one column more and crops; the exact inverse needs none.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._scale = _frequency_scale(recipe.size, recipe.decay_power or 0.0)
        self._colors = _fourier_colors(recipe.planes, bool(recipe.decorrelate))

    def start(self, generator: torch.Generator) -> Tensor:
        height, width = self.recipe.size
        return self.recipe.start_spread * torch.randn(
            (self.recipe.planes, height, width // 2 + 1, 2), generator=generator
        )

    def of_image(self, image: Tensor) -> Tensor:
        logits = torch.logit(image.clamp(_CLOSEST_TO_EDGE, 1.0 - _CLOSEST_TO_EDGE)).flatten(1)
        planes = torch.linalg.solve(on(image, self._colors), logits).view(image.shape)
        coefficients = torch.fft.rfft2(planes * LUCID_DIVISOR, norm="ortho") / on(image, self._scale)
        return torch.view_as_real(coefficients).contiguous()

    def decode(self, parameters: Tensor) -> Tensor:
        scale = on(parameters, self._scale)
        coefficients = torch.view_as_complex(parameters) * scale
        planes = torch.fft.irfft2(coefficients, s=self.recipe.size, norm="ortho")
        return torch.sigmoid(mix_colors(planes, on(parameters, self._colors) / LUCID_DIVISOR))


class Maco(Parameterization):
    """Phases; the amplitudes are those of photographs and never change.

    Source: Fel et al. 2023 (MACO), equation 2: picture = σ(C · F⁻¹(r·e^{iφ}) + mean). Phases are standardised at every
    step, as in Xplique, which makes the steps smaller as they grow. A real picture has φ(−k) = −φ(k); a real inverse
    transform stores both k and −k in its first and (even widths) last column and silently projects them, which changes
    the amplitudes there. Here those columns are made odd first, so that |F(picture before the sigmoid)| = r everywhere.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        height, width = recipe.size
        self._amplitudes = spectrum.amplitudes(height, width)
        self._paired = torch.zeros(width // 2 + 1, dtype=torch.bool)
        self._paired[spectrum.self_paired_columns(width)] = True
        self._mirror = spectrum.mirror(height)
        self._colors = torch.tensor(spectrum.COLOR_MATRIX)
        self._mean = torch.tensor(spectrum.COLOR_MEAN).view(1, 3, 1, 1)
        if recipe.planes == 1:
            # Grey photographs are the first decorrelated colour, which is nearly all of their variance.
            self._amplitudes, self._colors = self._amplitudes[:1], self._colors[:, :1].mean(0, keepdim=True)
            self._mean = self._mean.mean(1, keepdim=True)

    def start(self, generator: torch.Generator) -> Tensor:
        height, width = self.recipe.size
        return self.recipe.start_spread * torch.randn((self.recipe.planes, height, width // 2 + 1), generator=generator)

    def of_image(self, image: Tensor) -> Tensor:
        logits = torch.logit(image.clamp(_CLOSEST_TO_EDGE, 1.0 - _CLOSEST_TO_EDGE)) - on(image, self._mean[0])
        planes = torch.linalg.solve(on(image, self._colors), logits.flatten(1)).view(image.shape)
        phases: Tensor = torch.fft.rfft2(planes).angle()
        return phases.contiguous()

    def phases(self, parameters: Tensor) -> Tensor:
        """Parameters → phases: standardised, and odd where the transform stores a frequency twice."""
        spread = parameters.flatten(1).std(1).view(-1, 1, 1, 1).clamp_min(1e-12)
        phases = (parameters - parameters.flatten(1).mean(1).view(-1, 1, 1, 1)) / spread * PHASE_SD
        mirrored = phases.index_select(2, on(phases, self._mirror))
        return torch.where(on(phases, self._paired), (phases - mirrored) / 2.0, phases)

    def planes(self, parameters: Tensor) -> Tensor:
        """The decorrelated planes before colours and sigmoid: their amplitudes are the template's."""
        phases = self.phases(parameters)
        coefficients = torch.polar(on(phases, self._amplitudes).expand_as(phases), phases)
        planes: Tensor = torch.fft.irfft2(coefficients, s=self.recipe.size)
        return planes

    def decode(self, parameters: Tensor) -> Tensor:
        mixed = mix_colors(self.planes(parameters), on(parameters, self._colors))
        return torch.sigmoid(mixed + on(parameters, self._mean))


PHASE_SD = math.pi / math.sqrt(3.0)
"""Standard deviation of standardised phases, radians: that of phases spread evenly over the circle, which photographs
have. Xplique's 1 gathers them about 0, that is, contrast about one point; and a start image would lose its phases."""

_KINDS: dict[str, type[Parameterization]] = {"pixel": Pixels, "fourier": Fourier, "maco": Maco}


@lru_cache(maxsize=32)
def parameterization_of(recipe: Recipe) -> Parameterization:
    """The parameterization that a recipe names."""
    return _KINDS[recipe.parameterization](recipe)


def mix_colors(planes: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel's decorrelated values → red, green, blue: B×3×H×W by a 3×3 matrix; other planes by C×C."""
    batch, count, height, width = planes.shape
    return torch.bmm(matrix.expand(batch, count, count), planes.flatten(2)).view(batch, count, height, width)


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures B×C×H×W in [0, 1], clipped and rounded: uint8 B×H×W×C, a PNG's pixels where C is 3."""
    return pictures.detach().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _pixel_units(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """scale and offset (C×1×1) with picture = parameters · scale + offset."""
    if recipe.pixel_space == "normalized":
        return torch.tensor(recipe.std).view(-1, 1, 1), torch.tensor(recipe.mean).view(-1, 1, 1)
    scale = 1.0 / 255.0 if recipe.pixel_space == "byte" else 1.0
    return torch.full((recipe.planes, 1, 1), scale), torch.zeros(recipe.planes, 1, 1)


@lru_cache(maxsize=32)
def _frequency_scale(size: tuple[int, int], decay_power: float) -> Tensor:
    """What coefficients are multiplied by, H×(W//2+1)."""
    height, width = size
    vertical = torch.fft.fftfreq(height, dtype=torch.float64)
    horizontal = torch.fft.rfftfreq(width, dtype=torch.float64)
    frequency = (vertical[:, None].square() + horizontal[None].square()).sqrt()
    scale = frequency.clamp_min(1.0 / max(height, width)) ** -decay_power
    found: Tensor = scale.float()
    return found


def _fourier_colors(planes: int, decorrelate: bool) -> Tensor:
    """Decorrelated planes → the picture's, C×C: Lucid's colours, their first for grey, none for other planes."""
    if not decorrelate or planes not in (1, 3):
        return torch.eye(planes)
    colors = torch.tensor(LUCID_COLORS, dtype=torch.float64)
    colors = colors / colors.norm(dim=0).max()
    chosen: Tensor = colors if planes == 3 else colors[:, :1].mean(0, keepdim=True)
    return chosen.float()
