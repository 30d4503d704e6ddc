"""The physics that the numbers of a file belong to: one value, which a system has and which the attributes of a file state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpc_holstein.inputs import same_number
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice

_KEYS = {
    "lattice": "lattice.kind",
    "periodic": "lattice.periodic",
    "hamiltonian": "hamiltonian.kind",
    "ensemble": "ensemble.kind",
    "ensemble.filling": "ensemble.filling",
    "ensemble.chemical_potential": "ensemble.chemical_potential",
    "kT": "ensemble.kT",
}
"""Attribute of a file -> key of the configuration; parameters of the Hamiltonian have the same name in both."""
_PARAMETER = "hamiltonian."

Differences = dict[str, tuple[Any, Any]]
"""Key of the configuration -> the value of a file and that of a system, or of its labels."""


@dataclass(frozen=True)
class Physics:
    """Lattice, boundaries, Hamiltonian with its parameters, ensemble and temperature, without the extent.

    ``values``: as a file states them, by the name of the attribute; what a file does not say is not there.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, lattice: Lattice, hamiltonian: Hamiltonian, ensemble: Ensemble) -> Physics:
        """The physics of a system, complete."""
        electrons = "filling" if ensemble.kind == "canonical" else "chemical_potential"
        return cls(
            {
                "lattice": lattice.name,
                "periodic": list(lattice.periodic),
                "hamiltonian": hamiltonian.name,
                **{_PARAMETER + name: value for name, value in hamiltonian.parameters.items()},
                "ensemble": ensemble.kind,
                f"ensemble.{electrons}": getattr(ensemble, electrons),
                "kT": ensemble.kT,
            }
        )

    @classmethod
    def stated(cls, attributes: Mapping[str, Any]) -> Physics:
        """Physics that the attributes of a file, or of its labels, state."""
        said = {name: _plain(value) for name, value in attributes.items() if name in _KEYS or name.startswith(_PARAMETER)}
        if isinstance(said.get("periodic"), bool):  # of a chain
            said["periodic"] = [said["periodic"]]
        return cls(said)

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the Hamiltonian by their own names."""
        return {name.removeprefix(_PARAMETER): v for name, v in self.values.items() if name.startswith(_PARAMETER)}

    @property
    def keys(self) -> dict[str, Any]:
        """The statements, by key of the configuration."""
        return {_KEYS.get(name, name): value for name, value in self.values.items()}

    def joined(self, other: Physics) -> Physics:
        """The statements of both, ``other`` before this."""
        return Physics({**self.values, **other.values})

    def without(self, *names: str) -> Physics:
        """The same, silent on these attributes."""
        return Physics({name: value for name, value in self.values.items() if name not in names})

    def differences(self, other: Physics) -> Differences:
        """Key of the configuration -> values here and in ``other``, where both speak and disagree.

        A parameter is at odds with a Hamiltonian of the same name that has parameters and not this one: None there.
        """
        odd = {name for name, value in self.values.items() if name in other.values and not _equal(value, other.values[name])}
        if "hamiltonian" not in odd and other.parameters:
            odd |= {_PARAMETER + name for name in self.parameters.keys() - other.parameters.keys()}
        return {_KEYS.get(name, name): (self.values[name], other.values.get(name)) for name in self.values if name in odd}

    def in_words(self) -> str:
        """One line, such as ``square lattice, periodic, holstein t = 1, g = 3.5, canonical, filling = 0.5, kT = 0.1``."""
        said = self.values
        told = [f"{said['lattice']} lattice"] if "lattice" in said else []
        told += [_edges(said["periodic"])] if "periodic" in said else []
        parameters = ", ".join(f"{name} = {_number(value)}" for name, value in self.parameters.items())
        told += [f"{said.get('hamiltonian', '')} {parameters}".strip()] if parameters or "hamiltonian" in said else []
        told += [str(said["ensemble"])] if "ensemble" in said else []
        rest = {"ensemble.filling": "filling", "ensemble.chemical_potential": "mu", "kT": "kT"}
        told += [f"{word} = {_number(said[name])}" for name, word in rest.items() if name in said]
        return ", ".join(told) or "not stated"


def in_words(differences: Differences) -> str:
    """Differences of a file and a system, one after the other."""
    return ", ".join(f"{key} is {there!r} there and {here!r} here" for key, (there, here) in differences.items())


def _edges(periodic: Any) -> str:
    if isinstance(periodic, list) and len({bool(one) for one in periodic}) == 1:
        return "periodic" if periodic[0] else "open edges"
    return f"periodic = {periodic}"


def _number(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    """The number in an array of one, which is what some programs store."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _equal(a: Any, b: Any) -> bool:
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return same_number(a, b) if numbers else bool(a == b)
