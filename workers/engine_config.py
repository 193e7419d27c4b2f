"""What a supervisor tells its engine at the start, as JSON. No torch, no pydantic."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EngineConfig:
    """Settings of one engine.

    Args:
        device: auto, cpu, cuda or cuda:N.
        threads: compute threads; 0 all cores.
        memory_mib: working memory beside the networks, MiB.
        networks_mib: memory for networks kept warm, MiB.
        result_mib: largest result arrays of one job, MiB.
        tile: rows of an `exact` tile; 0 chooses (1 on a CPU, by measurement on other devices).
        default_model: catalogue id.
        weights_folder: folder of downloaded and local weights.
        catalogue: path of the operator's catalogue.toml, if there is one.
        state_folder: where measured tiles are remembered; empty remembers nothing.
        methods: package whose modules define METHOD.
        networks: `package:class` that gives the networks.
        slice_s: how long one slice should take at most.
        window_s: how long a one-shot task waits for mates.
        progress_s, preview_s: least time between two progress reports and previews of a job.
        checkpoint_s: when the first checkpoint of a job is made; later ones follow at least so far apart.
    """

    device: str = "auto"
    threads: int = 0
    memory_mib: int = 4096
    networks_mib: int = 4096
    result_mib: int = 256
    tile: int = 0
    default_model: str = "efficientnet_lite0"
    weights_folder: str = ""
    catalogue: str | None = None
    state_folder: str = ""
    methods: str = "workers.methods"
    networks: str = "workers.networks:Networks"
    slice_s: float = 0.25
    window_s: float = 0.002
    progress_s: float = 0.5
    preview_s: float = 1.0
    checkpoint_s: float = 10.0

    def json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
