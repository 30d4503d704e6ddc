"""Match of networks and systems: what a run, a training, a comparison and a labelling ask before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from hpc_holstein.errors import ModelError
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice, System
from hpc_holstein.network.checkpoint import Card, load_model
from hpc_holstein.network.elements import fixed_parts
from hpc_holstein.network.packaged import model_path
from hpc_holstein.network.served import check_card
from hpc_holstein.symmetry.internal import has_particle_hole

_DEFINED = (
    ("shifted", "density"),
    ("shifted", "grand_potential"),
    ("plain", "density"),
    ("plain", "force"),
    ("matrix", "density_matrix"),
)
"""Field that a network reads, and what it predicts."""


def model_for(model: str, hamiltonian: Hamiltonian, ensemble: Ensemble, lattice: Lattice) -> tuple[torch.nn.Module, Card]:
    """The network of ``model``, a path or ``default``, and its card; ModelError where it cannot give forces of this system."""
    module, card = load_model(model_path(model, System(lattice, hamiltonian, ensemble)), lattice)
    _require_readable(module, hamiltonian)
    check_card(card, hamiltonian, ensemble, lattice)
    require_supported(module, hamiltonian, lattice, ensemble)
    return module, card


def require_supported(module: torch.nn.Module, hamiltonian: Hamiltonian, lattice: Lattice, ensemble: Ensemble) -> None:
    """Raise ModelError if ``module`` cannot give, or learn, the forces of this system."""
    _require_readable(module, hamiltonian)
    made_for = getattr(module, "lattice_name", None)  # of architectures for any lattice
    if made_for is None and (len(lattice.extent) != 2 or len(lattice.basis) != 1):
        raise ModelError(
            f"the network reads lattices of two dimensions with one site a cell, and the {lattice.name} lattice is another: "
            "use a network of another architecture, such as enn, or force kind 'exact' or 'kpm'"
        )
    if made_for not in (None, lattice.name):
        raise ModelError(
            f"the network is made for the {made_for} lattice, not for the {lattice.name} lattice: train one for "
            "that, or use force kind 'exact' or 'kpm'"
        )
    if module.predicts == "force" and not hamiltonian.tells_density:
        raise ModelError(
            f"the force of the {hamiltonian.name} Hamiltonian does not tell its density: use a model that predicts the density"
        )
    if (module.field, module.predicts) not in _DEFINED:
        raise ModelError(
            f"a network that predicts the {module.predicts} from the {module.field} field is not defined: "
            "use the density with the shifted or plain field, or the force with the plain field"
        )
    if not all(lattice.periodic):
        raise ModelError(
            f"periodic = {list(lattice.periodic)} has open edges, which networks neither see nor learn: "
            "set lattice.periodic to true along every axis, or use force kind 'exact', 'kpm' or 'local'"
        )
    require_window(sight(module), lattice.extent)
    exchanged = getattr(module, "particle_hole", False) and module.field != "matrix"  # of which it holds for any H
    if exchanged and not has_particle_hole(hamiltonian):
        raise ModelError(
            f"the network has particle-hole symmetry built in, which needs hopping between two sublattices alone, and that of "
            f"the {hamiltonian.name} Hamiltonian on the {lattice.name} lattice joins sites of one: use a network without this "
            "symmetry, such as efnn, or force kind 'exact', 'kpm' or 'local'"
        )
    if module.field == "plain" and (ensemble.kind != "canonical" or ensemble.filling != 0.5):
        wanted = f"filling = {ensemble.filling}" if ensemble.kind == "canonical" else f"mu = {ensemble.chemical_potential}"
        raise ModelError(
            f"a network of the plain field stands for half filling, but the {ensemble.kind} ensemble asks for {wanted}: "
            "set a canonical ensemble with filling 0.5 or use a model of the shifted field"
        )


def sight(module: torch.nn.Module) -> int:
    """Cells around a site whose coordinates a network depends on."""
    elements = getattr(module, "elements", None)
    return cast(int, module.reach) + (0 if elements is None else elements.reach)


def _require_readable(module: torch.nn.Module, hamiltonian: Hamiltonian) -> None:
    """Raise ModelError for a system whose coordinates the network cannot read, or whose forces need more than it writes."""
    if module.field != "matrix":
        if hamiltonian.components != 1 or "g" not in hamiltonian.parameters:
            raise ModelError(
                f"the network reads one coordinate a site, which shifts the level of the site by g, and the {hamiltonian.name} "
                "Hamiltonian has others: use a network that reads the matrix elements of H, such as enn_matrix, or force kind "
                "'exact' or 'kpm'"
            )
        return
    network = cast(Any, module)
    elements = network.elements
    if elements.orbital_kind != hamiltonian.orbital_kind:
        raise ModelError(
            f"the network is one of {elements.orbital_kind} orbitals, and those of the {hamiltonian.name} Hamiltonian are "
            f"{hamiltonian.orbital_kind}: train one for it, or use force kind 'exact' or 'kpm'"
        )
    parts = fixed_parts(hamiltonian, elements).values()
    shells = [number + 1 - elements.first_shell for number, value in enumerate(parts) if value is None]
    if max(shells, default=0) > network.options.outputs:
        raise ModelError(
            f"the forces of the {hamiltonian.name} Hamiltonian need rho between neighbours of shell {max(shells)}, which the "
            "network does not write: train one with more model.outputs, or use force kind 'exact' or 'kpm'"
        )


def require_window(reach: int, extent: Sequence[int]) -> None:
    """Raise ModelError for a periodic lattice on which the window of a network, ``2 reach + 1`` cells, holds a site twice.

    The network takes the two for different sites, so its forces are those of an infinite lattice, and so is what it learns.
    """
    window = 2 * reach + 1
    if min(extent) < window:
        cells, least = "x".join(map(str, extent)), "x".join([str(window)] * len(extent))
        raise ModelError(
            f"a lattice of {cells} cells is smaller than the window of the network, which sees {reach} cells around a site: "
            f"give at least {least} cells, or use force kind 'exact'"
        )
