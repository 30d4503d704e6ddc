"""Members that the card of a model file may hold: names, types and ranges, checked before anything is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from hpc_holstein.errors import ModelError
from hpc_holstein.network.field_range import KEYS

REMEDY = "use the version of the package that wrote it or train the model again"

_NEWEST = 2
_LARGEST = 2**31  # cells along an axis, and sites of a reach
_SHOWN = 60  # characters of a value in a sentence

_OF_SYSTEM = {"hamiltonian", "parameters", "kT", "filling"}

Options = TypeVar("Options")
_Cells = Annotated[int, Field(ge=1, lt=_LARGEST)]


class _Members(BaseModel):
    """Members of :class:`network.checkpoint.Card`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    architecture: str
    options: dict[str, Any]
    lattice: str
    extent: Annotated[tuple[_Cells, ...], Field(min_length=1, max_length=3)]
    group: Annotated[tuple[tuple[tuple[int, ...], ...], ...], Field(min_length=1)]
    reach: Annotated[NonNegativeInt, Field(lt=_LARGEST)]
    field: Literal["shifted", "plain", "matrix"]
    predicts: str
    hamiltonian: str
    parameters: dict[str, FiniteFloat]
    ensemble: Literal["canonical", "grand-canonical"]
    filling: Annotated[float, Field(ge=0, le=1)]
    kT: Annotated[NonNegativeFloat, Field(allow_inf_nan=False)]
    dtype: Literal["float32", "float64"]
    data_hash: str
    seed: int
    metrics: dict[str, float]
    versions: dict[str, str]
    field_range: dict[str, FiniteFloat] = {}
    ranges: dict[str, tuple[FiniteFloat, FiniteFloat]] = {}
    surroundings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    units: str
    version: int = Field(alias="schema")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lacking = [name for name in KEYS if self.field_range and name not in self.field_range]
        if lacking:
            raise ValueError(f"field_range has no {lacking[0]}")
        seen, usual, sites = (self.surroundings.get(name) for name in ("seen", "usual", "sites"))
        cells = isinstance(seen, list) and all(isinstance(row, str) for row in seen)
        if self.surroundings and not (cells and isinstance(usual, int | float) and isinstance(sites, int)):
            raise ValueError("surroundings are no cells, a part and a number of sites")
        ranges = self.training.get("ranges", [])
        if not (isinstance(ranges, list) and all(map(_are_ranges, ranges))):
            raise ValueError("ranges of the training are no list of tables of two numbers")
        systems = self.training.get("systems", [])
        if not (isinstance(systems, list) and all(isinstance(one, dict) and one.keys() == _OF_SYSTEM for one in systems)):
            raise ValueError("systems of the training are no list of tables with hamiltonian, parameters, kT and filling")
        if any(low > high for low, high in self.ranges.values()):
            raise ValueError("a range ends before it begins")
        return self


def _are_ranges(table: Any) -> bool:
    """True for names of two finite numbers each, in order."""
    return isinstance(table, dict) and all(
        isinstance(of, list)
        and len(of) == 2
        and all(type(one) in (int, float) and math.isfinite(one) for one in of)
        and of[0] <= of[1]
        for of in table.values()
    )


def members_of(path: Path, text: str | None) -> dict[str, Any]:
    """The members of the card in the model file ``path``; ModelError if it has none, or one that no network can have."""
    if text is None:
        raise ModelError(f"{path} has weights but no card: give a model file that this package wrote")
    try:
        card = json.loads(text, object_pairs_hook=_each_once)
        schema = card["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"the card in {path} cannot be read ({error}): {REMEDY}") from error
    if type(schema) is not int or not 1 <= schema <= _NEWEST:
        raise ModelError(
            f"the card in {path} has schema version {_shown(schema)}, this package reads versions 1 to {_NEWEST}: "
            "install the version of the package that wrote it"
        )
    try:
        members = _Members.model_validate_json(text).model_dump(by_alias=True)
    except ValidationError as error:
        raise ModelError(f"the card in {path} has {_wrong(error)}: {REMEDY}") from None
    return {
        name: _tuples(value) if name in ("options", "surroundings", "training") else value for name, value in members.items()
    }


def options_of(path: Path, kind: type[Options], architecture: str, given: dict[str, Any], weights: int) -> Options:
    """The options of an architecture on the card of ``path``, whose file has so many ``weights``; ModelError if they are none.

    Options of a network that has more weights would take memory and time before the shapes tell that they are wrong.
    """
    unknown = ", ".join(sorted(given.keys() - {f.name for f in fields(kind)}))  # type: ignore[arg-type]
    try:
        if unknown:
            raise ValueError(f"unknown: {unknown}")
        text = json.dumps(given, allow_nan=False)
        options = TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ModelError(
            f"the options in {path} do not fit architecture '{architecture}' ({_wrong(error)}): {REMEDY}"
        ) from None
    except ValueError as error:
        raise ModelError(f"the options in {path} do not fit architecture '{architecture}' ({error}): {REMEDY}") from None
    fewest = getattr(options, "fewest_weights", 0)
    if fewest > weights:
        raise ModelError(
            f"the options in {path} do not fit architecture '{architecture}' (they give {_shown(fewest)} weights or more, "
            f"and the file has {weights}): {REMEDY}"
        )
    return options


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong, in a few words."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] in ("missing", "extra_forbidden"):
        odd = sorted(".".join(map(str, one["loc"])) for one in error.errors() if one["type"] in ("missing", "extra_forbidden"))
        return f"missing or unknown members ({', '.join(odd)})"
    told = first["msg"].removeprefix("Value error, ")
    return f"{name} = {_shown(first['input'])}, which is not valid ({told})" if name else told


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}[...]"


def _tuples(value: Any) -> Any:
    """JSON lists back to tuples, at any depth."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value
