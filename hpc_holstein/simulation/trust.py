"""Trust in the network that drives a run: its committee, and what it was trained on.

At the multiples of ``every`` and at the last step four numbers are found, the same on all ranks: rms over the sites and
largest value of the deviation of the force over the committee (:mod:`hpc_holstein.forces._committee`), the part of the sites
outside of the training range (:mod:`hpc_holstein.network.field_range`), and the part in surroundings without training sites
(:mod:`hpc_holstein.network.surroundings`), which the card gives a limit to.  A number beyond its limit warns, stops the run, or
collects the state.  No bit of the trajectory depends on any of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import Domain, ForceResult, State
from hpc_holstein.network.field_range import outside

_CARRIED = "trust_"  # before the names of an account in a checkpoint


class _Judged(NamedTuple):
    """A number: the key of its limit, its meaning, the same in the line at the end of a run, its unit."""

    limit: str
    meaning: str
    short: str
    unit: str = ""


_JUDGED = {
    "committee_rms": _Judged(
        "max_deviation", "rms deviation of the force over the committee", "rms deviation of the force", " t_nn/a"
    ),
    "committee_max": _Judged(
        "max_site_deviation", "deviation of the force on a site over the committee", "on a site", " t_nn/a"
    ),
    "outside_fraction": _Judged("max_outside", *["part of the sites outside of the training range"] * 2),
    "unfamiliar_fraction": _Judged(
        "max_unfamiliar", "part of the sites in unfamiliar surroundings", "part in unfamiliar surroundings"
    ),
}


class Collector(Protocol):
    """Keeps states that a network should learn."""

    @property
    def count(self) -> int:
        """States kept."""

    def add(self, state: State) -> None:
        """Keep ``state``, unless enough are kept or the last one is near; collective."""


@dataclass(frozen=True)
class Limits:
    """Limits of the trust, and what happens beyond.

    every               steps between two looks
    max_deviation       of ``committee_rms`` [t_nn/a]
    max_site_deviation  of ``committee_max`` [t_nn/a]
    max_outside         of ``outside_fraction``
    max_unfamiliar      of ``unfamiliar_fraction``; without it that of the card warns
    action              ``warn`` in one sentence, ``stop`` the run as one that is not healthy, or ``collect`` the state
    """

    every: int
    max_deviation: float | None = None
    max_site_deviation: float | None = None
    max_outside: float | None = None
    max_unfamiliar: float | None = None
    action: Literal["warn", "stop", "collect"] = "warn"

    @property
    def given(self) -> list[str]:
        """Names of the limits that are set."""
        return [judged.limit for judged in _JUDGED.values() if getattr(self, judged.limit) is not None]

    def beyond(self, values: Mapping[str, float]) -> list[str]:
        """Numbers beyond their limits (NaN is), in words."""
        told = []
        for name, (key, meaning, _, unit) in _JUDGED.items():
            limit, value = getattr(self, key), values.get(name, math.nan)
            if limit is not None and not value <= limit:
                told.append(f"{meaning} {value:.3g}{unit} is beyond {limit:g} (trust.{key})")
        return told


class Trust:
    """An observer to come before the one that writes the scalars, see :meth:`require` for the limits; collective.

    ``carried``: the account of a checkpoint, which may hold more.
    """

    def __init__(
        self,
        limits: Limits,
        forces: NeuralForces,
        domain: Domain,
        transport: Transport,
        say: Callable[[str], None],
        collector: Collector | None = None,
        carried: Mapping[str, float] | None = None,
    ) -> None:
        self.limits, self.every, self.collector, self.say = limits, limits.every, collector, say
        self._forces, self._domain, self._transport = forces, domain, transport
        own = {name.removeprefix(_CARRIED): value for name, value in (carried or {}).items() if name.startswith(_CARRIED)}
        self._account = {"looks": 0.0, "beyond": 0.0, **own, "limits": float(len(limits.given))}
        self._before = dict(self._account)
        self._step, self._values = -1, dict[str, float]()
        self._deviation: Tensor | None = None

    def __call__(self, state: State) -> None:
        """Look at ``state``."""
        self._before, self._step, self._values = dict(self._account), state.step, {}
        self._deviation = None
        sites = self._domain.lattice.sites
        if self._forces.committee is not None:
            self._deviation = self._forces.committee.deviation(state)
            squares = float(global_sum(self._deviation.double().square().unsqueeze(0), self._domain)[0])
            self._values |= {"committee_rms": math.sqrt(squares / sites), "committee_max": self._largest(self._deviation)}
        if self._forces.field_range:
            count = outside(self._forces.field(state), self._forces.field_range, self._domain).sum()
            self._values["outside_fraction"] = float(self._domain.allsum(count.double().cpu())) / sites
        if self._forces.surroundings is not None:
            count = self._forces.surroundings.unfamiliar(self._forces.field(state), self._domain).sum()
            self._values["unfamiliar_fraction"] = float(self._domain.allsum(count.double().cpu())) / sites
        self._account["looks"] += 1
        for name, value in self._values.items():
            self._account[f"largest_{name}"] = max(self._account.get(f"largest_{name}", 0.0), value)

    def values(self, step: int) -> dict[str, float]:
        """Scalars of :data:`storage.series.TRUST` of a step; empty where it was not looked at."""
        return self._values if step == self._step else {}

    def deviation(self, state: State) -> Tensor | None:
        """Deviation of the force over the committee, ``[*cells, basis]``; None without one.  Collective."""
        if self._deviation is not None and state.step == self._step:
            return self._deviation
        return None if self._forces.committee is None else self._forces.committee.deviation(state)

    def require(self, state: State) -> None:
        """Do what the limits ask for at a state that was looked at; SpectrumError where the run is to stop."""
        self._deviation = None  # all have seen it
        self._compare_with_card(state.step)
        told = self.limits.beyond(self._values)
        if not told:
            return
        self._account["beyond"] += 1
        first = self._account.setdefault("first_beyond", float(state.step))
        sentence = f"the network is not trusted at step {state.step}: {' and '.join(told)}"
        if self.limits.action == "stop":
            raise SpectrumError(
                f"{sentence}; collect such states and train on them with `hpc-holstein learn`, or raise the limit"
            )
        if first == state.step:
            self.say(f"{sentence}; this is said once")
        if self.collector is not None:
            self.collector.add(state)

    def _compare_with_card(self, step: int) -> None:
        """Say once that a state is unlike those of the training, where the run has no limit of its own."""
        surroundings, part = self._forces.surroundings, self._values.get("unfamiliar_fraction")
        if surroundings is None or part is None or self.limits.max_unfamiliar is not None:
            return
        usual = surroundings.limit(self._domain.lattice.sites)
        if part <= usual:
            return
        self._account["unlike"] = self._account.get("unlike", 0.0) + 1
        if self._account.setdefault("first_unlike", float(step)) == step:
            self.say(
                f"warning: the state of step {step} is unlike those that the network was trained on: {100 * part:.2g} % of the "
                f"sites are in surroundings without training sites, up to {100 * usual:.2g} % are usual; check its forces with "
                "`hpc-holstein validate`, this is said once"
            )

    def account(self) -> dict[str, float]:
        """Findings of all sessions: limits that are set, looks, those beyond a limit, at states unlike the training, the
        first of these, largest values, states kept.
        """
        kept = {} if self.collector is None else {"collected": float(self.collector.count)}
        return {**self._account, **kept}

    def carried(self, step: int) -> dict[str, float]:
        """The account for a checkpoint of ``step``, at which a run that continues looks again."""
        account = self._before if step == self._step else self._account
        return {f"{_CARRIED}{name}": value for name, value in account.items()}

    def _largest(self, values: Tensor) -> float:
        own = float(values.max())
        return max(self._transport.allgather(math.inf if math.isnan(own) else own))


def unfamiliar_parts(q: Tensor, chemical_potential: Sequence[float], forces: NeuralForces) -> list[float] | None:
    """Part of the sites in unfamiliar surroundings of each state ``[state, *cells, basis, components]``, on the domain of
    ``forces``.

    None where the card of the network does not tell.
    """
    if forces.surroundings is None:
        return None
    parts = []
    for one, mu in zip(q, chemical_potential, strict=True):
        known = ForceResult(one, one[..., 0], torch.tensor(mu, dtype=torch.float64))
        field = forces.field(State.at_rest(one).moved(forces=known))
        parts.append(float(forces.surroundings.unfamiliar(field, forces.domain).double().mean()))
    return parts


def in_words(account: Mapping[str, float]) -> str:
    """An account of :class:`Trust` in one line: what was compared with a limit and what was not, and what was found."""
    largest = {name: account.get(f"largest_{name}") for name in _JUDGED}
    found = [f"largest {_JUDGED[k].short} {v:.3g}{_JUDGED[k].unit}" for k, v in largest.items() if v is not None]
    looks = f"{account['looks']:.0f} looks"
    beyond = f"{account['beyond']:.0f} of {looks} beyond a limit" if account["limits"] else f"no limit is set, {looks}"
    beyond += f" (first at step {account['first_beyond']:.0f})" if account["beyond"] else ""
    unlike = account.get("unlike", 0.0)
    told = [f"{unlike:.0f} at states unlike the training (first at step {account['first_unlike']:.0f})"] if unlike else []
    absent = [] if largest["committee_rms"] is not None else ["no committee"]
    absent += [] if largest["unfamiliar_fraction"] is not None else ["the card does not tell the surroundings of its training"]
    kept = [f"{account['collected']:.0f} states collected"] if "collected" in account else []
    return "trust: " + ", ".join([beyond, *told, *found, *absent, *kept])
