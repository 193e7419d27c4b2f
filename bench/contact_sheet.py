"""Draw the contact sheet of the page on maximize: classes and channels, ours and Lucent's under each other.

Run: python -m bench.contact_sheet, after bench.lucent_quality and bench.channel_quality have left their pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.channel_quality import LAYER
from bench.lucent_quality import CLASSES, KEPT
from workers.networks.build import load

SIDE, GAP, MARGIN, TITLE = 132, 4, 58, 18
COLUMNS = 8
OUT = Path(__file__).parent.parent / "docs" / "images" / "maximize.png"


def strips() -> list[tuple[str, list[str], np.ndarray]]:
    """Label, titles and pictures of each row."""
    names = load("efficientnet_lite0").classes
    titles = [names[index].split(",")[0] for index in CLASSES]
    rows = []
    for maker in ("lucid", "smooth", "maco", "lucent"):
        path = KEPT / f"{maker}.npz"
        if path.exists():
            rows.append((maker, titles, np.load(path)["pictures"]))
    kept = np.load(KEPT / "channels.npz")
    titles = [f"{LAYER}, {channel}" for channel in kept["channels"]]
    return rows + [(maker, titles, kept[maker]) for maker in ("lucid", "smooth", "maco")]


def main() -> None:
    """Draw."""
    rows = strips()
    font = ImageFont.load_default(13)
    step = SIDE + GAP
    titled = [number == 0 or rows[number][1] != rows[number - 1][1] for number in range(len(rows))]
    height = len(rows) * step + sum(titled) * TITLE + GAP
    sheet = Image.new("RGB", (MARGIN + COLUMNS * step, height), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for (maker, titles, pictures), new in zip(rows, titled, strict=True):
        if new:
            for column, title in enumerate(titles):
                left = MARGIN + column * step
                while draw.textlength(title, font) > SIDE:
                    title = title[:-2] + "…"
                draw.text((left, top + 2), title, "black", font)
            top += TITLE
        draw.text((4, top + SIDE // 2 - 8), maker, "black", font)
        for column, pixels in enumerate(pictures[:COLUMNS]):
            tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (MARGIN + column * step, top))
        top += step
    sheet.quantize(256, method=Image.Quantize.MEDIANCUT).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB, {sheet.size}")


if __name__ == "__main__":
    main()
