"""From an upload to a network's input, exactly as the network's own evaluation does it, and where that lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workers.contract import MethodError
from workers.geometry import Transform
from workers.normalization import Normalization
from workers.passes.planes import as_grey

if TYPE_CHECKING:
    from convscope.protocol.requests import Preprocess

_MODES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
MOST_PLANES = 64
"""Of an input."""

_LARGEST_RESIZE = 16_000_000
"""Pixels up to which the whole upload is resized before the crop."""


@dataclass(frozen=True)
class Preprocessing:
    """A network's evaluation transform: resize, crop, scale to [0, 1], normalise.

    Attributes:
        size: (height, width) of the input, pixels.
        resize: length of the upload's shorter side before a centre crop, pixels; (height, width) squeezes instead.
        resize_mode: nearest, bilinear, bicubic or lanczos, as Pillow computes them.
        crop: `center` keeps the aspect ratio and cuts; `none` squeezes the whole upload into `size`.
        mean, std: of the normalisation, in units of which white has `level`, one for each plane.
        antialias: whether what shrinks is filtered, as Pillow does; else pixels are interpolated as they are, as torch
            does with tensors.
        level: what white is before the mean is subtracted, 1 or 255.
        channels: planes of the input: 3 for colours, 1 for grey, others where uploads are arrays of as many.
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    resize_mode: str = "bilinear"
    crop: str = "center"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3
    antialias: bool = True
    level: float = 1.0

    def as_json(self) -> dict[str, Any]:
        """The fields of a catalogue entry as JSON values; the others are a request's affair."""
        fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {key: value for key, value in fields.items() if key not in ("antialias", "level")}

    @property
    def normalization(self) -> Normalization:
        """The last step by itself."""
        return Normalization(self.mean[: self.channels], self.std[: self.channels], self.level)

    def overridden(self, wish: Preprocess | None) -> Preprocessing:
        """With a request's `size`, `crop`, `resize_mode`, `antialias`, `range`, `mean` and `std`; None keeps our own.

        With a `range` the network's own mean and deviation mean nothing any more: they are 0 and 1 unless given.
        """
        size = getattr(wish, "size", None)
        changed = self
        if size is not None:
            height, width = (int(side) for side in size)
            shorter = min(self.size)
            resize = self.resize if isinstance(self.resize, int) else min(self.resize)
            changed = replace(changed, size=(height, width), resize=math.floor(min(height, width) * resize / shorter))
        plain = {name: getattr(wish, name, None) for name in ("crop", "resize_mode", "antialias")}
        changed = replace(changed, **{name: value for name, value in plain.items() if value is not None})
        mean, std, white = self.mean, self.std, getattr(wish, "range", None)
        if white is not None:
            changed = replace(changed, level=255.0 if white == "byte" else 1.0)
            mean, std = (0.0,) * self.channels, (1.0,) * self.channels
        return replace(changed, mean=self._asked(wish, "mean", mean), std=self._asked(wish, "std", std))

    def _asked(self, wish: Preprocess | None, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A request's numbers, one for each plane."""
        given = getattr(wish, name, None)
        if given is None:
            return default
        numbers = tuple(float(number) for number in given)
        return numbers * self.channels if len(numbers) == 1 else numbers

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) to which an upload of that size is resized before the crop.

        Shorter side to `resize` and the longer one rounded down, as torchvision and timm do; an input that is not
        square is covered by the resized upload.
        """
        if self.crop == "none":
            return self.size
        if not isinstance(self.resize, int):
            return self.resize
        if self.size[0] == self.size[1]:
            if height <= width:
                return self.resize, max(int(self.resize * width / height), 1)
            return max(int(self.resize * height / width), 1), self.resize
        margin = self.resize / min(self.size)
        scale = max(self.size[0] * margin / height, self.size[1] * margin / width)
        return max(round(height * scale), self.size[0]), max(round(width * scale), self.size[1])

    def apply(self, upload: Tensor) -> tuple[Tensor, Transform]:
        """One upload → its input in [0, 1] (float32, channels×h×w) and where that lies.

        Args:
            upload: uint8 H×W×3, RGB; or float32 H×W×C in [0, 1].

        Raises:
            MethodError: `not-applicable` where the upload has other planes than the network.
        """
        height, width = int(upload.shape[0]), int(upload.shape[1])
        if upload.dtype != torch.uint8:
            return self._apply_planes(_fitted(upload, self.channels))
        if self.channels not in (1, 3):
            raise wrong_planes(3, self.channels)
        picture = Image.fromarray(np.ascontiguousarray(upload.cpu().numpy()))
        if self.channels == 1:
            picture = picture.convert("L")
        tall, wide = self.resized(height, width)
        top, left = _margin(tall, self.size[0]), _margin(wide, self.size[1])
        if self.antialias:
            picture, rows, columns = _resize_visible(picture, (tall, wide), self, (top, left))
            pixels = _planes_of(np.asarray(picture)[rows, columns])
        else:
            pixels = _interpolated(_planes_of(np.asarray(picture)), (tall, wide), self, (top, left))
        pixels = _pad(pixels, self.size, (top, left))
        scale = (height / tall, width / wide)
        where = Transform((height, width), self.size, scale, (top * scale[0], left * scale[1]))
        return pixels, where

    def _apply_planes(self, upload: Tensor) -> tuple[Tensor, Transform]:
        """The same of float planes, H×W×C, each resized by itself."""
        height, width = int(upload.shape[0]), int(upload.shape[1])
        tall, wide = self.resized(height, width)
        top, left = _margin(tall, self.size[0]), _margin(wide, self.size[1])
        scale = (height / tall, width / wide)
        where = Transform((height, width), self.size, scale, (top * scale[0], left * scale[1]))
        if not self.antialias:
            pixels = _interpolated(upload.permute(2, 0, 1), (tall, wide), self, (top, left))
            return _pad(pixels, self.size, (top, left)), where
        planes = []
        for plane in np.ascontiguousarray(upload.permute(2, 0, 1).numpy()):
            picture, rows, columns = _resize_visible(Image.fromarray(plane), (tall, wide), self, (top, left))
            planes.append(torch.from_numpy(np.asarray(picture)[rows, columns].copy()))
        return _pad(torch.stack(planes), self.size, (top, left)), where

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] (N×C×h×w; colours for a grey network, too) → normalised input; differentiable."""
        if self.channels == 1 and images.shape[1] == 3:
            images = as_grey(images)
        return self.normalization.apply(images)


