"""Make the states that are worth labelling: random ones, and states along thermal quenches driven by any provider.

The path of a training snapshot need not be exact, only its label: a cheap provider may drive, and the file says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField
from hpc_holstein.domain.transport import SerialTransport, Transport, agreed
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Domain, ForceProvider, ForceResult, Integrator, Lattice, Noise, State
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import Snapshots

MakeForces = Callable[[Domain], ForceProvider]
MakeWatch = Callable[[Domain, range], Callable[[State, bool], None]]
"""``watch(domain, quenches)`` makes what looks at their states after each step, told whether it is recorded."""

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``, called on every rank with its own share, which is that of all: work is dealt evenly."""

_SAVE_EVERY = 20  # recorded states between two writes of an unfinished quench
# Noise streams of training data, far from those of simulations, so that no run repeats a training quench by its seed.
_RANDOM_STREAM = 1 << 16
_QUENCH_STREAMS = _RANDOM_STREAM + 1  # three for each quench: coordinates, velocities, Langevin noise


@dataclass(frozen=True)
class RandomPlan:
    """``count`` uncorrelated snapshots ``Q_i ~ N(0, q_std^2)``, a function of ``seed`` and the number of the snapshot."""

    count: int
    q_std: float
    seed: int

    @property
    def attributes(self) -> dict[str, Any]:
        """What a data file says about these states."""
        return {"random.count": self.count, "random.q_std": self.q_std, "random.seed": self.seed}


@dataclass(frozen=True)
class QuenchPlan:
    """``count`` independent quenches from ``Q ~ N(0, q_std^2)``, ``v ~ N(0, velocity_std^2)``, recorded at ``steps``.

    ``make_forces(domain)`` builds the provider that drives and ``path`` names it in the data file.  ``batch`` quenches
    move together, which pays for providers that are faster on batches; the division does not depend on the ranks.
    ``make_watch`` makes what ends a quench that is not healthy any more, with a user error.
    """

    count: int
    steps: tuple[int, ...]
    q_std: float
    velocity_std: float
    seed: int
    integrator: Integrator
    make_forces: MakeForces
    path: str
    batch: int = 1
    make_watch: MakeWatch | None = None

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] < 0 or any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ConfigError(f"recorded steps {list(self.steps)} cannot be visited: give increasing numbers from 0 on")
        if self.count < 1 or self.batch < 1:
            raise ConfigError(f"{self.count} quenches in batches of {self.batch} cannot be made: give positive numbers")

    @property
    def attributes(self) -> dict[str, Any]:
        """What a data file says about these states."""
        plain = {name: getattr(self, name) for name in ("count", "q_std", "velocity_std", "seed", "path", "batch")}
        return {**{f"quench.{name}": value for name, value in plain.items()}, "quench.integrator": repr(self.integrator)}


def early_dense_steps(last: int, count: int) -> tuple[int, ...]:
    """About ``count`` step numbers from 0 to ``last``, spaced evenly in ``log(step + last/100)``.

    Errors are largest early in a quench, where the state is hot; the offset keeps neighbouring records from coinciding.
    """
    offset = max(last / 100, 1.0)
    spaced = np.geomspace(offset, last + offset, count) - offset
    return tuple(int(step) for step in np.unique(np.rint(spaced)))


def even_steps(last: int, every: int) -> tuple[int, ...]:
    """Step numbers ``0, every, 2 every, ...`` up to ``last``: the spacing of the test protocol."""
    return tuple(range(0, last + 1, every))


def random_snapshots(plan: RandomPlan, lattice: Lattice) -> Snapshots:
    """Random snapshots, float64; the same on every rank and for any number of ranks."""
    if plan.count < 1:
        raise ConfigError(f"{plan.count} random snapshots cannot be made: give a positive number")
    noise = NoiseField(plan.seed, _RANDOM_STREAM, _whole(lattice, "cpu"), 1, torch.float64)
    return Snapshots.of(plan.q_std * torch.stack([noise(i)[..., 0, 0] for i in range(plan.count)]).numpy())


