"""``[[observable]]``: what a run records besides the orders of its lattice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpc_holstein.config import kinds
from hpc_holstein.config.kinds import KindSection
from hpc_holstein.errors import ConfigError, shortened
from hpc_holstein.storage.series import described

if TYPE_CHECKING:  # a configuration is checked without NumPy
    from hpc_holstein.interfaces import Hamiltonian, Observable
    from hpc_holstein.output.order import Order


class Recorded(NamedTuple):
    """Observables of a run: its ``orders``, those of the lattice first, and the ``further`` kinds."""

    orders: list[Order]
    further: list[Observable]


def recorded(sections: Sequence[KindSection], hamiltonian: Hamiltonian) -> Recorded:
    """The observables of a run; ConfigError for one that the model cannot have, and for names that are taken."""
    from hpc_holstein.output.order import Order, default_orders

    given = [_built(number, section, hamiltonian) for number, section in enumerate(sections)]
    orders = [one for one in given if isinstance(one, Order)]
    further = [one for one in given if not isinstance(one, Order)]
    _require_once("observable.name", [order.name for order in orders])
    series = [name for one in further for name in one.series]
    _require_once("the series", series)
    for name in series:
        if described(name) is not None:
            raise ConfigError(f"the series '{name}' of [[observable]] is one that every run may have: give it another name")
    return Recorded([*default_orders(hamiltonian), *orders], further)


def _built(number: int, section: KindSection, hamiltonian: Hamiltonian) -> Any:
    try:
        return kinds.resolve("observable", section.kind).build(section.options, hamiltonian)
    except ConfigError as error:
        raise ConfigError(f"observable[{number}].{error}") from None


def _require_once(told: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{told} = '{shortened(name)}' is given {names.count(name)} times: give each its own name")
