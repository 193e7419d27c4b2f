"""Class activation maps: the whole family, for several classes and images, from one forward pass.

All gradient methods of a target share one backward; Score-CAM and Ablation-CAM serve all targets from the same
forwards, and where the head is linear in the layer Ablation-CAM needs none.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from workers.contract import Grant, Method, MethodError, Network, OneShotMethod, Progress, Result, Row, resolved
from workers.geometry import Transform
from workers.methods.cam.found import Found
from workers.methods.cam.joining import joined
from workers.methods.cam.passes import Pass, Subject, forward
from workers.methods.cam.table import APART, SHARED, SHARED_WHERE_LINEAR, Map
from workers.passes.batches import gather, module_for, preprocess_key, slices
from workers.passes.class_targets import Chooser, ClassTarget, mask_in_input, read_region, without_mask
from workers.passes.sweep import ImageSweep

if TYPE_CHECKING:
    from convscope.protocol.operations.cam import CamRequest


class Cam(OneShotMethod["CamRequest"]):
    """The `cam` operation."""

    def group_key(self, request: CamRequest) -> Hashable | None:
        return request.layer, preprocess_key(request)

    def run(
        self, network: Network, rows: Sequence[Row[CamRequest]], grant: Grant
    ) -> Generator[Progress, None, list[Result]]:
        given = [without_mask(row) for row in rows]
        batch = gather(network, [row for row, _ in given])
        found = [Found(network, row.request) for row in rows]
        errors: list[MethodError | None] = list(batch.errors)
        owners = [(row, image) for row in range(len(rows)) for image, _ in enumerate(batch.of(row))]
        module = module_for(network, rows[0].request)
        done, layer = 0, resolved(rows[0].request.layer)
        for part in slices(network, batch.inputs, rows[0].request, grant, [layer]):
            one = forward(module, part, layer, network.outputs)
            yield Progress(done, len(owners), "forward pass")
            share = owners[done : done + len(part)]
            wanted: list[list[ClassTarget]] = []
            for k, (row, image) in enumerate(share):
                try:
                    wanted.append(_targets(network, rows[row].request, one, k, batch.placed(row)[image], given[row][1]))
                except MethodError as error:
                    errors[row] = errors[row] or error
                    wanted.append([ClassTarget(0)])
            going = [(k, row, image) for k, (row, image) in enumerate(share) if errors[row] is None]
            _shared(one, rows, going, wanted, found)
            for k, row, image in going:
                subject = Subject(network, rows[row].request, one.image(k), grant)
                for said in _apart(subject, rows[row].request.methods, image, wanted[k], found[row]):
                    yield Progress(done + k + said, len(owners), "masked forward passes")
            done += len(part)
            yield Progress(done, len(owners), "")
        return [
            error if error is not None else found[k].outcome(batch.transforms_of(k)) for k, error in enumerate(errors)
        ]

    def of_set(self) -> Method:
        """Part by part, saved in between."""
        return ImageSweep(self, joined)


def _targets(
    network: Network, request: CamRequest, one: Pass, k: int, where: Transform, mask: Tensor | None
) -> list[ClassTarget]:
    """The targets of image k of a pass, in order, each once.

    Raises:
        MethodError: there is no such class, the region is empty, or a method cannot be used on them.
    """
    white = None if mask is None else mask_in_input(mask, where)
    region = read_region(getattr(request, "region", None))
    found = Chooser(network.outputs, region, where.input_size, white).targets(request.targets, one.logits[k])
    if "cam" in request.methods and not (one.linear and one.aimed([found[0]] * len(one.logits)).pooled):
        raise MethodError(
            "not-applicable",
            f"cam needs a head of global average pooling and one linear layer right above {request.layer}; "
            "gradcam is its generalisation to any head",
        )
    return found


def _shared(
    one: Pass,
    rows: Sequence[Row[CamRequest]],
    going: Sequence[tuple[int, int, int]],
    wanted: Sequence[Sequence[ClassTarget]],
    found: Sequence[Found],
) -> None:
    """The maps that need the common pass alone: one backward for the k-th targets of all images."""
    table = SHARED_WHERE_LINEAR if one.linear else SHARED
    for turn in range(max(len(classes) for classes in wanted)):
        targets = [classes[min(turn, len(classes) - 1)] for classes in wanted]
        aimed = one.aimed(targets)
        made: dict[str, Tensor] = {}
        for k, row, image in going:
            if turn >= len(wanted[k]):
                continue
            for method in rows[row].request.methods:
                if method in table:
                    if method not in made:
                        made[method] = table[method](aimed)
                    found[row].keep(method, image, targets[k], Map(made[method][k]), one.logits[k], _size(one))


def _apart(
    subject: Subject, methods: Sequence[str], image: int, targets: Sequence[ClassTarget], found: Found
) -> Generator[float, None, None]:
    """The maps of one image that need passes of their own: masks, ablations, all biases, guided gradients."""
    one = subject.one
    for method, make in APART.items():
        if method in methods and not (one.linear and method in SHARED_WHERE_LINEAR):
            made = yield from make(subject, targets)
            for target, own in zip(targets, made, strict=True):
                found.keep(method, image, target, own, one.logits[0], _size(one))


def _size(one: Pass) -> tuple[int, int]:
    """(height, width) of the network's input."""
    return int(one.inputs.shape[2]), int(one.inputs.shape[3])


METHOD = Cam()
