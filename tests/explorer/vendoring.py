"""The libraries that the explorer ships, and where they are from; `python -m tests.explorer.vendoring` gets them anew.

A file is as its package has it, but that modules import each other by relative addresses: a browser does not know where
`lit-html` lies, and an import map would have to be an inline script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).parents[2] / "service" / "explorer" / "vendor"
PINS = VENDOR / "vendor.json"


def pins() -> dict[str, Any]:
    """Packages by name, with their versions, the integrity of their archives, and their files."""
    found: dict[str, Any] = json.loads(PINS.read_text(encoding="utf-8"))
    return found


def archive(name: str, version: str) -> bytes:
    """A package's archive, by npm."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, check=True, capture_output=True)
        return next(Path(folder).iterdir()).read_bytes()


def fetch() -> None:
    """Write every file anew and its digest into the pins.

    Raises:
        ValueError: an archive is not the one that is pinned.
    """
    table = pins()
    for name, package in table["packages"].items():
        packed = archive(name, package["version"])
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        if package.setdefault("integrity", integrity) != integrity:
            raise ValueError(f"{name} {package['version']} is not what was pinned: {integrity}")
        with tarfile.open(fileobj=io.BytesIO(packed)) as members:
            for file in package["files"]:
                member = members.extractfile(f"package/{file['from']}")
                assert member is not None
                data = member.read()
                for old, new in file.get("imports", {}).items():
                    data = data.replace(f'"{old}"'.encode(), f'"{new}"'.encode())
                target = VENDOR / file["to"]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                file["sha256"] = hashlib.sha256(data).hexdigest()
    PINS.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(fetch())
