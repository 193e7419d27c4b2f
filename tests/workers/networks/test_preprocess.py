"""Preprocessing: pixel for pixel what timm and torchvision do, and where the input lies in the upload."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from skimage import data
from timm.data import create_transform, resolve_data_config

from workers.contract import MethodError, Transform
from workers.networks import LoadedNetwork, load
from workers.networks.preprocess import Preprocess, from_mapping
from workers.networks.sources import find_source
from workers.networks.weights import fit, read_checkpoint

PHOTOGRAPHS = {"chelsea": data.chelsea(), "coffee": data.coffee()}


@pytest.fixture(scope="module")
def lite0() -> LoadedNetwork:
    return load("efficientnet_lite0")


def upload(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy())


def test_logits_equal_timms_own_transform_and_model(lite0: LoadedNetwork) -> None:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    path = find_source("efficientnet_lite0").package_file
    assert path is not None
    model.load_state_dict(fit(read_checkpoint(path, 2**25), model.state_dict(), in_order=True).tensors)
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    for name, pixels in PHOTOGRAPHS.items():
        theirs = transform(Image.fromarray(pixels))[None]
        ours, _ = lite0.prepare([upload(pixels)])
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        with torch.no_grad():
            difference = (lite0.module(ours) - model(theirs)).abs().max()
        assert difference < 1e-4, name


def test_the_default_network_knows_coffee_and_cats(lite0: LoadedNetwork) -> None:
    inputs, _ = lite0.prepare([upload(PHOTOGRAPHS["coffee"]), upload(PHOTOGRAPHS["chelsea"])])
    with torch.no_grad():
        best = lite0.module(inputs).topk(2).indices.tolist()
    assert lite0.classes[best[0][0]] == "espresso"
    assert "Egyptian cat" in [lite0.classes[index] for index in best[1]]


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "inception_v3", "swin_v2_t", "efficientnet_b0", "vit_h_14"])
@pytest.mark.parametrize("size", [(300, 451), (640, 427), (90, 90), (33, 517)])
def test_torchvision_presets(name: str, size: tuple[int, int]) -> None:
    picture = Image.fromarray(PHOTOGRAPHS["chelsea"]).resize((size[1], size[0]))
    preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    how = find_source(f"torchvision:{name}").preprocess
    pixels, _ = how.apply(upload(np.asarray(picture)))
    torch.testing.assert_close(how.normalize(pixels[None])[0], preset(picture), atol=1e-6, rtol=0)


def test_timms_squashing_networks() -> None:
    settings = timm.get_pretrained_cfg("resnet10t").to_dict() | {"crop_mode": "squash", "crop_pct": 1.0}
    transform = create_transform(**resolve_data_config(pretrained_cfg=settings), is_training=False)
    from workers.networks.sources.libraries import _timm_preprocess

    how = _timm_preprocess(resolve_data_config(pretrained_cfg=settings))
    pixels, where = how.apply(upload(PHOTOGRAPHS["chelsea"]))
    theirs = transform(Image.fromarray(PHOTOGRAPHS["chelsea"]))
    torch.testing.assert_close(how.normalize(pixels[None])[0], theirs, atol=1e-6, rtol=0)
    assert where.offset == (0.0, 0.0)


def test_where_the_input_lies_by_hand() -> None:
    how = Preprocess((224, 224), 256)
    _, where = how.apply(torch.zeros(512, 1024, 3, dtype=torch.uint8))
    # 512×1024 → 256×512, cut 16 rows and 144 columns before the crop: two upload pixels for each of the input.
    assert where == Transform((512, 1024), (224, 224), (2.0, 2.0), (32.0, 288.0))
    assert where.box_in_upload((0, 0, 224, 224)) == [32.0, 288.0, 480.0, 736.0]
    assert where.box_in_upload((-100, 10, 0, 20)) == [0.0, 308.0, 32.0, 328.0]


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (20, 20)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_a_marked_place_is_found_again(size: tuple[int, int], crop: str) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    height, width = size
    pixels[height // 2 : height // 2 + 4, width // 2 : width // 2 + 4] = 255
    how = Preprocess((64, 64), 72, crop=crop)
    image, where = how.apply(torch.from_numpy(pixels))
    rows, columns = (image[0] > 0.5).any(1).nonzero().flatten(), (image[0] > 0.5).any(0).nonzero().flatten()
    box = where.box_in_upload((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
    expected = [height // 2, width // 2, height // 2 + 4, width // 2 + 4]
    assert np.allclose(box, expected, atol=1.0)


def wish(**values: object) -> SimpleNamespace:
    return SimpleNamespace(**({"size": None, "crop": None, "resize_mode": None} | values))


def test_overrides(lite0: LoadedNetwork) -> None:
    image = [upload(PHOTOGRAPHS["coffee"])]
    inputs, where = lite0.prepare(image, wish(size=(160, 96), crop="none", resize_mode="nearest"))
    assert inputs.shape == (1, 3, 160, 96)
    assert where[0].scale == (400 / 160, 600 / 96)
    squeezed = Image.fromarray(PHOTOGRAPHS["coffee"]).resize((96, 160), Image.Resampling.NEAREST)
    by_hand = (torch.from_numpy(np.array(squeezed)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    torch.testing.assert_close(inputs[0], by_hand)
    larger, where = lite0.prepare(image, wish(size=(448, 448)))
    assert larger.shape == (1, 3, 448, 448)
    # The same part of the upload, to a pixel: resize and crop grow together.
    assert np.allclose(where[0].box_in_upload((0, 0, 448, 448)), [25, 125, 375, 475], atol=1)


def test_wide_inputs_cover_the_upload_without_distortion(lite0: LoadedNetwork) -> None:
    _, where = lite0.prepare([upload(PHOTOGRAPHS["coffee"])], wish(size=(128, 256)))
    assert where[0].scale[0] == pytest.approx(where[0].scale[1], rel=0.01)


def test_a_size_that_the_architecture_refuses() -> None:
    network = load("vgg11-random")
    with pytest.raises(MethodError, match="does not accept an input of 16×16") as caught:
        network.prepare([upload(PHOTOGRAPHS["coffee"])], wish(size=(16, 16)))
    assert caught.value.problem == "not-applicable"


def test_grey_networks() -> None:
    how = Preprocess((28, 28), 28, mean=(0.5,) * 3, std=(0.25,) * 3, channels=1)
    pixels, _ = how.apply(upload(PHOTOGRAPHS["chelsea"]))
    grey = Image.fromarray(PHOTOGRAPHS["chelsea"]).convert("L").resize((42, 28), Image.Resampling.BILINEAR)
    by_hand = torch.from_numpy(np.array(grey)[:, 7:35].copy()).float() / 255
    torch.testing.assert_close(pixels[0], by_hand)
    colour = torch.rand(2, 3, 28, 28, requires_grad=True)
    normal = how.normalize(colour)
    assert normal.shape == (2, 1, 28, 28)
    luma = 0.299 * colour[:, 0] + 0.587 * colour[:, 1] + 0.114 * colour[:, 2]
    torch.testing.assert_close(normal[:, 0], (luma - 0.5) / 0.25)
    (gradient,) = torch.autograd.grad(normal.sum(), colour)
    torch.testing.assert_close(gradient[0, :, 0, 0], torch.tensor([0.299, 0.587, 0.114]) / 0.25)


@pytest.mark.parametrize("size", [(1, 65000), (65000, 1), (1, 1), (3, 100)])
def test_odd_uploads_do_not_explode(size: tuple[int, int]) -> None:
    pixels, where = Preprocess((224, 224), 256).apply(torch.full((*size, 3), 7, dtype=torch.uint8))
    assert pixels.shape == (3, 224, 224)
    assert torch.allclose(pixels, torch.tensor(7 / 255))
    assert where.upload_size == size


def test_long_uploads_are_cut_where_the_whole_would_be() -> None:
    strip = np.asarray(Image.fromarray(PHOTOGRAPHS["coffee"]).resize((2000, 8)))
    how = Preprocess((224, 224), 256)
    whole = Image.fromarray(strip).resize((64000, 256), Image.Resampling.BILINEAR)
    cut, _ = how.apply(torch.from_numpy(strip.copy()))
    by_hand = torch.from_numpy(np.asarray(whole)[16:240, 31888:32112].copy()).permute(2, 0, 1) / 255
    assert (cut - by_hand)[:, 16:-16, :].abs().max() < 0.02


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"colour": 1}, "knows no colour"),
        ({"size": "big"}, "size is a number"),
        ({"size": [0, 3]}, "size is a number"),
        ({"mean": [0.5, 0.5]}, "mean is one number or 3"),
        ({"std": [0.5, 0.0, 0.5]}, "std must be positive"),
        ({"resize_mode": "sharp"}, "resize_mode is one of"),
        ({"crop": "left"}, "crop is one of"),
        ({"channels": 65}, "a number of planes from 1 to 64"),
    ],
)
def test_entries_that_make_no_sense(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_mapping(values, Preprocess((224, 224), 256))


def test_a_new_size_keeps_the_proportion_of_the_crop() -> None:
    assert from_mapping({"size": 112}, Preprocess((224, 224), 256)).resize == 128
    assert from_mapping({"size": 112, "resize": [112, 112]}, Preprocess((224, 224), 256)).resize == (112, 112)
