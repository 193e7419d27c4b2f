"""Images of a set on this machine's disk while a run needs them: thousands of pictures are no message for a pipe."""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import shutil
from pathlib import Path

from convscope.store.artifacts import Artifacts
from convscope.store.image_sets import ImageSetContents, ImageSetMember
from convscope.store.images import npy_file

FETCHES = 8


class ImageFiles:
    """A folder with a folder for each run; what a dead worker left there goes when a new one starts.

    Workers in containers may share the folder and their process ids: each holds the lock of a part with a name of its
    own, and removes only parts whose lock nobody holds.

    Args:
        folder: shared by the workers of this machine.
        artifacts: where pixels come from.
    """

    def __init__(self, folder: Path, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as everybody:
            fcntl.flock(everybody, fcntl.LOCK_EX)
            for left in folder.iterdir():
                if left.is_dir() and not _held(left):
                    shutil.rmtree(left, ignore_errors=True)
            self._folder = folder / secrets.token_hex(8)
            self._folder.mkdir()
            self._lock = (self._folder / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    async def fill(self, token: str, image_list: str) -> tuple[list[str], list[ImageSetMember]]:
        """Fetch every member of a set; paths of their .npy files, and the members.

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
                await asyncio.to_thread(lambda: path.write_bytes(npy_file(data)))
            return str(path)

        paths = await asyncio.gather(
            *(fetch(k, member.planes or member.pixels) for k, member in enumerate(contents.members))
        )
        return list(paths), contents.members

    async def empty(self, token: str) -> None:
        """Forget a run's images."""
        await asyncio.to_thread(shutil.rmtree, self._of(token), True)

    def _of(self, token: str) -> Path:
        return self._folder / token.replace("/", "-")


def _held(part: Path) -> bool:
    """Whether a living worker holds that part."""
    try:
        with (part / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
