"""Maps of consecutive images of a set as one outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from workers.contract import Outcome
from workers.passes.sweep import joined_arrays, joined_lists, joined_notes


def joined(parts: Sequence[Outcome]) -> Outcome:
    """Outcomes of consecutive images as one: a class that is looked at in some images has as many maps."""
    facts = [part.facts for part in parts]
    maps: list[dict[str, Any]] = []
    images, items = 0, Counter[str]()
    for part in parts:
        maps += [
            {**one, "image": one["image"] + images, "item": one["item"] + items[one["array"]]}
            for one in part.facts["maps"]
        ]
        images += len(part.facts["transforms"])
        items.update({name: len(array) for name, array in part.arrays.items()})
    told = {**facts[0], "maps": maps, **joined_lists(facts, ("transforms",)), "notes": joined_notes(facts)}
    return Outcome(joined_arrays(parts), told)
