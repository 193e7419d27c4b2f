#!/usr/bin/env bash
# torch-cka 0.21 computes its rows in the order in which layers run and labels them in the order in which they were registered.
#
# Here `head` is registered before `body` and runs after it. Compared with `body` alone, the row that is labelled `head`
# holds body's own similarity to itself, 1.
. "$(dirname "$0")/packages" torch-cka==0.21 torch==2.15.0 tqdm==4.70.1 matplotlib==3.11.2 numpy==2.4.6
"$python" - <<'END'
import torch
from importlib.metadata import version
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch_cka import CKA


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(6, 3), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


torch.manual_seed(0)
network = Network().eval()
data = DataLoader(TensorDataset(torch.randn(64, 5), torch.zeros(64)), batch_size=32)
cka = CKA(network, network, device="cpu", model1_layers=["head", "body"], model2_layers=["body"])
cka.compare(data)
result = cka.export()
rows = dict(zip(result["model1_layers"], (round(float(row[0]), 3) for row in result["CKA"]), strict=True))
print(f"torch-cka {version('torch-cka')}, torch {torch.__version__}")
print(f"similarity to body, by label: {rows}")
assert rows["head"] == 1.0 and rows["body"] < 0.9
END
