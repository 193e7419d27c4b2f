"""What the service keeps beside jobs: images, sets of them, networks, operations; and whether it is well.

Each method is named as the operation of the OpenAPI document that it calls.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote

from convscope_client import schemas
from convscope_client._async.sender import AsyncSender
from convscope_client._async.waiting import aside, sleep
from convscope_client.errors import ProblemError, UnreachableError
from convscope_client.images import OCTETS, ImageInput, archive_of, upload_of
from convscope_client.patience import json_object
from convscope_client.results import picture_of

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE = 200
"""Most entries that one answer of a listing may have."""
UPLOAD_S = 600.0
"""The service reads and decodes a whole set before it answers."""


class AsyncResources:
    """Images, image sets, networks, operations, health."""

    _sender: AsyncSender

    async def upload_image(self, image: ImageInput, *, range: tuple[float, float] | None = None) -> schemas.ImageView:
        """Keep an image at the service, to use it by its id in as many requests as wanted.

        The same bytes give the same id.

        Args:
            range: the numbers that are read as 0 and 1, for images of more than 8 bits and for arrays; without it the
                range of their type.
        """
        upload = await aside(upload_of, image)
        files = [("image", (upload.name, upload.data, OCTETS))]
        params = {"range": None if range is None else f"{range[0]},{range[1]}"}
        answer = await self._sender.send("POST", "/v1/images", params=params, body=lambda: {"files": files})
        return cast(schemas.ImageView, json_object(answer))

    async def list_images(self, *, limit: int | None = None) -> AsyncGenerator[schemas.ImageView]:
        """The caller's images, last uploaded first; `limit` of them at most."""
        async for image in self._entries("/v1/images", "images", {}, limit):
            yield image

    async def read_image(self, image_id: str) -> schemas.ImageView:
        """What the service knows of an image."""
        return cast(schemas.ImageView, await self._object(f"/v1/images/{quote(image_id)}"))

    async def image_picture(self, image_id: str) -> Image:
        """The image as the service decoded it, 8-bit sRGB."""
        answer = await self._sender.send("GET", f"/v1/images/{quote(image_id)}", headers={"Accept": "image/png"})
        return picture_of(answer.content)

    async def delete_image(self, image_id: str, *, jobs: Literal["keep", "delete"] = "keep") -> None:
        """Forget an image; jobs and sets that have it keep it as long as they need it.

        Args:
            jobs: `delete` also cancels the jobs that were given it and removes what came of them.
        """
        params = {} if jobs == "keep" else {"jobs": jobs}
        await self._sender.send("DELETE", f"/v1/images/{quote(image_id)}", params=params)

    async def upload_image_set(self, images: Iterable[ImageInput] | str | os.PathLike[str]) -> schemas.ImageSetDetail:
        """Keep many images as one set, for operations that look at a population.

        Args:
            images: images in any form but ids, in their order; or the path of a zip file of images. They go as one
                zip file; the names of the set's members begin with their number.
        """
        archive = await aside(_archive, images)
        with closing(archive):
            answer = await self._sender.send(
                "POST", "/v1/image-sets", body=lambda: {"files": [_rewound(archive)]}, wait_s=UPLOAD_S
            )
        return cast(schemas.ImageSetDetail, json_object(answer))

    async def list_image_sets(self, *, limit: int | None = None) -> AsyncGenerator[schemas.ImageSetView]:
        """The caller's image sets, last uploaded first; `limit` of them at most."""
        async for image_set in self._entries("/v1/image-sets", "image_sets", {}, limit):
            yield image_set

    async def read_image_set(self, set_id: str, *, limit: int = PAGE) -> schemas.ImageSetDetail:
        """A set and its first `limit` members, 200 at most; `image_set_members` gives all."""
        found = await self._object(f"/v1/image-sets/{quote(set_id)}", {"limit": limit})
        return cast(schemas.ImageSetDetail, found)

    async def image_set_members(self, set_id: str) -> AsyncGenerator[schemas.MemberView]:
        """Every member of a set, in the order of the upload."""
        async for member in self._entries(f"/v1/image-sets/{quote(set_id)}", "members", {}, None):
            yield member

    async def delete_image_set(self, set_id: str) -> None:
        """Forget a set; its images have lives of their own."""
        await self._sender.send("DELETE", f"/v1/image-sets/{quote(set_id)}")

    async def list_models(self) -> schemas.ModelList:
        """The catalogue of networks, and which of them is the default."""
        return cast(schemas.ModelList, await self._object("/v1/models"))

    async def read_model(self, model_id: str) -> schemas.ModelCard:
        """A network's card: weights, preprocessing, classes, layers, defaults."""
        return cast(schemas.ModelCard, await self._object(f"/v1/models/{quote(model_id)}"))

    async def put_model(
        self,
        model_id: str,
        file: str | os.PathLike[str] | bytes | None = None,
        *,
        entry: Mapping[str, Any] | None = None,
        if_match: str | None = None,
        only_new: bool = False,
    ) -> schemas.ModelSummary:
        """Bring a network, or another version of one; for callers who may. The same again changes nothing.

        Args:
            model_id: by which requests name it.
            file: a safetensors file of weights, or a .pt2 of torch.export: its path or its bytes. None where `entry`
                names a stored one, as `{"file": {"sha256": …}}`.
            entry: what is said of it: `source`, `classes`, `preprocess`, `visible_to`, … (`schemas.NetworkRequest`).
            if_match: only if it is still the one of this entity tag.
            only_new: only if there is none of that id.
        """
        headers = {} if if_match is None else {"If-Match": if_match}
        headers |= {"If-None-Match": "*"} if only_new else {}
        path, said = f"/v1/models/{quote(model_id)}", dict(entry or {})
        if file is None:
            answer = await self._sender.send("PUT", path, headers=headers, body=lambda: {"json": said})
            return cast(schemas.ModelSummary, json_object(answer))
        source: IO[bytes] = io.BytesIO(file) if isinstance(file, bytes) else await aside(_opened, file)
        with closing(source):

            def body() -> Mapping[str, Any]:
                source.seek(0)
                whole = ("request.json", json.dumps(said).encode(), "application/json")
                return {"files": [("request", whole), ("file", ("network", source, OCTETS))]}

            answer = await self._sender.send("PUT", path, headers=headers, body=body, wait_s=UPLOAD_S)
        return cast(schemas.ModelSummary, json_object(answer))

    async def delete_model(self, model_id: str, *, if_match: str | None = None) -> None:
        """Forget a network that you brought; jobs that compute with it come to their end."""
        headers = {} if if_match is None else {"If-Match": if_match}
        await self._sender.send("DELETE", f"/v1/models/{quote(model_id)}", headers=headers)

    async def list_layers(self, model_id: str, *, method: str | None = None) -> list[schemas.LayerCard]:
        """A network's layers in execution order; with `method`, those where that operation applies."""
        table = await self._object(f"/v1/models/{quote(model_id)}/layers", {"method": method})
        return cast("list[schemas.LayerCard]", table["layers"])

    async def list_operations(self) -> list[schemas.OperationView]:
        """The operations with their schemas, defaults and limits."""
        return cast("list[schemas.OperationView]", (await self._object("/v1/operations"))["operations"])

    async def live(self) -> schemas.Alive:
        """Whether the service's process answers."""
        return cast(schemas.Alive, await self._object("/livez"))

    async def ready(self) -> schemas.Ready:
        """Whether the service can take work, and how many workers live."""
        return cast(schemas.Ready, await self._object("/readyz"))

    async def metrics(self) -> str:
        """The service's figures in the text form of Prometheus."""
        return (await self._sender.send("GET", "/metrics", headers={"Accept": "text/plain"})).text

    async def wait_until_ready(self, timeout_s: float = 120.0, *, workers: int = 0) -> schemas.Ready:
        """Wait until the service can take work: for what starts together with it.

        Args:
            workers: also wait until so many workers live.

        Raises:
            TimeoutError: it is not ready after `timeout_s`.
        """
        until = monotonic() + timeout_s
        while True:
            try:
                answer = await self._sender.send("GET", "/readyz", patience_s=0)
                ready = cast(schemas.Ready, json_object(answer))
                if ready["workers"] >= workers:
                    return ready
                missing = f"{ready['workers']} of {workers} workers live"
            except (UnreachableError, ProblemError) as error:
                missing = str(error)
            if monotonic() >= until:
                raise TimeoutError(f"the service is not ready after {timeout_s:g} s: {missing}")
            await sleep(0.25)

    async def _object(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object at an address."""
        return json_object(await self._sender.send("GET", path, params=params))

    async def _entries(self, path: str, name: str, params: Mapping[str, Any], limit: int | None) -> AsyncGenerator[Any]:
        """The entries of a listing, page after page by the Link header."""
        left = limit
        query: Mapping[str, Any] | None = {**params, "limit": PAGE if left is None else max(1, min(left, PAGE))}
        while left is None or left > 0:
            answer = await self._sender.send("GET", path, params=query)
            entries: list[Any] = cast("list[Any]", json_object(answer)[name])[:left]
            for entry in entries:
                yield entry
            left = None if left is None else left - len(entries)
            link = answer.links.get("next")
            if link is None:
                return
            path, query = link["url"], None


def _opened(file: str | os.PathLike[str]) -> IO[bytes]:
    return Path(file).expanduser().open("rb")


def _archive(images: Iterable[Any] | str | os.PathLike[str]) -> IO[bytes]:
    if not isinstance(images, str | os.PathLike):
        return archive_of(images)
    path = Path(images).expanduser()
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no zip file; images of a set are given as a list")
    return path.open("rb")


def _rewound(archive: IO[bytes]) -> tuple[str, tuple[str, IO[bytes], str]]:
    archive.seek(0)
    return "image", ("images.zip", archive, "application/zip")
