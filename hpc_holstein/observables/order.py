"""An order: how a field alternates at a wave vector, with its walls and domain lengths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from hpc_holstein.errors import ConfigError, shortened
from hpc_holstein.keys import key

if TYPE_CHECKING:  # a configuration is checked without NumPy
    from hpc_holstein.interfaces import Hamiltonian
    from hpc_holstein.output.order import Order

_LARGEST_DENOMINATOR = 10**6


def _name(given: str) -> str:
    if not re.fullmatch(r"(?!q$|q_)[a-z][a-z0-9_]{0,31}", given):
        raise ValueError(f"{given!r} is no name of an order: give at most 32 of a-z, 0-9 and _, not q nor q_...")
    return given


def _fraction(given: str | float) -> str | float:
    try:
        turns = Fraction(str(given).strip())
    except (ValueError, ZeroDivisionError):
        turns = None
    if turns is None or abs(turns) > 1 or turns.denominator > _LARGEST_DENOMINATOR:
        raise ValueError(f"{given!r} is no part of a reciprocal lattice vector: give a fraction such as '1/3', or 0.5")
    return given


@dataclass(frozen=True)
class Options:
    """An order that a run records besides that of its lattice, with walls and domain lengths.

    Several ``[[observable]]`` may be given.  One that does not fit the lattice extent is left out with a sentence.
    """

    name: Annotated[
        str, AfterValidator(_name), key("ends the names of its scalars, as in order_parameter_NAME; letters, digits and _")
    ]
    wave_vector: Annotated[
        tuple[Annotated[str | float, AfterValidator(_fraction)], ...],
        key("in reciprocal lattice vectors, for each axis of the lattice, such as ['1/3', '1/3']", "q", "Q", "k", "wavevector"),
    ]
    field: Annotated[
        Literal["density", "q", "q_x", "q_y", "q_z"], key("density, q (all components of the coordinates), or one of them")
    ] = "density"
    signs: Annotated[
        tuple[Annotated[int, Field(ge=-1, le=1)], ...] | None, key("+1 or -1 of each site of a cell; absent: +1")
    ] = None


def build(options: Options, hamiltonian: Hamiltonian) -> Order:
    """The order; ConfigError for one that the model cannot have."""
    from hpc_holstein.output.order import Order

    lattice = hamiltonian.lattice
    signs = options.signs or (1,) * len(lattice.basis)
    for name, values, wanted in (
        ("wave_vector", options.wave_vector, len(lattice.extent)),
        ("signs", signs, len(lattice.basis)),
    ):
        if len(values) != wanted:
            raise ConfigError(f"{name} has {len(values)} numbers and the {lattice.name} lattice needs {wanted}: give {wanted}")
    if 0 in signs:
        raise ConfigError(f"signs = {list(signs)} has a 0: give +1 or -1 for each site of a cell")
    parts = [f"q_{letter}" for letter in hamiltonian.coordinates.parts(hamiltonian.components)]
    if options.field not in ("density", "q", *parts):
        raise ConfigError(
            f"field = '{shortened(options.field)}' is none of the {hamiltonian.name} model, whose coordinate is a "
            f"{hamiltonian.coordinates.representation} of {hamiltonian.components} component(s): give density or q"
        )
    turns = tuple(Fraction(str(one)) % 1 for one in options.wave_vector)
    part = parts.index(options.field) if options.field in parts else None
    return Order(turns, signs, options.field, options.name, part=part)
