"""What docs/operations.md tells an operator to write or to find is what the parts read and write."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path

from service.http.auth import Callers, Identity

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_every_entry_of_the_data_folder_is_in_the_guide() -> None:
    """Whatever a part appends to the data folder in its source."""
    appended = re.compile(r"(?:\bdata|\bfolder\.path|\bself\.path) / \"([\w.-]+)\"")
    folders = ("convscope", "service", "workers")
    sources = [path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py")]
    found = {name for text in sources for name in appended.findall(text)}
    assert found >= {"serve.lock", "valkey", "artifacts", "weights", "worker"}, "the search finds what is known"
    table = GUIDE.partition("The data folder")[2].partition("\n## ")[0]
    told = {name.rstrip("/") for name in re.findall(r"^\| `([^`]+)` \|", table, re.M)}
    assert found <= told, found - told


def test_the_key_file_of_the_guide_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.S)
    key = "a key of one's own"
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert example.count("<64 hexadecimal digits>") == 2
    path = tmp_path / "keys.toml"
    path.write_text(example.replace("<64 hexadecimal digits>", digest, 1).replace("<64 hexadecimal digits>", "0" * 64))
    callers = Callers.read(path)
    first = asyncio.run(callers.identify(f"Bearer {key}"))
    assert first == Identity("alice", frozenset({"read", "submit", "models"})) and callers.quota("alice") == 20
