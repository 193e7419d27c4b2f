"""Checkpoints written by the tools that train: timm's saver with its average, wrappers of torch, save_model, Lightning,
Accelerate.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import accelerate
import pytorch_lightning as lightning
import timm
import torch
from safetensors.torch import save_file, save_model
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workers.networks.weights import Fitted, fit, read_checkpoint, weight_bytes


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("test_resnet", num_classes=3)


def read(path: Path, **how: Any) -> Fitted:
    wanted = network().state_dict(keep_vars=True)
    return fit(read_checkpoint(path, weight_bytes(wanted)), wanted, **how)


def same(found: dict[str, Tensor], state: dict[str, Tensor]) -> bool:
    return set(found) == set(state) and all(torch.equal(found[name], state[name]) for name in state)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step, so that an optimizer has its moments."""
    model(torch.rand(2, 3, 64, 64)).sum().backward()
    optimizer.step()


def test_timms_saver(tmp_path: Path) -> None:
    model = network(1)
    optimizer = create_optimizer_v2(model, "adamw", lr=0.1)
    average = ModelEmaV3(model, decay=0.5)
    trained(model, optimizer)
    average.update(model)
    arguments = argparse.Namespace(model="test_resnet", lr=0.1, data_dir=Path("/data"), drop=None)
    saver = CheckpointSaver(
        model, optimizer, arguments, average, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    saver.save_checkpoint(3, metric=71.5)
    saver.save_recovery(3, 7)
    files = sorted(tmp_path.glob("*.pth.tar"))
    assert {"last.pth.tar", "model_best.pth.tar", "checkpoint-3.pth.tar"} <= {path.name for path in files}
    for path in files:
        assert same(read(path).tensors, dict(model.state_dict()))
        assert same(read(path, key="state_dict_ema").tensors, dict(average.module.state_dict()))
    assert not same(dict(average.module.state_dict()), dict(model.state_dict()))


def test_wrappers_of_torch(tmp_path: Path) -> None:
    own = dict(network(1).state_dict())
    wrapped: dict[str, Any] = {
        "parallel": nn.DataParallel(network(1)),
        "compiled": torch.compile(network(1)),
        "compiled-parallel": torch.compile(nn.DataParallel(network(1))),
        "parallel-compiled": nn.DataParallel(torch.compile(network(1))),  # type: ignore[arg-type]
        "averaged": AveragedModel(network(1)),
        "averaged-by-ema": AveragedModel(network(1), multi_avg_fn=get_ema_multi_avg_fn(0.9)),
        "averaged-parallel": AveragedModel(nn.DataParallel(network(1))),
    }
    for name, model in wrapped.items():
        for ending, old in ((".pt", False), (".ckpt", True)):
            torch.save(
                {"net": model.state_dict(), "epoch": 1},
                tmp_path / (name + ending),
                _use_new_zipfile_serialization=not old,
            )
            assert same(read(tmp_path / (name + ending)).tensors, own), name
        if name != "averaged":
            save_file(
                {key: value.clone() for key, value in model.state_dict().items()}, tmp_path / f"{name}.safetensors"
            )
            assert same(read(tmp_path / f"{name}.safetensors").tensors, own), name


def test_save_model(tmp_path: Path) -> None:
    model = network(1)
    save_model(model, str(tmp_path / "model.safetensors"))
    assert same(read(tmp_path / "model.safetensors").tensors, dict(model.state_dict()))


def test_lightning(tmp_path: Path) -> None:
    class Task(lightning.LightningModule):
        def __init__(self, lr: float = 0.1, folder: Path = Path("/data")) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network(1)

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.TensorDataset(torch.rand(4, 3, 64, 64), torch.tensor([0, 1, 2, 0]))
    task = Task()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(task, torch.utils.data.DataLoader(data, batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    for name in ("last.ckpt", "weights.ckpt"):
        assert same(read(tmp_path / name).tensors, dict(task.net.state_dict()))


def test_accelerate(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model = network(1)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    trained(model, optimizer)
    own = dict(accelerator.unwrap_model(model).state_dict())
    accelerator.save_model(model, str(tmp_path / "model"))
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.save_state(str(tmp_path / "old"), safe_serialization=False)
    found = [
        *(tmp_path / "model").glob("*.safetensors"),
        *(tmp_path / "state").glob("*.safetensors"),
        *(tmp_path / "old").glob("pytorch_model.bin"),
    ]
    assert len(found) == 3
    for path in found:
        assert same(read(path).tensors, own)
