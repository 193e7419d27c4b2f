"""Where other libraries give other numbers than we do, measured: the figures of docs/peers.md.

python -m bench.peers        (peers that are not installed are named and left out: `pip install -e '.[bench]'`)
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.driving import outcome
from bench.report import report
from service.images.uploads import decode
from workers.contract import Row
from workers.methods.occlusion import METHOD as OCCLUSION
from workers.methods.saliency import METHOD as SALIENCY
from workers.networks.build import LoadedNetwork, load
from workers.networks.catalogue import Catalogue
from workers.passes import hsic

PHOTOGRAPHS = ("cat", "coffee")
MEGAPIXELS = 40.0
Rows = list[dict[str, Any]]


def photograph(name: str) -> Tensor:
    """A photograph of docs/images, uint8 H×W×3."""
    path = Path(__file__).parents[1] / "docs" / "images" / f"{name}.jpg"
    return torch.from_numpy(decode(path.read_bytes(), MEGAPIXELS).pixels.copy())


def moved(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """How far logits are apart, and how large they are."""
    return {"largest_difference": float((ours - theirs).abs().max()), "largest_logit": float(ours.abs().max())}


def from_catalogue(name: str, text: str, weights: Mapping[str, Tensor] | None = None) -> LoadedNetwork:
    """The network of that name in a catalogue.toml of this text, with weights.safetensors beside it."""
    with tempfile.TemporaryDirectory() as folder:
        if weights is not None:
            save_file(dict(weights), Path(folder, "weights.safetensors"))
        path = Path(folder, "catalogue.toml")
        path.write_text(text, "utf-8")
        return load(name, catalogue=Catalogue(path, Path(folder)))


TEST_SIZE = """[networks.resnet18-288]
source = "timm:resnet18"
weights = "random"

[networks.resnet18-288.preprocess]
size = 288
resize = 288
"""


def published_at_another_size() -> Rows:
    """How many of timm's architectures have their accuracy published at another input size than their own.

    And how far our transform by an entry of the catalogue is from timm's at that size, in levels of 255.
    """
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform
    from timm.models import get_pretrained_cfg, list_models

    found = [cfg for name in list_models() if (cfg := get_pretrained_cfg(name)) is not None]
    other = [cfg for cfg in found if cfg.test_input_size is not None and cfg.test_input_size != cfg.input_size]
    cfg = get_pretrained_cfg("resnet18")
    assert cfg is not None and cfg.test_input_size == (3, 288, 288)
    transform = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict(), use_test_size=True))
    picture = photograph("cat")
    theirs = transform(Image.fromarray(picture.numpy()))[None]
    network = from_catalogue("resnet18-288", TEST_SIZE)
    x, _ = network.prepare([picture])
    return [
        {
            "peer": "timm",
            "what": "accuracy at another input size",
            "count": len(other),
            "of": len(found),
            "levels_apart_with_the_entry": float((x - theirs).abs().max() * 255 * min(network.preprocess.std)),
        }
    ]


LITE_ORIGINAL = """[networks.lite0-original]
source = "efficientnet_lite0"
weights = "file:weights.safetensors"

[networks.lite0-original.preprocess]
mean = 0.498039
std = 0.501961
"""


def normalisation_of_lite() -> Rows:
    """EfficientNet-Lite as its authors normalise, (v − 127) / 128, against timm's mean and deviation of 0.5."""
    network = load("efficientnet_lite0")
    original = from_catalogue("lite0-original", LITE_ORIGINAL, network.module.state_dict())
    rows = []
    for name in PHOTOGRAPHS:
        picture = photograph(name)
        (x, _), (by_entry, _) = network.prepare([picture]), original.prepare([picture])
        theirs = ((x * 0.5 + 0.5) * 255 - 127) / 128
        with torch.no_grad():
            logits = network.module(x), network.module(theirs), original.module(by_entry)
        row = {"peer": "timm", "what": f"127/128, {name}", **moved(logits[0], logits[1])}
        rows.append({**row, "apart_with_the_entry": float((logits[1] - logits[2]).abs().max())})
    return rows


