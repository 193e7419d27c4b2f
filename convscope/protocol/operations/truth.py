"""The right class of each image, as requests say it: by index, by name, or by the folders of a set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from convscope.protocol.cards import ModelCard
from convscope.protocol.operations.targets import resolve_target
from convscope.protocol.problems import ProblemError, invalid_field

FOLDERS: Literal["folders"] = "folders"
"""Stands for the folder in which each image of a set lies."""
MOST_IMAGES = 100_000


def _listed(value: object) -> object:
    """One class as a list of one; `folders` as it is."""
    if value == [FOLDERS]:
        return FOLDERS
    return [value] if isinstance(value, str | int) and value != FOLDERS and not isinstance(value, bool) else value


Truth = Annotated[
    Literal["folders"]
    | Annotated[
        list[Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1, max_length=200)]],
        Field(min_length=1, max_length=MOST_IMAGES),
    ],
    BeforeValidator(_listed),
    Field(
        description="The right class of each image, by index or name, in the images' order; `folders`: that of the "
        "folder in which each image of the set lies."
    ),
]


def check_truth(truth: list[int | str] | str | None, images: int) -> None:
    """Refuse another number of classes than there are images, and folders of images that are of no set.

    Raises:
        ProblemError: `invalid-request`.
    """
    if truth == FOLDERS:
        raise invalid_field("/truth", "folders are those of an image_set; name the classes of single images")
    if truth is not None and len(truth) != images:
        raise invalid_field("/truth", f"{len(truth)} classes for {images} images; one an image is needed.")


def resolve_truth(truth: list[int | str] | str | None, card: ModelCard) -> list[int] | str | None:
    """The right classes as indices.

    Raises:
        ProblemError: `invalid-request` for a class that there is not; `not-applicable` where no class is right.
    """
    if truth is None:
        return None
    if card.dense or card.class_count < 2:
        what = "answers in maps" if card.dense else "has one output"
        raise ProblemError("not-applicable", f"{card.id} {what}; truth is for networks of two classes or more.")
    if truth == FOLDERS:
        return truth  # filled in where the set is read
    known: dict[int | str, int] = {}
    for place, one in enumerate(truth):
        if one not in known:
            found = resolve_target(one, card, f"/truth/{place}")
            if not isinstance(found, int):
                raise invalid_field(f"/truth/{place}", f"{one!r} is no class.")
            known[one] = found
    return [known[one] for one in truth]
