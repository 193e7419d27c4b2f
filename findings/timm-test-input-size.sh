#!/usr/bin/env bash
# Of timm 1.0.31's 1371 architectures, 242 have their accuracy published at another input size (`test_input_size`) than the one that `resolve_data_config` gives by default.
#
# resolve_data_config takes the training size unless it is told use_test_size=True. Logits and accuracies of those weights
# then differ from the published ones, and nothing says so.
. "$(dirname "$0")/packages" timm==1.0.31 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 pillow==13.0.0
"$python" - <<'END'
import timm
from timm.data import resolve_data_config
from timm.models import get_pretrained_cfg, list_models, list_pretrained

counts = {}
for kind, names in (("weights", list_pretrained()), ("architectures", list_models())):
    found = [get_pretrained_cfg(name) for name in names]
    other = [cfg for cfg in found if cfg.test_input_size is not None and cfg.test_input_size != cfg.input_size]
    counts[kind] = len(other), len(found)
name = "tf_efficientnetv2_s"
cfg = get_pretrained_cfg(name).to_dict()
sizes = resolve_data_config(pretrained_cfg=cfg)["input_size"], resolve_data_config(pretrained_cfg=cfg, use_test_size=True)["input_size"]
print(f"timm {timm.__version__}: published at another size: {counts}")
print(f"{name}: {sizes[0]} by default, {sizes[1]} with use_test_size=True")
assert counts == {"weights": (307, 1826), "architectures": (242, 1371)}
assert sizes[0] != sizes[1]
END
