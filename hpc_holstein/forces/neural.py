"""Forces from a trained network, at any lattice size.

A network that predicts the density reads the shifted field, in which the density is an exactly local function without
``mu``, and the classical force is computed, never learned:

    n_i = network(Q + mu/g)_i,    F = g n_i - dV/dQ_i

Canonical: ``mu`` solves ``mean n(Q + mu/g) = filling``, from the ``mu`` and the slope of the previous forces.  One halo of
the reach of the network is exchanged per step; the iterations for ``mu`` need scalar sums only.  In dynamics ``mu`` changes
little, and a network that knows its response ``s_i = dn_i/dmu`` is evaluated once, at the extrapolated ``mu_0``:

    n_i = n_i(mu_0) - s_i (mean n(mu_0) - filling) / mean s,

which keeps the electron number to round-off, and is taken where its error is far below that of the network.

A network serves every ``g``, and every common scale of the energies, see :mod:`hpc_holstein.network.scaling`.

A network that predicts the grand potential gives the density as its gradient, and ``Omega`` beside it.  One that reads the
plain field (as published, arXiv 2601.04104) knows no ``mu`` and stands for half filling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from hpc_holstein.interfaces import Domain, Ensemble, Hamiltonian
from hpc_holstein.keys import key

if TYPE_CHECKING:
    from hpc_holstein.forces._neural import NeuralForces

Precision = Literal["state", "float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Options:
    """Network, and its evaluation."""

    model: Annotated[
        str,
        key(
            "model file *.safetensors, name of one that comes with the package (`hpc-holstein show --list`), or default for "
            "the one of these that fits",
            "network",
            "weights",
            "file",
        ),
    ] = "default"
    precision: Annotated[
        Precision,
        key(
            "arithmetic of the network: state (that of the coordinates); float32 whatever these have, several times faster, "
            "with sums over sites in the precision of the state; tf32 and bfloat16: coarser products, for processors that "
            "have units for these",
            "dtype",
        ),
    ] = "state"
    following: Annotated[
        float,
        key(
            "estimated rms error of the densities up to which the chemical potential is followed along the response in "
            "dynamics (that of the network is 1e-3 and more); 0 solves for it in each step"
        ),
    ] = 1e-4
    deterministic: Annotated[
        bool,
        key(
            "refuse networks whose bits depend on the ranks or the rank grid: all but a compiled `enn`; a run sets it by "
            "parallel.deterministic"
        ),
    ] = False
    cuda_graphs: Annotated[
        bool,
        key("replay the network as CUDA graphs, one launch a window; for networks that predict the density, on a GPU"),
    ] = False
    committee: Annotated[
        tuple[str, ...],
        key(
            "further model files of the same system, which judge the forces of a run and do not drive it; see [trust]",
            "ensemble",
            "models",
        ),
    ] = ()


def build(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> NeuralForces:
    """Forces from the model file ``options.model``, with its committee.

    Raises :class:`ModelError` when one of the models was made for another system.
    """
    from hpc_holstein.forces._neural import from_files

    return from_files(options, hamiltonian, domain, ensemble)
