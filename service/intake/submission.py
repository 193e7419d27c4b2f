"""From a body to a job: read, validate, keep the images, resolve with the network's card, bound the cost, submit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from convscope.protocol.cards import ModelCard
from convscope.protocol.networks import VERSION_MARK
from convscope.protocol.operations.base import Operation, check_normalization
from convscope.protocol.problems import FieldError, ProblemError, invalid_request
from convscope.protocol.requests import CommonRequest
from convscope.queue.jobs import NO_QUOTA, Job, JobImage, JobSpec, JobState
from service.call import Call
from service.context import Context
from service.http.problems import from_validation
from service.intake import bodies
from service.intake.checking import checked
from service.intake.forms import IMAGE_FIELDS, MASK, REQUEST_PART, read_fields, read_json, schema, urlencoded, validate
from service.intake.grants import grant_pictures
from service.intake.limits import check_cost, check_length, lane_of
from service.intake.networks import FoundNetwork, find_network
from service.intake.request_images import UPLOADED, check_planes, named_images, set_images

FORM = "application/x-www-form-urlencoded"
BODY_TYPES = ("multipart/form-data", "application/json", FORM)
TEXT_BYTES = 6
"""Memory for each byte of a request as text: as it came, as text, as values, as the images in it."""


@dataclass(frozen=True)
class AskedNetwork:
    """The network that a request is about, and what the workers run on."""

    found: FoundNetwork
    environment: str

    @property
    def card(self) -> ModelCard:
        """Its card."""
        return self.found.card


@dataclass(frozen=True)
class Received:
    """A validated request, its network, and its images, stored; `image_list` is where a set's members are listed."""

    request: CommonRequest
    network: AskedNetwork
    images: list[JobImage]
    image_list: str | None = None


async def receive(call: Call, operation: Operation[Any]) -> Received:
    """Read the body of a request to an operation, and keep what it uploads.

    The schema is checked before any image is decoded.

    Raises:
        ProblemError: of the body, the schema and the images.
    """
    limits = bodies.BodyLimits.of(call.context.settings)
    kind = call.body_type
    if kind == "multipart/form-data":
        async with await bodies.read_form(call.request, limits) as form:
            files = _image_files(form, operation)
            parts = [await form.read(file) for file in form.files if file.name == REQUEST_PART]
            if len(parts) > 1:
                raise invalid_request([FieldError("/request", "given more than once")])
            size = sum(map(len, parts)) + sum(len(text) for _, text in form.fields)
            names = [file.name for file in files]
            asked = await checked(size, lambda: _of_form(call, operation, form.fields, parts, names))
            return await _looked_up(asked, call, operation, form, files)
    as_json = kind == "application/json" or kind.endswith("+json")
    if kind and not as_json and kind != FORM:
        raise _unsupported(kind)
    async with await bodies.read_raw(call.request, limits) as form:
        (whole,) = form.files
        if not kind and whole.size:
            raise _unsupported(kind)
        async with call.context.memory.body(TEXT_BYTES * whole.size):
            body = await form.read(whole)

            def read() -> CommonRequest:
                if kind == FORM:
                    data = read_fields(operation, urlencoded(body, limits.fields))
                else:  # nothing sent is nothing asked for; the schema says what is missing
                    data = read_json(body) if as_json else {}
                return _validated(data, operation, call.context)

            return await _looked_up(await checked(len(body), read), call, operation)


async def receive_properties(call: Call, operation: Operation[Any], data: dict[str, Any]) -> Received:
    """A request to an operation that came in another form than the operation's own; its images are stored already.

    Raises:
        ProblemError: of the schema, the network and the images.
    """
    return await _looked_up(_validated(data, operation, call.context), call, operation)


def _unsupported(kind: str) -> ProblemError:
    return ProblemError(
        "unsupported-media-type",
        f"A request is sent as {', '.join(BODY_TYPES)}, not {kind[:100] or 'without a content type'}.",
        possible=list(BODY_TYPES),
    )


def _of_form(
    call: Call,
    operation: Operation[Any],
    fields: Sequence[tuple[str, str]],
    parts: Sequence[bytes],
    files: Sequence[str],
) -> CommonRequest:
    """The request of a form's text fields, of the part `request` where it has one, and of files by their names."""
    data = read_fields(operation, fields, *parts)
    _place(data, files, operation)
    return _validated(data, operation, call.context)


