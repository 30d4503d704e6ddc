"""How far the network that drives a run is trusted: its committee, and the range of the field that it was trained on.

At the multiples of ``every`` and at the last step three numbers are found, the same on all ranks: rms over the sites and
largest value of the deviation of the force over the committee (:mod:`hpc_holstein.forces._committee`), and the part of the
sites outside of the training range (:mod:`hpc_holstein.network.field_range`).  A number beyond its limit warns, stops the run,
or collects the state.  No bit of the trajectory depends on any of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from hpc_holstein.domain.reduction import global_sum
from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import SpectrumError
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.interfaces import Domain, State
from hpc_holstein.network.field_range import outside

_CARRIED = "trust_"  # before the names of an account in a checkpoint


class Collector(Protocol):
    """Keeps states that a network should learn."""

    @property
    def count(self) -> int:
        """States kept."""

    def add(self, state: State) -> None:
        """Keep ``state``, unless enough are kept or the last one is near; collective."""


@dataclass(frozen=True)
class Limits:
    """What is still trusted, and what happens beyond.

    every               steps between two looks
    max_deviation       of ``committee_rms`` [t_nn/a]
    max_site_deviation  of ``committee_max`` [t_nn/a]
    max_outside         of ``outside_fraction``
    action              ``warn`` in one sentence, ``stop`` the run as one that is not healthy, or ``collect`` the state
    """

    every: int
    max_deviation: float | None = None
    max_site_deviation: float | None = None
    max_outside: float | None = None
    action: Literal["warn", "stop", "collect"] = "warn"

    def beyond(self, values: Mapping[str, float]) -> list[str]:
        """What is beyond its limit (NaN is), in words."""
        checks = [
            ("committee_rms", "rms deviation of the force over the committee", "max_deviation", " t_nn/a"),
            ("committee_max", "deviation of the force on a site over the committee", "max_site_deviation", " t_nn/a"),
            ("outside_fraction", "part of the sites outside of the training range", "max_outside", ""),
        ]
        told = []
        for name, meaning, key, unit in checks:
            limit = getattr(self, key)
            if limit is not None and not values.get(name, math.nan) <= limit:
                told.append(f"{meaning} {values.get(name, math.nan):.3g}{unit} is beyond {limit:g} (trust.{key})")
        return told


class Trust:
    """An observer to come before the one that writes the scalars, see :class:`TrustCheck` for the limits; collective.

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
        self._account = {"looks": 0.0, "beyond": 0.0, **own}
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
        self._account["looks"] += 1
        for name, value in self._values.items():
            self._account[f"largest_{name}"] = max(self._account.get(f"largest_{name}", 0.0), value)

    def values(self, step: int) -> dict[str, float]:
        """Scalars of :data:`output.series.TRUST` of a step; empty where it was not looked at."""
        return self._values if step == self._step else {}

    def deviation(self, state: State) -> Tensor | None:
        """Of the force over the committee, ``[*cells, basis]``; None without one.  Collective."""
        if self._deviation is not None and state.step == self._step:
            return self._deviation
        return None if self._forces.committee is None else self._forces.committee.deviation(state)

    def require(self, state: State) -> None:
        """Do what the limits ask for at a state that was looked at; SpectrumError where the run is to stop."""
        self._deviation = None  # all have seen it
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

    def account(self) -> dict[str, float]:
        """What was found in all sessions: looks, those beyond a limit, the first of these, largest values, states kept."""
        kept = {} if self.collector is None else {"collected": float(self.collector.count)}
        return {**self._account, **kept}

    def carried(self, step: int) -> dict[str, float]:
        """The account for a checkpoint of ``step``, at which a run that continues looks again."""
        account = self._before if step == self._step else self._account
        return {f"{_CARRIED}{name}": value for name, value in account.items()}

    def _largest(self, values: Tensor) -> float:
        own = float(values.max())
        return max(self._transport.allgather(math.inf if math.isnan(own) else own))


class TrustCheck:
    """The limits, when a state has been written."""

    def __init__(self, trust: Trust) -> None:
        self.every, self._trust = trust.every, trust

    def __call__(self, state: State) -> None:
        """See :meth:`Trust.require`."""
        self._trust.require(state)


def in_words(account: Mapping[str, float]) -> str:
    """An account of :class:`Trust` in one line."""
    values = {"committee_rms": "rms deviation of the force {:.3g} t_nn/a", "committee_max": "on a site {:.3g} t_nn/a"}
    values |= {"outside_fraction": "part of the sites outside of the training range {:.3g}"}
    largest = {text: account.get(f"largest_{name}") for name, text in values.items()}
    found = ["largest " + text.format(value) for text, value in largest.items() if value is not None]
    beyond = f"{account['beyond']:.0f} of {account['looks']:.0f} looks beyond a limit"
    beyond += f" (first at step {account['first_beyond']:.0f})" if account["beyond"] else ""
    kept = [f"{account['collected']:.0f} states collected"] if "collected" in account else []
    return "trust: " + ", ".join([beyond, *found, *kept])
