"""Uncertainty of the chemical potential of a run: from the electron number that its network had wrong on its validation set."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hpc_holstein.config import Config
from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._committee import potential_uncertainty
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import State
from hpc_holstein.network.checkpoint import Card, model_path, read_card
from hpc_holstein.simulation import Simulation
from hpc_holstein.training.regimes import Regimes

_METRIC = "validation.{}.electron_number_rms_error"
_GATHERED = 1 << 24  # sites up to which the regime of the last state is looked at, for which one rank has them all
_ALIKE = 0.01  # electrons per site between the filling of a run and that of the training


@dataclass(frozen=True)
class PotentialError:
    """Errors of ``mu`` [t_nn] and of the force [t_nn/a, rms] for one of the electron number [1/site], or why none is known."""

    regime: str | None = None
    electron_number_error: float | None = None
    chemical_potential_error: float | None = None
    force_rms_error: float | None = None
    unknown: str | None = None

    def in_words(self) -> str:
        """One line for the end of a run."""
        if self.unknown is not None:
            return f"error of the chemical potential unknown: {self.unknown}"
        return (
            f"chemical potential known up to about {self.chemical_potential_error:.2g} t_nn, which makes a force error of "
            f"{self.force_rms_error:.2g} t_nn/a (rms): the electron number of the network was off by "
            f"{self.electron_number_error:.1e} a site on {self.regime} states of its validation set"
        )

    def content(self) -> dict[str, Any]:
        """Content of summary.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def potential_error(config: Config, simulation: Simulation, state: State) -> PotentialError | None:
    """At the last state of a run; None for one that finds no ``mu`` from the density of a network.  Collective."""
    forces = simulation.forces
    if not isinstance(forces, NeuralForces) or simulation.ensemble.kind != "canonical":
        return None
    assert state.forces is not None
    if math.isnan(float(state.forces.chemical_potential)):
        return None  # a network of the plain field
    card = read_card(model_path(config.force.options.model))
    unknown = _unknown(card, simulation.ensemble.filling)
    if unknown:
        return PotentialError(unknown=unknown)
    regime = _regime(simulation, state)
    judged_on = regime if _METRIC.format(regime) in card.metrics else "all"
    electrons = card.metrics[_METRIC.format(judged_on)]
    try:
        return PotentialError(judged_on, electrons, *potential_uncertainty(forces, state, electrons))
    except SpectrumError as error:
        return PotentialError(judged_on, electrons, unknown=str(error))


def _regime(simulation: Simulation, state: State) -> str:
    """Regime of the last state, ``all`` for large lattices; collective."""
    domain = simulation.domain
    if domain.lattice.sites > _GATHERED:
        return "all"
    whole = domain.gather(state.q)
    regime = None if whole is None else Regimes(domain.lattice).of(whole.cpu())
    return str(simulation.transport.bcast(regime))


def _unknown(card: Card, filling: float) -> str | None:
    """Why the card says nothing about this run."""
    if _METRIC.format("all") not in card.metrics:
        return "the card of the model does not say how well it knows the electron number; `hpc-holstein validate` measures it"
    if abs(filling - card.filling) > _ALIKE:
        told = f"the network was judged at filling {card.filling:g} and this run has {filling:g}"
        return f"{told}; `hpc-holstein validate` measures it"
    return None