def display_p3() -> bytes:
    """An ICC profile of Display P3: its primaries adapted to D50, and the curve of sRGB."""

    def fixed(*numbers: float) -> bytes:
        return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)

    def xyz(*numbers: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*numbers)

    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = b"text\0\0\0\0none\0\0\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(8 + 3 + 67)
    tags = [
        (b"desc", name + bytes(-len(name) % 4)),
        (b"cprt", text),
        (b"wtpt", xyz(0.9642, 1.0, 0.8249)),
        (b"rXYZ", xyz(0.5151, 0.2412, -0.0011)),
        (b"gXYZ", xyz(0.2919, 0.6922, 0.0419)),
        (b"bXYZ", xyz(0.1572, 0.0666, 0.7841)),
        *((channel, curve) for channel in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags:
        table += struct.pack(">4sII", tag, at + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + body


def photographs_in_display_p3() -> Rows:
    """A photograph in Display P3, as telephones take them: converted to sRGB, or its numbers taken for sRGB's."""
    network = load("efficientnet_lite0")
    rows = []
    for name in PHOTOGRAPHS:
        plain = photograph(name)
        file = io.BytesIO()
        Image.fromarray(plain.numpy()).save(file, "PNG", icc_profile=display_p3())
        converted = torch.from_numpy(decode(file.getvalue(), MEGAPIXELS).pixels.copy())
        assert not torch.equal(converted, plain)
        with torch.no_grad():
            logits = [network.module(network.prepare([picture])[0]) for picture in (converted, plain)]
        rows.append({"peer": "torchvision", "what": f"Display P3 unconverted, {name}", **moved(*logits)})
    return rows


def bicubic_in_tensors() -> Rows:
    """The network's own transform in Pillow, as its publisher evaluates, against the same in tensors."""
    from torchvision.transforms.v2 import functional as transforms

    network = load("efficientnet_lite0")
    rows = []
    for name in PHOTOGRAPHS:
        picture = photograph(name)
        x, _ = network.prepare([picture])
        planes = picture.permute(2, 0, 1)
        for antialias in (True, False):
            resized = transforms.resize(
                planes, [256], interpolation=transforms.InterpolationMode.BICUBIC, antialias=antialias
            )
            theirs = (transforms.center_crop(resized, [224, 224])[None].float() / 255 - 0.5) / 0.5
            with torch.no_grad():
                logits = network.module(x), network.module(theirs)
            rows.append(
                {
                    "peer": "torchvision",
                    "what": f"bicubic in tensors, antialias={antialias}, {name}",
                    **moved(*logits),
                    "levels_apart": float((x - theirs).abs().max() * 127.5),
                }
            )
    return rows


def occlusion_windows() -> Rows:
    """Places of a window of 60 and a step of 15 on 224 pixels: where it lies whole, or also a clipped last one."""
    from captum.attr import Occlusion

    network, picture = load("efficientnet_lite0"), photograph("cat")
    request = SimpleNamespace(
        window=[60, 60], stride=[15, 15], fill="mean", target=281, seed=0, preprocess=None, precision="exact",
        incremental=True, unit=SimpleNamespace(layer="bn2", channel=0, y=None, x=None),
    )  # fmt: skip
    places = outcome(OCCLUSION, network, Row(request, [picture])).arrays["probability"].shape[1:]
    seen: list[int] = []

    def count(inputs: Tensor) -> Tensor:
        seen.extend(int(number) for number in (inputs == 0).sum((1, 2, 3)))
        return inputs.sum((1, 2, 3))

    Occlusion(count).attribute(torch.ones(1, 1, 224, 224), sliding_window_shapes=(1, 60, 60), strides=(1, 15, 15))
    hidden = seen[1:]  # the first forward hides nothing
    return [
        {
            "peer": "captum",
            "what": "occlusion, window 60, stride 15, 224 px",
            "ours_places": places[0] * places[1],
            "peer_places": len(hidden),
            "peer_clipped": sum(number < 3600 for number in hidden),
        }
    ]


def variance_of_gradients() -> Rows:
    """VarGrad of 32 noisy copies: the variance of gradients, and of their magnitudes, as is Captum's default."""
    from captum.attr import NoiseTunnel, Saliency

    network, picture = load("efficientnet_lite0"), photograph("cat")
    x, _ = network.prepare([picture])
    deviation = float(0.1 * (x.max() - x.min()))
    request = SimpleNamespace(
        method="vargrad", target=281, samples=32, noise=0.1, steps=1, max_steps=1, tolerance=1.0, baseline="black",
        nonstandard_gate=False, precision="exact", preprocess=None, seed=0,
    )  # fmt: skip
    ours = outcome(SALIENCY, network, Row(request, [picture])).arrays["attribution"].double().mean()
    peer, rows = NoiseTunnel(Saliency(network.module)), []
    for magnitudes in (True, False):
        torch.manual_seed(0)
        theirs = peer.attribute(
            x, nt_type="vargrad", nt_samples=32, nt_samples_batch_size=8, stdevs=deviation, target=281, abs=magnitudes
        )
        what = f"VarGrad, mean over the cat, abs={magnitudes}"
        rows.append({"peer": "captum", "what": what, "theirs_to_ours": float(theirs.double().mean() / ours)})
    return rows


def debiased_cka() -> Rows:
    """Debiased CKA of 200 pairs of unrelated features, 32 samples of 20: ours, and pytorch-cka's cut off at 0."""
    from cka import cka_from_features

    def debiased(x: Tensor, y: Tensor) -> Tensor:
        grams = [hsic.center_gram(hsic.gram_linear(side)[None], "debiased") for side in (x, y)]
        cross, left, right = (hsic.pairs(grams[i], grams[j], "debiased") for i, j in ((0, 1), (0, 0), (1, 1)))
        return hsic.cka(cross, left.diagonal(), right.diagonal())

    ours, theirs = [], []
    for seed in range(200):
        x, y = torch.randn(2, 32, 20, generator=torch.Generator().manual_seed(seed))
        ours.append(float(debiased(x, y)))
        theirs.append(float(cka_from_features(x, y)))
    return [
        {
            "peer": "pytorch-cka",
            "what": "debiased CKA of unrelated features",
            "ours_mean": float(np.mean(ours)),
            "peer_mean": float(np.mean(theirs)),
            "ours_negative": sum(value < 0 for value in ours),
            "peer_zero": sum(value == 0 for value in theirs),
            "apart_above_zero": max(abs(a - b) for a, b in zip(ours, theirs, strict=True) if b > 0),
        }
    ]


def flipped_pixels() -> Rows:
    """What Quantus' PixelFlipping changes in a step of 32 features: colour values, not pixels."""
    import quantus

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3))[:, None].expand(-1, 2)

    changed: list[int] = []

    def perturb(arr: NDArray[Any], indices: NDArray[Any], **_: Any) -> NDArray[Any]:
        places = {int(index) % 1024 for index in indices[0]}
        changed.append(len(places))
        blackened = arr.copy()
        blackened[0, indices[0]] = 0
        return blackened

    metric = quantus.PixelFlipping(
        features_in_step=32, perturb_func=perturb, disable_warnings=True, normalise=False, return_auc_per_sample=False
    )
    generator = np.random.default_rng(0)
    image, attribution = generator.random((2, 1, 3, 32, 32), np.float32)
    scores = metric(Mean().eval(), image, np.array([0]), attribution, device="cpu", channel_first=True)
    return [
        {
            "peer": "quantus",
            "what": "PixelFlipping, 3×32×32, 32 features a step",
            "steps": len(scores[0]),
            "pixels_touched_in_first_step": changed[0],
        }
    ]


def guided_relu6() -> Rows:
    """Guided backpropagation of EfficientNet-Lite0, all of ReLU6: how like the plain gradient it is."""
    from captum.attr import GuidedBackprop
    from zennit.attribution import Gradient
    from zennit.composites import GuidedBackprop as Composite

    network, picture = load("efficientnet_lite0"), photograph("cat")
    x, _ = network.prepare([picture])
    x.requires_grad_()
    gradient = torch.autograd.grad(network.module(x)[0, 281], x)[0]
    request = SimpleNamespace(
        method="guided", target=281, samples=1, noise=0.0, steps=1, max_steps=1, tolerance=1.0, baseline="black",
        nonstandard_gate=False, precision="exact", preprocess=None, seed=0,
    )  # fmt: skip
    with Gradient(network.module, Composite()) as attributor:
        _, by_zennit = attributor(x, torch.eye(1000)[[281]])
    found = {
        "captum": GuidedBackprop(network.module).attribute(x, target=281),
        "zennit": by_zennit,
        "ours": outcome(SALIENCY, network, Row(request, [picture])).arrays["attribution"],
    }
    return [
        {
            "peer": name,
            "what": "guided backpropagation of ReLU6",
            "correlation_with_gradient": float(torch.corrcoef(torch.stack([each.flatten(), gradient.flatten()]))[0, 1]),
        }
        for name, each in found.items()
    ]


def spectrum_of_photographs() -> Rows:
    """In which row and column of xplique's amplitudes the largest is: frequency zero, if it is where we expect it."""
    try:
        listed = files("xplique") or []
    except PackageNotFoundError:
        raise ModuleNotFoundError("xplique") from None
    (path,) = [file.locate() for file in listed if file.name == "spectrum_decorrelated.npy"]
    amplitudes = np.load(str(path), allow_pickle=False)
    row, column = np.unravel_index(amplitudes.sum(0).argmax(), amplitudes.shape[1:])
    return [
        {"peer": "xplique", "what": "spectrum", "shape": str(amplitudes.shape), "row": int(row), "column": int(column)}
    ]


COMPARISONS: tuple[Callable[[], Rows], ...] = (
    published_at_another_size,
    normalisation_of_lite,
    photographs_in_display_p3,
    bicubic_in_tensors,
    occlusion_windows,
    variance_of_gradients,
    debiased_cka,
    flipped_pixels,
    guided_relu6,
    spectrum_of_photographs,
)


def rows() -> Iterator[dict[str, Any]]:
    """Every comparison whose peer is installed, with the peer's version."""
    for comparison in COMPARISONS:
        try:
            found = comparison()
        except ModuleNotFoundError as error:
            print(f"left out: {comparison.__name__} ({error})")
            continue
        for row in found:
            yield {**row, "version": _version(row["peer"])}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


if __name__ == "__main__":
    report("peers", list(rows()))