def quench_snapshots(
    plan: QuenchPlan,
    lattice: Lattice,
    transport: Transport,
    parts: Parts | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Snapshots:
    """States along the quenches of ``plan``, ordered by quench and step, complete on every rank, float64.

    Batch ``b`` of quenches belongs to rank ``b % size``.  ``parts`` keeps the state of every quench, so that an
    interrupted job continues as if it had not been.
    """
    batches = [range(first, min(first + plan.batch, plan.count)) for first in range(0, plan.count, plan.batch)]
    mine = batches[transport.rank :: transport.size]
    domain = _whole(lattice, device)
    recorded: dict[int, NDArray[np.float64]] = {}
    with agreed(transport):
        for number, ids in enumerate(mine):
            fields = []
            for field in _recorded(plan, ids, domain, parts):
                fields.append(field)
                if progress is not None:
                    progress("quench", number * len(plan.steps) + len(fields), len(mine) * len(plan.steps))
            recorded.update(zip(ids, np.stack(fields, axis=1), strict=True))
    for share in transport.allgather(recorded):
        recorded.update(share)
    quench = np.repeat(np.arange(plan.count), len(plan.steps))
    return Snapshots.of(np.concatenate([recorded[i] for i in range(plan.count)]), quench, np.tile(plan.steps, plan.count))


def joined(sets: Sequence[Snapshots]) -> Snapshots:
    """Unlabelled snapshots of several sets, one after the other."""
    q, quench, step = (np.concatenate([getattr(s, name) for s in sets]) for name in ("q", "quench", "step"))
    return Snapshots.of(q, quench, step)


def _recorded(plan: QuenchPlan, ids: range, domain: Domain, parts: Parts | None) -> Iterator[NDArray[np.float64]]:
    """Run one batch of quenches; yields ``q [quench, y, x]`` at each recorded step, those of an earlier run first."""
    name = f"quench-{ids.start}"
    forces, noise = plan.make_forces(domain), _batched_noise(plan, ids, domain, 2)
    stored = parts.load(name) if parts is not None else []
    fields = list(stored[0]["recorded"]) if stored else []
    yield from fields
    if len(fields) == len(plan.steps):
        return
    start = _restored(stored[0], domain) if stored else _hot(plan, ids, domain)
    state = plan.integrator.init(start, forces)
    watch = plan.make_watch(domain, ids) if plan.make_watch else None
    for wanted in plan.steps[len(fields) :]:
        while state.step < wanted:
            state = plan.integrator.step(state, forces, noise)
            if watch is not None:
                watch(state, state.step == wanted)
        fields.append(state.q[..., 0, 0].cpu().numpy())
        if parts is not None and (len(fields) % _SAVE_EVERY == 0 or wanted == plan.steps[-1]):
            parts.save(name, {"recorded": np.stack(fields), **_stored(state)})
        yield fields[-1]


def _hot(plan: QuenchPlan, ids: range, domain: Domain) -> State:
    """The state before the quench: uncorrelated coordinates and velocities."""
    q = plan.q_std * _batched_noise(plan, ids, domain, 0)(0)
    return State(q=q, velocity=plan.velocity_std * _batched_noise(plan, ids, domain, 1)(0))


def _batched_noise(plan: QuenchPlan, ids: range, domain: Domain, kind: int) -> Noise:
    """Noise ``[quench, y, x, basis, components]``, each quench from a stream of its own."""
    fields = [NoiseField(plan.seed, _QUENCH_STREAMS + 3 * i + kind, domain, 1, torch.float64) for i in ids]
    return lambda step: torch.stack([noise(step) for noise in fields])


def _stored(state: State) -> dict[str, NDArray[Any]]:
    """What continues a quench: the state and its forces (which also start the search for ``mu``)."""
    members: dict[str, Tensor] = {"q": state.q, "velocity": state.velocity}
    if state.forces is not None:
        members |= {name: getattr(state.forces, name) for name in ("force", "density", "chemical_potential")}
    return {"step": np.array(state.step), **{name: value.cpu().numpy() for name, value in members.items()}}


def _restored(part: dict[str, NDArray[Any]], domain: Domain) -> State:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(part[name]).to(domain.device)

    result = ForceResult(tensor("force"), tensor("density"), tensor("chemical_potential"))
    return State(tensor("q"), tensor("velocity"), int(part["step"]), result)


def _whole(lattice: Lattice, device: str) -> CartesianDomain:
    """A domain that holds the whole lattice on one rank."""
    return CartesianDomain(lattice, SerialTransport(), device=device)
