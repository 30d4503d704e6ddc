"""Which networks give forces of which systems."""

from __future__ import annotations

import torch

from hpc_holstein.errors import ModelError
from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian

_DEFINED = (("shifted", "density"), ("shifted", "grand_potential"), ("plain", "density"), ("plain", "force"))
"""Field that a network reads, and what it predicts."""


def require_supported(module: torch.nn.Module, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> None:
    """Raise ModelError where ``module`` cannot give the forces of this system."""
    if module.predicts == "force" and not hasattr(hamiltonian, "density"):
        raise ModelError(
            f"the force of the {hamiltonian.name} Hamiltonian does not tell its density: use a model that predicts the density"
        )
    if (module.field, module.predicts) not in _DEFINED:
        raise ModelError(
            f"a network that predicts the {module.predicts} from the {module.field} field is not defined: "
            "use the density with the shifted or plain field, or the force with the plain field"
        )
    if not all(domain.lattice.periodic):
        raise ModelError(
            f"periodic = {list(domain.lattice.periodic)} has open edges, which networks are not trained on: "
            "set periodic to true along every axis or use force kind 'exact'"
        )
    if module.field == "plain" and (ensemble.kind != "canonical" or ensemble.filling != 0.5):
        wanted = f"filling = {ensemble.filling}" if ensemble.kind == "canonical" else f"mu = {ensemble.chemical_potential}"
        raise ModelError(
            f"a network of the plain field stands for half filling, but the {ensemble.kind} ensemble asks for {wanted}: "
            "set a canonical ensemble with filling 0.5 or use a model of the shifted field"
        )
