"""Every setting of every part, with its unit in its name, its default and its meaning.

Each is an environment variable with the prefix CONVSCOPE_ and a flag of the commands that use it. It stands here, not
in the service, because the command line, the service and the worker share it and none of them imports another.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SETTINGS_REFUSED = 2
"""Exit status of a part that cannot start with its settings; starting it again would not help."""


class Settings(BaseSettings):
    """All settings. A folder is a Path, a size ends in its unit, a duration in `_s`."""

    model_config = SettingsConfigDict(env_prefix="CONVSCOPE_", extra="ignore")

    # Where things are.
    data: Path = Field(
        default_factory=lambda: user_data_path("convscope"),
        description="Data folder: embedded server, artifacts, downloaded weights.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis or Valkey, redis://…, rediss://… or unix://…; without it `serve` runs an embedded one.",
    )
    redis_mib: int = Field(
        1024, ge=16, description="Most memory of the embedded server, MiB; when it is full, new jobs are refused."
    )
    artifacts_url: str | None = Field(
        None,
        description="Artifact store, a folder's path, file://… or s3://…; without it a folder in the data folder.",
    )
    catalogue: Path | None = Field(
        None, description="The operator's catalogue.toml with further networks; without it one in the data folder."
    )
    weights_folder: Path | None = Field(
        None, description="Folder for downloaded and local weights; without it one in the data folder."
    )
    maco_spectrum: Path | None = Field(
        None, description="Amplitudes that `maximize` keeps fixed with preset maco, .npy; without it our own fit."
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with callers, SHA-256 of their keys and quotas; without it everyone is `anonymous`.",
    )
    oidc_issuer: str | None = Field(
        None,
        description="Address of an OpenID Connect provider whose tokens callers may send instead of keys; needs "
        "`oidc_audience`.",
    )
    oidc_audience: str | None = Field(None, description="What tokens must be meant for, their claim `aud`.")

    # The service.
    host: str = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port the service listens on.")
    cors_origins: str = Field(
        "",
        description="Origins whose pages may call the service, separated by commas, as `https://example.org`; `*` for "
        "all; empty for none.",
    )
    hosts: str = Field(
        "",
        description="Names under which the service answers, beside its machine's own and any address, separated by "
        "commas; `*`: all. Empty: with API keys all, without them none but its machine's.",
    )
    allow_anonymous: bool = Field(
        False, description="Listen on an address that other machines reach although there are no API keys."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json, or lines for people; auto: lines on a terminal, else json."
    )
    service_memory_mib: int = Field(
        1024,
        ge=64,
        description="Memory that request bodies and images in flight may take in the service, MiB; what is more waits.",
    )
    body_mib: int = Field(32, ge=1, description="Largest request body, MiB.")
    body_timeout_s: float = Field(30.0, gt=0, description="Longest pause while a body arrives, seconds.")
    megapixels: float = Field(40.0, gt=0, description="Most pixels of one image, millions.")
    images_per_request: int = Field(64, ge=1, description="Most images in one request.")
    request_megapixels: float = Field(
        400.0, gt=0, description="Most pixels of all images of one request together, millions; each takes three bytes."
    )
    request_kib: int = Field(
        1024, ge=1, description="Longest request without its images, KiB of JSON; the queue keeps it with the job."
    )
    image_set_images: int = Field(10_000, ge=1, description="Most images in one set.")
    image_set_mib: int = Field(2048, ge=1, description="Largest image set, MiB as uploaded.")
    image_set_megapixels: float = Field(
        2000.0, gt=0, description="Most pixels of all images of one set together, millions; each takes three bytes."
    )
    disk_reserve_mib: int = Field(
        1024,
        ge=0,
        description="Free space on a local store's disk that is kept for work under way and the queue's file, MiB: "
        "uploads and new jobs are refused below it.",
    )
    store_gib: float = Field(
        64.0, ge=0, description="Most that a local store may hold, GiB; then uploads are refused; 0: no bound."
    )
    caller_store_gib: float = Field(
        16.0, gt=0, description="Most bytes of one caller's images in the store, GiB, as they are stored."
    )
    network_mib: int = Field(
        1024, ge=1, description="Largest file of weights or program that a caller may bring as a network, MiB."
    )
    caller_networks: int = Field(50, ge=1, description="Most networks that one caller may bring.")
    caller_networks_gib: float = Field(
        8.0, gt=0, description="Most bytes of the files of all networks of one caller, GiB."
    )
    result_mib: int = Field(256, ge=1, description="Largest result arrays of one job, MiB.")
    interactive_forwards: int = Field(
        20_000, ge=1, description="Most forward passes of one image that one quick request may cost."
    )
    batch_forwards: int = Field(
        1_000_000, ge=1, description="Most forward passes of one image that one long job may cost."
    )
    inline_numbers: int = Field(
        262_144, ge=0, description="Arrays up to this many numbers carry their data in JSON answers."
    )
    quick_wait_s: float = Field(
        30.0, ge=0, description="How long a quick operation holds its request without a preference, seconds."
    )
    longest_wait_s: float = Field(60.0, ge=0, description="Most that `Prefer: wait` and `?wait=` may ask for, seconds.")
    card_wait_s: float = Field(
        30.0, ge=0, description="How long a request waits for a worker to describe a network, seconds."
    )

    # Jobs.
    lane_depth: int = Field(1000, ge=1, description="Most queued jobs of one lane.")
    caller_jobs: int = Field(
        100,
        ge=1,
        description="Most unfinished quick jobs of one caller, and as many long ones; without API keys only the lanes' "
        "depth bounds. As many may be cancelled within a minute.",
    )
    caller_forwards: int = Field(
        2_000_000,
        ge=1,
        description="Most forward passes that all unfinished long jobs of one caller may cost together; the first one "
        "is always taken.",
    )
    quick_forwards: int = Field(
        100,
        ge=0,
        description="A request that costs at most so many forward passes, of a network like the default one, is quick: "
        "it has places of its own and goes before all others.",
    )
    keep_jobs_s: int = Field(86_400, ge=60, description="How long finished jobs and their results are kept, seconds.")
    keep_images_s: int = Field(604_800, ge=60, description="How long uploaded images are kept, seconds.")
    lease_s: float = Field(
        4.0, gt=0, description="A running job without renewal for this long goes back to its lane, seconds."
    )
    renew_s: float = Field(1.0, gt=0, description="How often a worker renews its running jobs, seconds.")
    crashes: int = Field(
        3,
        ge=1,
        description="A job that kills its engine this often, alone and without a checkpoint between, fails.",
    )

    # The worker.
    default_model: str = Field(
        "efficientnet_lite0", description="Catalogue id of the network used when a request names none."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    threads: int = Field(0, ge=0, description="Compute threads of the engine; 0: all cores.")
    memory_mib: int = Field(4096, ge=256, description="Working memory of the engine beside the networks, MiB.")
    networks_mib: int = Field(
        4096, ge=64, description="Memory for networks kept warm, MiB; the least recently used leaves first."
    )
    tile: int = Field(
        0,
        ge=0,
        le=64,
        description="Rows of a step with precision `exact`; 0: one on a CPU, elsewhere as a measurement says.",
    )
    quick_runs: int = Field(16, ge=1, description="Most quick jobs a worker holds at once.")
    interactive_runs: int = Field(32, ge=1, description="Most interactive jobs a worker holds at once.")
    batch_runs: int = Field(16, ge=1, description="Most batch jobs a worker holds at once.")
    stall_s: float = Field(
        60.0, gt=0, description="An engine without progress for this long is killed and restarted, seconds."
    )
    store_patience_s: float = Field(
        60.0, gt=0, description="How long a worker tries to store a result before it fails the job, seconds."
    )
    drain_s: float = Field(8.0, gt=0, description="How long a stopping worker may take to give back its jobs, seconds.")

    # The command line as a client of a running service.
    url: str | None = Field(
        None, description="Service that `run` and `models` ask; without it host and port of this machine."
    )
    api_key: str | None = Field(None, description="Key that `run` and `models` send as `Authorization: Bearer`.")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise ValueError(f"possible are auto, cpu, cuda and cuda:N, not {device!r}")
        return device

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: str) -> str:
        for origin in _listed(origins):
            if not re.fullmatch(r"\*|[a-z][a-z0-9+.-]*://[^/\s?#@]+", origin):
                raise ValueError(f"an origin is a scheme and a host, as https://example.org:8443, not {origin!r}")
        return origins

    @field_validator("hosts")
    @classmethod
    def _names(cls, hosts: str) -> str:
        for host in _listed(hosts):
            if not re.fullmatch(r"\*|[A-Za-z0-9._-]+", host):
                raise ValueError(f"a host is a name without scheme and port, as gpu1.example.org, not {host!r}")
        return hosts

    @property
    def origins(self) -> list[str]:
        """Origins whose pages may call the service."""
        return _listed(self.cors_origins)

    @property
    def host_names(self) -> list[str]:
        """The names that the service answers to beside its machine's own; `*` where it answers to all."""
        return _listed(self.hosts) or (["*"] if self.knows_callers else [])

    @property
    def knows_callers(self) -> bool:
        """Whether every caller needs a key or a token."""
        return self.api_keys_file is not None or self.oidc_issuer is not None

    @property
    def identity_trouble(self) -> str | None:
        """Why tokens cannot be checked: one of the two settings is missing, or keys would come over an open wire."""
        issuer, audience = self.oidc_issuer, self.oidc_audience
        if issuer is None and audience is None:
            return None
        if issuer is None or audience is None:
            return "--oidc-issuer and --oidc-audience go together; without an audience any token of the issuer would do"
        parts = urlsplit(issuer)
        if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
            return f"--oidc-issuer or CONVSCOPE_OIDC_ISSUER: an https:// address is needed, not {issuer!r}"
        return None

    @property
    def exposure_trouble(self) -> str | None:
        """Why the service may not listen where it is told to: others could reach it, and nobody needs a key."""
        if self.knows_callers or self.allow_anonymous or _is_loopback(self.host):
            return None
        return (
            f"--host or CONVSCOPE_HOST: other machines reach {self.host or 'every address'}, and whoever does may use "
            "and read everything; name callers with --api-keys-file, or say --allow-anonymous true"
        )

    @property
    def catalogue_trouble(self) -> str | None:
        """Why the operator's catalogue cannot be there at all; what is wrong inside it hurts nothing else."""
        if self.catalogue is None or self.catalogue.is_file():
            return None
        return f"--catalogue or CONVSCOPE_CATALOGUE: there is no file {self.catalogue}"

    @property
    def store_bounds(self) -> dict[str, int]:
        """What bounds the store, bytes, as `Artifacts.open` takes it."""
        return {"reserve_bytes": self.disk_reserve_mib << 20, "bound_bytes": round(self.store_gib * 2**30)}

    @property
    def artifacts_location(self) -> str:
        """The artifact store that is in force."""
        return self.artifacts_url or str(self.data / "artifacts")

    @property
    def weights_location(self) -> Path:
        """The folder of weights that is in force."""
        return self.weights_folder or self.data / "weights"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def said(error: ValidationError) -> str:
    """What is wrong with settings, in one line, by their flags and variables."""
    wrong = [(str(one["loc"][0]), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    return "; ".join(f"--{name.replace('_', '-')} or CONVSCOPE_{name.upper()}: {message}" for name, message in wrong)
