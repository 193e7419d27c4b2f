"""Images of a set on this machine's disk while a run needs them: thousands of pictures are no message for a pipe.

Import rule: convscope.protocol.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from convscope.protocol.artifacts import Artifacts
from convscope.protocol.image_sets import ImageSetContents

FETCHES = 8


class Spool:
    """A folder with a folder for each run; what a dead worker left there goes when a new one starts.

    Args:
        folder: shared by the workers of this machine; each uses the part named by its process id.
        artifacts: where pixels come from.
    """

    def __init__(self, folder: Path, artifacts: Artifacts) -> None:
        self._folder = folder / str(os.getpid())
        self._artifacts = artifacts
        for left in folder.iterdir() if folder.is_dir() else ():
            if not (left.name.isdecimal() and Path(f"/proc/{left.name}").exists()) or left == self._folder:
                shutil.rmtree(left, ignore_errors=True)

    async def fill(self, token: str, image_list: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Fetch every member of a set; paths of their .npy files, and (height, width) of each.

        Raises:
            ProblemError: `gone`, `store-unavailable`.
        """
        contents = ImageSetContents.model_validate_json(await self._artifacts.get(image_list))
        folder = self._of(token)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        gate = asyncio.Semaphore(FETCHES)

        async def fetch(number: int, key: str) -> str:
            path = folder / f"{number}.npy"
            async with gate:
                data = await self._artifacts.get(key)
                await asyncio.to_thread(path.write_bytes, data)
            return str(path)

        paths = await asyncio.gather(*(fetch(k, member.pixels) for k, member in enumerate(contents.members)))
        return list(paths), [(member.height, member.width) for member in contents.members]

    async def empty(self, token: str) -> None:
        """Forget a run's images."""
        await asyncio.to_thread(shutil.rmtree, self._of(token), True)

    def _of(self, token: str) -> Path:
        return self._folder / token.replace("/", "-")
