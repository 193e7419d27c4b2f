"""Preprocessing: pixel for pixel what timm and torchvision do, and where the input lies in the upload."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from skimage import data
from timm.data import create_transform, resolve_data_config

from workers.contract import MethodError
from workers.geometry import Transform
from workers.networks import LoadedNetwork, load
from workers.networks.preprocess import Preprocessing, from_mapping
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
    how = Preprocessing((224, 224), 256)
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
    how = Preprocessing((64, 64), 72, crop=crop)
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
    how = Preprocessing((28, 28), 28, mean=(0.5,) * 3, std=(0.25,) * 3, channels=1)
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
    pixels, where = Preprocessing((224, 224), 256).apply(torch.full((*size, 3), 7, dtype=torch.uint8))
    assert pixels.shape == (3, 224, 224)
    assert torch.allclose(pixels, torch.tensor(7 / 255))
    assert where.upload_size == size


def test_long_uploads_are_cut_where_the_whole_would_be() -> None:
    strip = np.asarray(Image.fromarray(PHOTOGRAPHS["coffee"]).resize((2000, 8)))
    how = Preprocessing((224, 224), 256)
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
        from_mapping(values, Preprocessing((224, 224), 256))


def test_a_new_size_keeps_the_proportion_of_the_crop() -> None:
    assert from_mapping({"size": 112}, Preprocessing((224, 224), 256)).resize == 128
    assert from_mapping({"size": 112, "resize": [112, 112]}, Preprocessing((224, 224), 256)).resize == (112, 112)


def interpolated_by_hand(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear between half-pixel centres, pixel by pixel: what a tensor's resize is without antialias."""
    _, height, width = planes.shape
    result = torch.zeros(3, *size, dtype=torch.float64)
    for y in range(size[0]):
        for x in range(size[1]):
            down = max((y + 0.5) * height / size[0] - 0.5, 0.0)
            right = max((x + 0.5) * width / size[1] - 0.5, 0.0)
            top, left = int(down), int(right)
            below, after = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = planes[:, top, left] * (1 - (right - left)) + planes[:, top, after] * (right - left)
            lower = planes[:, below, left] * (1 - (right - left)) + planes[:, below, after] * (right - left)
            result[:, y, x] = upper * (1 - (down - top)) + lower * (down - top)
    return result


def test_without_antialias_pixels_are_interpolated_as_tensors_are() -> None:
    how = Preprocessing((24, 24), 24)
    for crop, size in (("none", (24, 24)), ("center", (24, 36))):
        asked = how.overridden(wish(crop=crop, antialias=False))
        pixels, where = asked.apply(upload(PHOTOGRAPHS["chelsea"][:60, :90].copy()))
        raw = torch.from_numpy(PHOTOGRAPHS["chelsea"][:60, :90].copy()).permute(2, 0, 1)
        whole = interpolated_by_hand(raw.double() / 255, size)
        left = (size[1] - 24) // 2
        torch.testing.assert_close(pixels.double(), whole[:, :, left : left + 24], atol=1e-6, rtol=0)
        theirs = F.interpolate(raw[None].float() / 255, size, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(pixels, theirs[:, :, left : left + 24])
        assert where.input_size == (24, 24)
        filtered, _ = how.overridden(wish(crop=crop)).apply(upload(PHOTOGRAPHS["chelsea"][:60, :90].copy()))
        assert float((filtered - pixels).abs().max()) > 0.02  # it is another picture than Pillow's


def test_arrays_without_antialias_are_interpolated_too() -> None:
    array = torch.rand(40, 50, 3, generator=torch.Generator().manual_seed(1))
    pixels, _ = Preprocessing((16, 16), 16).overridden(wish(crop="none", antialias=False)).apply(array)
    expected = interpolated_by_hand(array.permute(2, 0, 1).double(), (16, 16))
    torch.testing.assert_close(pixels.double(), expected, atol=1e-6, rtol=0)


def test_a_thin_upload_is_refused_without_antialias() -> None:
    with pytest.raises(MethodError, match="antialias=false goes up to 16 megapixels"):
        Preprocessing((224, 224), 256, antialias=False).apply(torch.zeros(8, 3000, 3, dtype=torch.uint8))


def test_what_white_is_to_the_network(lite0: LoadedNetwork) -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).repeat(224, 1)[:, :224, None].repeat(1, 1, 3)
    raw, _ = lite0.prepare([bytes_], wish(range="byte", crop="none"))
    assert raw[0].equal(bytes_.permute(2, 0, 1).float())  # to the bit
    plain, _ = lite0.prepare([bytes_], wish(range="unit", crop="none"))
    assert plain[0].equal(bytes_.permute(2, 0, 1).float() / 255)
    shifted, _ = lite0.prepare([bytes_], wish(range="byte", mean=[103.0, 116.0, 123.0], std=[2.0], crop="none"))
    mean = torch.tensor([103.0, 116.0, 123.0]).view(3, 1, 1)
    torch.testing.assert_close(shifted[0], (bytes_.permute(2, 0, 1).float() - mean) / 2)
    moved, _ = lite0.prepare([bytes_], wish(mean=[0.25], crop="none"))  # the deviation stays the network's own, 0.5
    torch.testing.assert_close(moved[0], (bytes_.permute(2, 0, 1).float() / 255 - 0.25) / 0.5)
    for asked in (wish(range="byte"), wish(std=[0.1, 0.2, 0.3])):
        pixels = torch.rand(1, 3, 4, 4)
        how = lite0.normalization(asked)
        torch.testing.assert_close(how.undo(how.apply(pixels)), pixels)
