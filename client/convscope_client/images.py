"""Images that a caller gives, in whatever form, as the service takes them. Imports nothing of ours."""

from __future__ import annotations

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

IMAGE_ID = re.compile(r"img-[0-9A-Za-z_-]+")
OCTETS = "application/octet-stream"
"""The service looks at an image's bytes, not at what a client calls them."""
_SPOOL_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Upload:
    """The bytes of an image file, with the name that the service shall show for it."""

    name: str
    data: bytes


ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Upload | Mapping[str, Any] | Image | NDArray[np.uint8]"
"""An image to work on:

* a path, or a text that is one;
* an id `img-…` as text, or a mapping with an `id`, as `upload_image` and a result's pictures give;
* the bytes of an image file, also as `Upload` with a name;
* a PIL image;
* an array of uint8, H×W (grey), H×W×3 (RGB) or H×W×4 (RGBA), values 0 to 255;
* an array of another type, H×W, H×W×C or C×H×W, sent as it is: for networks of other planes, or of more than 8 bits.
"""
ImagesInput: TypeAlias = "ImageInput | Sequence[ImageInput]"
"""One image, or several in their order; an array of N×H×W×3 is N of them."""


def as_list(images: Any) -> list[Any]:
    """One image or several as a list; an array of N×H×W×3 is several."""
    if images is None:
        return []
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return list(images)
    return [images]


def reference(image: Any) -> dict[str, Any] | None:
    """The image as a reference to what the service has already, or None where its bytes have to be sent."""
    if isinstance(image, Mapping):
        known = {name: image[name] for name in ("id", "base64") if image.get(name) is not None}
        if len(known) != 1:
            raise ValueError("an image as a mapping has an `id` or `base64`")
        return known
    if isinstance(image, str) and IMAGE_ID.fullmatch(image):
        return {"id": image}
    return None


def upload_of(image: Any, number: int = 0) -> Upload:
    """The image's file.

    Args:
        number: its place among several, for the name of one that has none.

    Raises:
        OSError: the file cannot be read.
        TypeError, ValueError: it is no image that can be sent.
    """
    if isinstance(image, Upload):
        return image
    if isinstance(image, str | os.PathLike):
        path = Path(image).expanduser()
        return Upload(path.name, path.read_bytes())
    if isinstance(image, bytes | bytearray | memoryview):
        return Upload(f"image-{number}", bytes(image))
    if isinstance(image, np.ndarray):
        return _upload_of_array(image, number)
    if hasattr(image, "save") and hasattr(image, "mode"):
        return Upload(f"image-{number}.png", _png(image))
    raise TypeError(f"an image is a path, an id, bytes, a PIL image or an array, not {type(image).__name__}")


def archive_of(images: Iterable[Any]) -> IO[bytes]:
    """A zip file of many images, in memory while it is small, with their names; stored, since images are packed.

    Raises:
        as `upload_of`; ValueError: for an id, whose bytes are not here.
    """
    spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 — the caller closes it
    try:
        with zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED) as archive:
            for number, image in enumerate(images):
                if reference(image) is not None:
                    raise ValueError("a set is made of images' bytes, not of ids")
                upload = upload_of(image, number)
                # The number keeps the order, and files of one name from different folders apart.
                archive.writestr(f"{number:05d}-{upload.name}", upload.data)
    except BaseException:
        spool.close()
        raise
    spool.seek(0)
    return spool


def _upload_of_array(pixels: NDArray[Any], number: int) -> Upload:
    from PIL import Image

    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "uif" or 0 in pixels.shape:
        raise ValueError(
            "an image as an array is H×W, H×W×C or C×H×W of integers or floats, not "
            f"{'×'.join(map(str, pixels.shape))} of {pixels.dtype}"
        )
    colours = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype == np.uint8 and colours in (1, 3, 4):
        drawn = pixels[:, :, 0] if pixels.ndim == 3 and colours == 1 else pixels
        return Upload(f"image-{number}.png", _png(Image.fromarray(drawn)))
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    return Upload(f"image-{number}.npy", file.getvalue())


def _png(image: Image) -> bytes:
    file = io.BytesIO()
    # CMYK, YCbCr and LAB have no PNG; their colours are the same in RGB as far as sRGB goes.
    (image.convert("RGB") if image.mode in ("CMYK", "YCbCr", "LAB", "HSV") else image).save(
        file, "PNG", compress_level=1
    )
    return file.getvalue()
