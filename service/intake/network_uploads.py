"""A network that a caller brings: its body read, its file looked through and stored, its entry kept."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from convscope.protocol.networks import NETWORK_ID, NetworkRequest
from convscope.protocol.problems import FieldError, ProblemError, invalid_field, invalid_request
from convscope.store.uploaded_networks import Conditions, Format, NetworkRecord, make_head
from service.call import Call
from service.http.problems import from_validation
from service.intake.bodies import MIB, BodyLimits, FilePart, Form, read_form, read_raw
from service.intake.forms import REQUEST_PART, known_names, properties_of, read_json
from service.intake.network_files import check_network_file
from service.intake.spool import PIECE_BYTES, Spool, SpoolView

FILE = "file"
BODY_TYPES = ("multipart/form-data", "application/json")
_FORM_BYTES = MIB
"""For the fields and boundaries of a form, beside its file."""


@dataclass(frozen=True)
class _NetworkFile:
    """A file that was looked through."""

    view: SpoolView
    sha256: str
    size: int
    format: Format


async def keep_network(call: Call, model_id: str, conditions: Conditions) -> tuple[NetworkRecord, bool]:
    """The network that a request brings, and whether it is a new one.

    Raises:
        ProblemError: `forbidden`, of the body, of the file, of the quota, `precondition-failed`, `store-full`, ….
    """
    context = call.context
    call.check_scope("models")
    await _check_id(call, model_id)
    kind = call.body_type
    if kind == "multipart/form-data":
        limits = BodyLimits(context.settings.network_mib * MIB + _FORM_BYTES, context.settings.body_timeout_s, 2, 64)
        async with await read_form(call.request, limits) as form:
            asked, part = await _of_form(form)
            if part is None:
                return await _keep_stored(call, model_id, asked, conditions)
            return await _keep_file(call, model_id, asked, form.view(part), conditions)
    if kind != "application/json" and not kind.endswith("+json"):
        raise ProblemError(
            "unsupported-media-type",
            f"A network is sent as {' or '.join(BODY_TYPES)}, not {kind[:100] or 'without a content type'}.",
            possible=list(BODY_TYPES),
        )
    limits = BodyLimits(context.settings.request_kib * 1024, context.settings.body_timeout_s)
    async with await read_raw(call.request, limits) as form:
        asked = _validated(read_json(await form.read(form.files[0])))
        return await _keep_stored(call, model_id, asked, conditions)


async def _check_id(call: Call, model_id: str) -> None:
    """Refuse an id that cannot be, before a large body is read."""
    if not NETWORK_ID.fullmatch(model_id):
        raise invalid_field("/model_id", "An id has letters, digits, '.', '_' and '-', 100 at most, a letter first.")
    if await call.context.cards.is_listed(model_id):
        raise ProblemError("forbidden", f"{model_id} is a network of the operator's catalogue; choose another id.")
    head = await call.context.networks.find(model_id)
    if head is not None and head.owner != call.caller:
        raise ProblemError("forbidden", f"The id {model_id} is taken by another caller; choose another one.")


async def _of_form(form: Form) -> tuple[NetworkRequest, FilePart | None]:
    """What a form says, and its file."""
    others = [part.name for part in form.files if part.name not in (FILE, REQUEST_PART)]
    if others:
        raise invalid_field(f"/{others[0][:80]}", f"The part {others[0][:80]!r} is not known here; the file is `file`.")
    files = [part for part in form.files if part.name == FILE]
    parts = [part for part in form.files if part.name == REQUEST_PART]
    for name, found in ((FILE, files), (REQUEST_PART, parts)):
        if len(found) > 1:
            raise invalid_request([FieldError(f"/{name}", "given more than once")])
    if parts and parts[0].size > MIB:
        raise ProblemError("body-too-large", "The part `request` may have 1 MiB at most.", limit_bytes=MIB)
    whole = await form.read(parts[0]) if parts else None
    asked = _validated(properties_of(NetworkRequest, form.fields, whole))
    if files and asked.file is not None:
        raise invalid_request([FieldError("/file", "given both as a file and by its digest")])
    return asked, files[0] if files else None


def _validated(data: dict[str, Any]) -> NetworkRequest:
    try:
        asked = NetworkRequest.model_validate(data)
    except ValidationError as error:
        raise from_validation(error, data, *known_names(NetworkRequest)) from error
    if asked.classes is not None and asked.num_classes not in (None, len(asked.classes)):
        raise invalid_field("/num_classes", f"It is {asked.num_classes}, and classes names {len(asked.classes)}.")
    return asked


async def _keep_stored(
    call: Call, model_id: str, asked: NetworkRequest, conditions: Conditions
) -> tuple[NetworkRecord, bool]:
    """Keep a network whose file the artifact store has."""
    if asked.file is None:
        raise invalid_field("/file", "A network needs its file: a part `file`, or the SHA-256 of one that is stored.")
    sha256 = asked.file.sha256.lower()
    artifacts = call.context.artifacts
    stored = f"models/{sha256[:2]}/{sha256}"
    missing = invalid_field("/file/sha256", "The artifact store has no file of that SHA-256 for you; send the file.")
    if not await artifacts.exists(stored) or not await call.context.networks.may_refer(call.caller, sha256):
        raise missing
    limit = call.context.settings.network_mib * MIB
    if await artifacts.size(stored) > limit:
        raise ProblemError("body-too-large", f"The file has more than {limit // MIB} MiB.", limit_bytes=limit)
    spool = Spool()
    try:
        async for piece in artifacts.stream(stored):
            await spool.write(piece)
        return await _keep_file(call, model_id, asked, SpoolView(spool, 0, spool.size), conditions, sha256)
    finally:
        spool.close()


async def _keep_file(
    call: Call,
    model_id: str,
    asked: NetworkRequest,
    view: SpoolView,
    conditions: Conditions,
    expected: str | None = None,
) -> tuple[NetworkRecord, bool]:
    """Look a file through, store it, and keep the entry."""
    file = await asyncio.to_thread(_looked_through, view)
    limit = call.context.settings.network_mib * MIB
    if file.size > limit:
        raise ProblemError("body-too-large", f"The file has more than {limit // MIB} MiB.", limit_bytes=limit)
    if expected is not None and file.sha256 != expected:
        raise ProblemError("gone", "The stored file was damaged; send it anew.")
    entry = _entry(model_id, asked, file)
    head = make_head(model_id, call.caller, asked.visible_to, entry, file.sha256, file.size, file.format)
    await call.context.artifacts.put_file(head.file_key, file.size, lambda: _pieces(file))
    return await call.context.networks.put(head, entry, conditions)


def _looked_through(view: SpoolView) -> _NetworkFile:
    kind = check_network_file(view)
    view.seek(0)
    digest, size = hashlib.sha256(), 0
    while piece := view.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return _NetworkFile(view, digest.hexdigest(), size, kind)


async def _pieces(file: _NetworkFile) -> AsyncIterator[bytes]:
    file.view.seek(0)
    while piece := await asyncio.to_thread(file.view.read, 16 * PIECE_BYTES):
        yield piece


def _entry(model_id: str, asked: NetworkRequest, file: _NetworkFile) -> dict[str, Any]:
    """The entry as the operator's catalogue has it."""
    said = asked.model_dump(mode="json", exclude_none=True, exclude={"file", "visible_to", "source"})
    entry = {"title": model_id, **said, "sha256": file.sha256}
    if file.format == "pt2":
        for name, given in (("source", asked.source), ("head", asked.head)):
            if given is not None:
                raise invalid_field(f"/{name}", f"A .pt2 file is its own architecture; leave {name} out.")
        return {"source": f"export:{file.sha256}.pt2", **entry}
    if asked.source is None:
        raise invalid_field("/source", "Weights need their architecture: torchvision:NAME, timm:NAME, or one of ours.")
    return {"source": asked.source, "weights": f"file:{file.sha256}.safetensors", **entry}
