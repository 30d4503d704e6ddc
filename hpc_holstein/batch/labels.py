"""The snapshots of several labelling jobs as one set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpc_holstein.errors import DataError
from hpc_holstein.training.dataset import LABELS, Snapshots, further_together


def share(total: int, parts: int, part: int) -> int:
    """Number of ``total`` pieces that ``part`` gets; the first ones get one more where it does not divide."""
    return total // parts + (part < total % parts)


def joined(sets: Sequence[Snapshots]) -> Snapshots:
    """Labelled snapshots of several sets, one after the other, with the quenches numbered through.

    Counts of the attributes are summed, seeds listed.  Raises DataError where the sets have other labels or lattices.
    """
    first, alike = sets[0], [_without_seeds(one.label_attributes) for one in sets]
    if any(one.extent != first.extent for one in sets) or any(attributes != alike[0] for attributes in alike):
        raise DataError("the parts of the labels have different lattices or providers: remove those of the other study")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in sets]) for name in ("q", "step", *LABELS)}
    arrays |= further_together(sets)
    quench, offset = [], 0
    for one in sets:
        quench.append(np.where(one.quench < 0, one.quench, one.quench + offset))
        offset += int(one.quench.max(initial=-1)) + 1
    return Snapshots.of(
        arrays.pop("q"),
        np.concatenate(quench),
        arrays.pop("step"),
        attributes=_attributes([one.attributes for one in sets]),
        label_attributes=_with_seeds([one.label_attributes for one in sets]),
        **arrays,
    )


def _with_seeds(all_of_them: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes that differ in their seeds at most, which are listed then."""
    rows = {name: [attributes[name] for attributes in all_of_them] for name in all_of_them[0]}
    return {name: values[0] if all(value == values[0] for value in values) else values for name, values in rows.items()}


def _without_seeds(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name.rpartition(".")[2] != "seed"}


def _attributes(all_of_them: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(name for attributes in all_of_them for name in attributes)
    made = {}
    for name in names:
        values = [attributes[name] for attributes in all_of_them if name in attributes]
        ending = name.rpartition(".")[2]
        made[name] = sum(values) if ending == "count" else values if ending == "seed" and len(values) > 1 else values[0]
    return made