def from_mapping(values: Mapping[str, Any], base: Preprocessing) -> Preprocessing:
    """`base` with what a catalogue entry says in its place: size, resize, resize_mode, crop, mean, std, channels.

    Without `resize` a new size keeps the base's proportion of resize to size.

    Raises:
        ValueError: an unknown key or a value that makes no sense, with which.
    """
    unknown = set(values) - {"size", "resize", "resize_mode", "crop", "mean", "std", "channels"}
    if unknown:
        raise ValueError(f"preprocess knows no {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {}
    if "size" in values:
        size = _pair(values["size"], "size")
        shorter = base.resize if isinstance(base.resize, int) else min(base.resize)
        fields |= {"size": size, "resize": math.floor(min(size) * shorter / min(base.size))}
    if "resize" in values:
        resize = values["resize"]
        fields["resize"] = int(resize) if isinstance(resize, int) else _pair(resize, "resize")
    channels = values.get("channels", base.channels)
    if not isinstance(channels, int) or isinstance(channels, bool) or not 1 <= channels <= MOST_PLANES:
        raise ValueError(f"preprocess.channels is a number of planes from 1 to {MOST_PLANES}, not {channels!r}")
    fields["channels"] = channels
    if channels not in (1, 3, base.channels) and ("mean" not in values or "std" not in values):
        raise ValueError(f"preprocess.mean and preprocess.std of {channels} planes must be given")
    for key, allowed in (("resize_mode", tuple(_MODES)), ("crop", ("center", "none"))):
        if key in values:
            if values[key] not in allowed:
                raise ValueError(f"preprocess.{key} is one of {', '.join(map(str, allowed))}, not {values[key]!r}")
            fields[key] = values[key]
    for key in ("mean", "std"):
        if key in values:
            fields[key] = _numbers(values[key], key, channels)
    return replace(base, **fields)


def _pair(value: Any, key: str) -> tuple[int, int]:
    sides = [value, value] if isinstance(value, int) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(isinstance(x, int) and x > 0 for x in sides):
        raise ValueError(f"preprocess.{key} is a number of pixels or [height, width], not {value!r}")
    return sides[0], sides[1]


def _numbers(value: Any, key: str, planes: int) -> tuple[float, ...]:
    """One number for each plane; one alone counts for all, and grey may have those of three colours."""
    several = max(planes, 3) if planes == 1 else planes
    numbers = [value] * several if isinstance(value, int | float) else list(value) if isinstance(value, list) else []
    numbers = numbers * several if len(numbers) == 1 else numbers
    if len(numbers) != several or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
        raise ValueError(f"preprocess.{key} is one number or {several} in [0, 1] units, not {value!r}")
    if key == "std" and min(numbers) <= 0:
        raise ValueError("preprocess.std must be positive")
    return tuple(float(number) for number in numbers)


def wrong_planes(given: int, wanted: int) -> MethodError:
    """An upload has other planes than the network."""
    has = "colours" if given == 3 else "one plane" if given == 1 else f"{given} planes"
    return MethodError(
        "not-applicable",
        f"The network takes {wanted} planes and the upload has {has}. Send a .npy or safetensors part with an array of "
        f"H×W×{wanted} or {wanted}×H×W",
    )


def _fitted(upload: Tensor, wanted: int) -> Tensor:
    """Float planes H×W×C as many as wanted: grey counts for all colours, colours make one grey."""
    given = int(upload.shape[2])
    if given == wanted:
        return upload
    if (given, wanted) == (1, 3):
        return upload.expand(-1, -1, 3)
    if (given, wanted) == (3, 1):
        return as_grey(upload.permute(2, 0, 1)).permute(1, 2, 0)
    raise wrong_planes(given, wanted)


def _margin(resized: int, size: int) -> int:
    """Pixels cut before the crop; negative where the crop is larger and is padded."""
    return round((resized - size) / 2.0) if resized >= size else -((size - resized) // 2)


def _resize_visible(
    picture: Image.Image, target: tuple[int, int], how: Preprocessing, corner: tuple[int, int]
) -> tuple[Image.Image, slice, slice]:
    """The picture resized to (height, width), and the slices of it that the crop keeps."""
    tall, wide = target
    top, left = max(corner[0], 0), max(corner[1], 0)
    rows, columns = slice(top, top + how.size[0]), slice(left, left + how.size[1])
    mode = _MODES[how.resize_mode]
    if tall * wide > _LARGEST_RESIZE:
        # A long, thin upload: only the part that the crop keeps is resized, which differs at that part's rim alone.
        bottom, right = min(rows.stop, tall), min(columns.stop, wide)
        scale_y, scale_x = picture.height / tall, picture.width / wide
        box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
        return picture.resize((right - left, bottom - top), mode, box=box), slice(None), slice(None)
    if (picture.height, picture.width) != target:
        picture = picture.resize((wide, tall), mode)
    return picture, rows, columns


def _planes_of(pixels: NDArray[np.uint8]) -> Tensor:
    """H×W or H×W×C bytes → C×H×W in [0, 1], float32."""
    stack = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(stack.transpose(2, 0, 1).copy()).to(torch.float32).div(255.0)


def _interpolated(planes: Tensor, target: tuple[int, int], how: Preprocessing, corner: tuple[int, int]) -> Tensor:
    """C×H×W planes interpolated to (height, width) as torch does with tensors, and the part that the crop keeps.

    Raises:
        MethodError: `not-applicable` for a long, thin upload, which would become too large on the way to its crop.
    """
    if math.prod(target) > _LARGEST_RESIZE:
        raise MethodError(
            "not-applicable",
            f"an upload of {planes.shape[2]}×{planes.shape[1]} pixels would be resized to {target[1]}×{target[0]}; "
            "antialias=false goes up to 16 megapixels there. crop=none squeezes the upload instead",
        )
    if tuple(planes.shape[1:]) != target:
        if how.resize_mode == "lanczos":
            raise MethodError("not-applicable", "lanczos has no form without antialias; take resize_mode=bilinear")
        align = None if how.resize_mode == "nearest" else False
        planes = F.interpolate(planes[None], target, mode=how.resize_mode, align_corners=align)[0]
    top, left = max(corner[0], 0), max(corner[1], 0)
    return planes[:, top : top + how.size[0], left : left + how.size[1]].contiguous()


def _pad(pixels: Tensor, size: tuple[int, int], corner: tuple[int, int]) -> Tensor:
    """Black around an input that is smaller than the crop, as torchvision's centre crop adds it."""
    height, width = int(pixels.shape[1]), int(pixels.shape[2])
    if (height, width) == size:
        return pixels
    canvas = torch.zeros(pixels.shape[0], *size)
    top, left = max(-corner[0], 0), max(-corner[1], 0)
    canvas[:, top : top + height, left : left + width] = pixels
    return canvas
