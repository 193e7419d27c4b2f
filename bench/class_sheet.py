"""Draw the contact sheet of 32 classes by the default preset of maximize.

Run: python -m bench.class_sheet, after `python -m bench.lucent_quality "smooth many"` has left its pictures. A title is
red where neither of the two networks that took no part names the class first, orange where one of them does not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bench.lucent_quality import KEPT, classes_of
from workers.networks.build import load

SIDE, GAP, TITLE, COLUMNS = 112, 4, 16, 8
INKS = ("red", "darkorange", "black")
OUT = Path(__file__).parent.parent / "docs" / "images" / "maximize-smooth.png"


def main() -> None:
    """Draw."""
    classes = classes_of("smooth many")
    pictures = np.load(KEPT / "smooth many.npz")["pictures"]
    named = np.zeros(len(classes), int)
    for judge in (load("efficientnet_lite1"), load("efficientnet_lite2")):
        with torch.no_grad():
            found = [int(judge.module(judge.prepare([torch.from_numpy(one)])[0]).argmax()) for one in pictures]
        named += np.array(found) == np.array(classes)
    names = load("efficientnet_lite0").classes
    font = ImageFont.load_default(11)
    rows = -(-len(classes) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + TITLE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (index, pixels) in enumerate(zip(classes, pictures, strict=True)):
        left, top = GAP + place % COLUMNS * (SIDE + GAP), place // COLUMNS * (SIDE + TITLE + GAP)
        title = names[index].split(",")[0]
        while draw.textlength(title, font) > SIDE:
            title = title[:-2] + "…"
        draw.text((left, top + 1), title, INKS[named[place]], font)
        tile = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left, top + TITLE))
    sheet.quantize(256, method=Image.Quantize.MEDIANCUT).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB, {sheet.size}")


if __name__ == "__main__":
    main()
