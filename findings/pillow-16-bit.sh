#!/usr/bin/env bash
# Pillow 13.0.0 turns every 16-bit grey value above 255 white when it converts to 8 bits, while of 16-bit colour it keeps the upper byte.
#
# A 16-bit grey PNG opens as mode I;16, and convert("L") and convert("RGB") clip instead of scaling: an ordinary exposure
# becomes a white sheet. The same values in a 16-bit RGB PNG open as mode RGB, scaled (and cut off, not rounded).
. "$(dirname "$0")/packages" pillow==13.0.0 numpy==2.4.6
"$python" - <<'END'
import io, struct, zlib
import numpy as np, PIL
from PIL import Image

values = [0, 200, 255, 256, 4096, 32768, 65535]


def png(colour_type: int, row: bytes) -> Image.Image:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 16, colour_type, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return Image.open(io.BytesIO(data))


grey = png(0, b"".join(struct.pack(">H", value) for value in values))
colour = png(2, b"".join(struct.pack(">3H", value, value, value) for value in values))
converted = {mode: np.asarray(grey.convert(mode))[0].reshape(len(values), -1)[:, 0].tolist() for mode in ("L", "RGB")}
upper = np.asarray(colour)[0, :, 0].tolist()
print(f"Pillow {PIL.__version__}; 16-bit values {values}")
print(f"grey opens as {grey.mode}: convert('L') {converted['L']}, convert('RGB') {converted['RGB']}")
print(f"colour opens as {colour.mode}: {upper}")
assert converted["L"] == converted["RGB"] == [0, 200, 255, 255, 255, 255, 255]
assert upper == [value >> 8 for value in values]
END