def _image_files(form: bodies.Form, operation: Operation[Any]) -> list[bodies.FilePart]:
    masks = {MASK} & schema(operation.request)["properties"].keys()
    files = [file for file in form.files if file.name in IMAGE_FIELDS | masks]
    others = [file.name for file in form.files if file.name not in IMAGE_FIELDS | masks | {REQUEST_PART}]
    if others:
        detail = f"the part {others[0][:80]!r} is no file field; images come in parts named `image`"
        raise invalid_request([FieldError(f"/{others[0][:80]}", detail)])
    if files and operation.max_images == 0:
        raise invalid_request([FieldError("/image", f"{operation.name} takes no image")])
    return files


def _place(data: dict[str, Any], files: Sequence[str], operation: Operation[Any]) -> None:
    """Let a form's files, told by their names, stand in the request as images by reference."""
    refs = [{"id": f"{UPLOADED}{number}"} for number in range(len(files))]
    masks = [ref for ref, name in zip(refs, files, strict=True) if name == MASK]
    refs = [ref for ref, name in zip(refs, files, strict=True) if name != MASK]
    if masks:
        if len(masks) > 1 or MASK in data:
            raise invalid_request([FieldError(f"/{MASK}", "given more than once")])
        data[MASK] = masks[0]
    if not refs:
        return
    given = sorted(IMAGE_FIELDS & data.keys())
    if given:
        raise invalid_request([FieldError(f"/{given[0]}", "images are given both as files and by reference")])
    properties = schema(operation.request)["properties"]
    if len(refs) == 1 and "image" in properties:
        data["image"] = refs[0]
    else:
        data["images"] = refs


def _validated(data: dict[str, Any], operation: Operation[Any], context: Context) -> CommonRequest:
    limit = min(operation.max_images, context.settings.images_per_request)
    images = data.get("images")
    if operation.max_images and isinstance(images, list) and len(images) > limit:
        raise ProblemError(
            "too-many-images", f"{operation.name} takes {limit} images at most, not {len(images)}.", limit=limit
        )
    return validate(operation, data)


async def _looked_up(
    asked: CommonRequest,
    call: Call,
    operation: Operation[Any],
    form: bodies.Form | None = None,
    files: Sequence[bodies.FilePart] = (),
) -> Received:
    """The request with its images stored; its network is looked up while they are being decoded."""
    network = asyncio.create_task(_network(asked, call))
    try:
        image_set: str | None = getattr(asked, "image_set", None)
        if image_set is not None:
            asked, images, image_list = await set_images(asked, call, image_set, operation)
        else:
            asked, images = await named_images(asked, call, form, files)
            image_list = None
        return Received(asked, await network, images, image_list)
    finally:
        network.cancel()
        if network.done() and not network.cancelled():
            network.exception()  # an image that is refused first is what the client hears of


async def _network(asked: CommonRequest, call: Call) -> AskedNetwork:
    context = call.context
    # The card is nearly always that of the first guess, and then there by the time that the deployment is known.
    guess = asked.model or context.settings.default_model
    if VERSION_MARK in guess:
        return AskedNetwork(await find_network(call, guess, 0.0), "")  # which says that there is none
    (environment, default_model), card = await asyncio.gather(context.cards.deployment(), context.cards.peek(guess))
    model = asked.model or default_model or guess
    if card is None or model != guess:
        return AskedNetwork(await find_network(call, model, _card_wait_s(call)), environment)
    return AskedNetwork(FoundNetwork(card), environment)


def _card_wait_s(call: Call) -> float:
    """How long to wait until a network is described: who waits for the answer waits for that as well."""
    return max(call.context.settings.card_wait_s, call.preference.wait_s or 0.0)


async def submit(call: Call, operation: Operation[Any], received: Received, *, keyed: bool = True) -> tuple[Job, bool]:
    """Resolve a request and make it a job; says whether it is a new one.

    Args:
        keyed: whether the call's Idempotency-Key is this job's.

    Raises:
        ProblemError: of the network, the layers and channels, the cost and length, the queue.
    """
    context, card = call.context, received.network.card
    await context.artifacts.check_room()  # told now, not when a result of minutes cannot be stored
    resolved, further = await _resolve(received.request, operation, card, call)
    others = [found.card for found in further]
    check_planes(received.images, [card, *others])
    operation.check_count(resolved, len(received.images) - (getattr(resolved, MASK, None) is not None))
    lane = "batch" if received.image_list else operation.lane  # a sweep is long, whatever it asks of each image
    cost = check_cost(resolved, operation, card, len(received.images), context.settings, lane)
    plain = resolved.model_dump(mode="json", exclude={"labels", "deadline_s"})
    if plain.get("images"):
        shown = received.images[:-1] if plain.get(MASK) else received.images
        plain["images"] = [{"id": image.id} for image in shown]
    check_length(plain, context.settings)
    spec = JobSpec(
        operation=operation.name,
        request=plain,
        labels=received.request.labels,
        images=[] if received.image_list else received.images,
        image_list=received.image_list,
        lane=lane_of(lane, cost, context.settings),
        cost=cost,
        caller=call.caller,
        digest=computation_digest(
            # What is random is computed for each who asks.
            "" if _is_random([card, *others]) else received.network.environment,
            [card.entry_digest, *(other.entry_digest for other in others)],
            operation.name,
            plain,
            [image.planes or image.pixels for image in received.images],
        ),
        environment=received.network.environment,
        networks={
            found.head.id: found.head.version for found in (received.network.found, *further) if found.head is not None
        },
        deadline_s=received.request.deadline_s,
        idempotency_key=(call.idempotency_key or None) if keyed else None,
        fingerprint=_fingerprint(received, operation.name),
        request_id=call.request.state.request_id,
        no_cache=call.no_cache,
        caller_jobs=context.callers.quota(call.caller),
    )
    try:
        job, new = await context.jobs.enqueue(spec)
    finally:
        await _tell_room(call)
    if job.state == JobState.SUCCEEDED and not await _result_is_there(context, job):
        # The store lost what the queue remembers, for an identical request or under this key.
        await context.jobs.forget_result(job)
        return await context.jobs.enqueue(spec, instead_of=job.id)
    if new and job.state == JobState.SUCCEEDED:
        await grant_pictures(call, job)
    return job, new


async def _tell_room(call: Call) -> None:
    """Let the answer say how many more jobs there may be, to callers who have a quota.

    The fields are those of draft-ietf-httpapi-ratelimit-headers-10; a quota is of jobs that are unfinished at once.
    """
    own = call.context.callers.quota(call.caller)
    if own == NO_QUOTA:
        return
    try:
        room = await call.context.jobs.room(call.caller, own)
    except ProblemError:  # the job is submitted, and its answer worth more than this
        return
    call.request.state.answer_headers = {
        "RateLimit-Policy": ", ".join(
            f'"{kind}";q={quota};qu="concurrent-requests"' for kind, (quota, _) in room.items()
        ),
        "RateLimit": ", ".join(f'"{kind}";r={left}' for kind, (_, left) in room.items()),
    }


async def _resolve(
    asked: CommonRequest, operation: Operation[Any], card: ModelCard, call: Call
) -> tuple[CommonRequest, list[FoundNetwork]]:
    try:
        resolved: CommonRequest = operation.resolve(asked, card)
        check_normalization(resolved.preprocess, card)
        names = list(operation.models(resolved))
        others = await asyncio.gather(*(find_network(call, name, _card_wait_s(call)) for name in names))
        if names:
            cards = {card.id: card} | {name: other.card for name, other in zip(names, others, strict=True)}
            resolved = operation.resolve_others(resolved, cards)
        for other in others:
            check_normalization(resolved.preprocess, other.card)
    except ValidationError as error:
        raise from_validation(error, asked.model_dump(mode="json")) from error
    return resolved, list(others)


def _is_random(cards: Sequence[ModelCard]) -> bool:
    return any(card.behaviour is not None and card.behaviour.random for card in cards)


async def _result_is_there(context: Context, job: Job) -> bool:
    if job.manifest is None:
        return False
    try:
        manifest = await context.results.manifest(job.manifest)
    except ProblemError as error:
        if error.name == "gone":
            return False
        raise
    return manifest.arrays_key is None or await context.artifacts.exists(manifest.arrays_key)


def computation_digest(
    environment: str, entries: Sequence[str], operation: str, resolved: Mapping[str, Any], pixels: Sequence[str]
) -> str:
    """What identifies a computation: code and machine, networks, request, pixels; nothing of who asked, and when.

    Empty, which is never shared, as long as no worker said what it runs on.
    """
    if not environment:
        return ""
    request = {name: value for name, value in resolved.items() if name not in IMAGE_FIELDS | {MASK}}
    return _digest([environment, list(entries), operation, request, list(pixels)])[:40]


def _fingerprint(received: Received, operation: str) -> str:
    """What a client asked for, by which a repeated idempotency key is checked; the same after a deployment."""
    plain = received.request.model_dump(mode="json", exclude={*IMAGE_FIELDS, MASK})
    masked = getattr(received.request, MASK, None) is not None
    contents = [image.planes or image.pixels for image in received.images]
    return _digest([operation, plain, contents, *(["masked"] if masked else [])])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
