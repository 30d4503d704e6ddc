"""Make the states that are worth labelling: random ones, and states along thermal quenches driven by any provider.

The path of a training snapshot need not be exact, only its label: a cheap provider may drive, and the file says which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.noise import NoiseField
from hpc_holstein.domain.transport import SerialTransport, Transport, agreed
from hpc_holstein.errors import ConfigError, StoppedError
from hpc_holstein.fields import stored_shape
from hpc_holstein.interfaces import Domain, ForceProvider, ForceResult, Integrator, Lattice, Noise, State
from hpc_holstein.training._parts import Parts
from hpc_holstein.training.dataset import Snapshots

MakeForces = Callable[[Domain], ForceProvider]
MakeWatch = Callable[[Domain, Sequence[int]], Callable[[State, bool], None]]
"""``watch(domain, quenches)`` makes what looks at their states after each step, told whether it is recorded."""

Stop = Callable[[], str | None]
"""Why this rank is to end its work now, keeping what it has done; None: it goes on."""

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``, called on every rank with its own share, which is that of all: work is dealt evenly."""

_SAVE_EVERY = 20  # recorded states between two writes of an unfinished quench
_TOGETHER = 1 << 17  # sites of the quenches that move together: small lattices cost what one large lattice does up to here
_EVERY_STEP = 8  # as many numbers for a step leave none out
_TOLD = "told_"  # before the names of scalars of the forces in a part
# Noise streams of training data, far from those of simulations, so that no run repeats a training quench by its seed.
_RANDOM_STREAM = 1 << 16
_QUENCH_STREAMS = _RANDOM_STREAM + 1  # three for each quench: coordinates, velocities, Langevin noise


_Stored = Mapping[int, Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class RandomPlan:
    """``count`` uncorrelated snapshots ``Q_i ~ N(0, q_std^2)``, a function of ``seed`` and the number of the snapshot.

    ``components``: numbers of a coordinate.
    """

    count: int
    q_std: float
    seed: int
    components: int = 1

    @property
    def attributes(self) -> dict[str, Any]:
        """Description of these states for a data file."""
        return {"random.count": self.count, "random.q_std": self.q_std, "random.seed": self.seed}


@dataclass(frozen=True)
class QuenchPlan:
    """``count`` independent quenches from ``Q ~ N(0, q_std^2)``, ``v ~ N(0, velocity_std^2)``, recorded at ``steps``.

    ``make_forces(domain)`` builds the provider that drives and ``path`` names it in the data file.
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
    make_watch: MakeWatch | None = None
    components: int = 1

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] < 0 or any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ConfigError(f"recorded steps {list(self.steps)} cannot be visited: give increasing numbers from 0 on")
        if self.count < 1:
            raise ConfigError(f"{self.count} quenches cannot be made: give a positive number")

    @property
    def attributes(self) -> dict[str, Any]:
        """Description of these states for a data file."""
        plain = {name: getattr(self, name) for name in ("count", "q_std", "velocity_std", "seed", "path")}
        return {**{f"quench.{name}": value for name, value in plain.items()}, "quench.integrator": repr(self.integrator)}


def early_dense_steps(last: int, count: int) -> tuple[int, ...]:
    """About ``count`` step numbers from 0 to ``last``, spaced evenly in ``log(step + last/100)``.

    Errors are largest early in a quench, where the state is hot; the offset keeps neighbouring records from coinciding.
    """
    offset = max(last / 100, 1.0)
    count = min(count, _EVERY_STEP * (last + 1))
    spaced = np.geomspace(offset, last + offset, count) - offset
    return tuple(int(step) for step in np.unique(np.rint(spaced)))


def even_steps(last: int, every: int) -> tuple[int, ...]:
    """Step numbers ``0, every, 2 every, ...`` up to ``last``: the spacing of the test protocol."""
    return tuple(range(0, last + 1, every))


def random_snapshots(plan: RandomPlan, lattice: Lattice) -> Snapshots:
    """Random snapshots, float64; the same on every rank and for any number of ranks."""
    if plan.count < 1:
        raise ConfigError(f"{plan.count} random snapshots cannot be made: give a positive number")
    noise = NoiseField(plan.seed, _RANDOM_STREAM, _whole(lattice, "cpu"), plan.components, torch.float64)
    return Snapshots.on(lattice, plan.q_std * torch.stack([noise(i) for i in range(plan.count)]).numpy())


def quench_snapshots(
    plan: QuenchPlan,
    lattice: Lattice,
    transport: Transport,
    parts: Parts | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Snapshots:
    """States along the quenches of ``plan``, ordered by quench and step, complete on every rank, float64.

    Quench ``i`` belongs to rank ``i % size``; those of a rank move together where that changes no bit, so that the states do
    not depend on the number of ranks.  ``parts`` keeps the state of every quench, so that an interrupted job continues as if it
    had not been.  Raises StoppedError, on all ranks, where ``stop`` ends the work of one.
    """
    domain, stored = _whole(lattice, device), _stored_quenches(parts)
    transport.barrier()  # no rank writes parts before all have read them
    mine = range(transport.rank, plan.count, transport.size)
    recorded: dict[int, NDArray[np.float64]] = {}
    with agreed(transport):
        for ids in _groups(plan, mine, stored, domain):
            fields = []
            for field in _recorded(plan, ids, stored, domain, parts, stop):
                fields.append(field)
                if progress is not None:
                    done = len(recorded) * len(plan.steps) + len(ids) * len(fields)
                    progress("quench", done, len(mine) * len(plan.steps))
            if len(fields) < len(plan.steps):
                break
            recorded.update(zip(ids, np.stack(fields, axis=1), strict=True))
    require_going(transport, stop)
    for share in transport.allgather(recorded):
        recorded.update(share)
    quench = np.repeat(np.arange(plan.count), len(plan.steps))
    q = np.concatenate([recorded[i] for i in range(plan.count)])
    return Snapshots.on(lattice, q, quench, np.tile(plan.steps, plan.count))


def require_going(transport: Transport, stop: Stop | None) -> None:
    """Raise StoppedError, on all ranks, where ``stop`` ends the work of one; collective."""
    reason = next((one for one in transport.allgather(stop() if stop is not None else None) if one is not None), None)
    if reason is not None:
        raise StoppedError(reason)


def joined(sets: Sequence[Snapshots]) -> Snapshots:
    """Unlabelled snapshots of several sets, one after the other."""
    q, quench, step = (np.concatenate([getattr(s, name) for s in sets]) for name in ("q", "quench", "step"))
    return Snapshots.of(q, quench, step, axes=sets[0].axes)


def _groups(plan: QuenchPlan, mine: Sequence[int], stored: _Stored, domain: Domain) -> Iterator[list[int]]:
    """Quenches of one rank that move together: those that are equally far, as many as pays, in groups of nearly one size."""
    sites = domain.lattice.sites
    together = max(1, _TOGETHER // sites) if plan.make_forces(domain).batches_exactly else 1
    alike: dict[tuple[int, int], list[int]] = {}
    for quench in mine:
        part = stored.get(quench)
        alike.setdefault((0, -1) if part is None else (len(part["recorded"]), int(part["step"])), []).append(quench)
    for ids in alike.values():
        number = -(-len(ids) // together)
        yield from (ids[len(ids) * k // number : len(ids) * (k + 1) // number] for k in range(number))


def _recorded(
    plan: QuenchPlan, ids: Sequence[int], stored: _Stored, domain: Domain, parts: Parts | None, stop: Stop | None
) -> Iterator[NDArray[np.float64]]:
    """Run quenches that move together; yields ``q [quench, ...]`` at each recorded step, first those of an earlier run.

    Ends early, having kept what there is, where ``stop`` says so.
    """
    forces, noise = plan.make_forces(domain), _batched_noise(plan, ids, domain, 2)
    known = _together([stored[i] for i in ids]) if ids[0] in stored else None
    fields = [] if known is None else list(known["recorded"].swapaxes(0, 1))
    yield from fields
    if len(fields) == len(plan.steps):
        return
    state = plan.integrator.init(_hot(plan, ids, domain) if known is None else _restored(known, domain), forces)
    watch = plan.make_watch(domain, ids) if plan.make_watch else None
    shape = stored_shape(domain.lattice.extent, len(domain.lattice.basis), plan.components)

    def save() -> None:
        if parts is not None:
            rows = np.stack(fields, axis=1) if fields else state.q.new_empty((len(ids), 0)).cpu().numpy()
            kept = {"quench": np.array(ids), "recorded": rows, **_stored(state)}
            parts.save(f"quench-{ids[0]}-{ids[-1]}-{len(ids)}", kept)

    for wanted in plan.steps[len(fields) :]:
        while state.step < wanted:
            if stop is not None and stop():
                save()
                return
            state = plan.integrator.step(state, forces, noise)
            if watch is not None:
                watch(state, state.step == wanted)
        fields.append(state.q.reshape(len(ids), *shape).cpu().numpy())
        if len(fields) % _SAVE_EVERY == 0 or wanted == plan.steps[-1]:
            save()
        yield fields[-1]


def _hot(plan: QuenchPlan, ids: Sequence[int], domain: Domain) -> State:
    """The state before the quench: uncorrelated coordinates and velocities."""
    q = plan.q_std * _batched_noise(plan, ids, domain, 0)(0)
    return State(q=q, velocity=plan.velocity_std * _batched_noise(plan, ids, domain, 1)(0))


def _batched_noise(plan: QuenchPlan, ids: Sequence[int], domain: Domain, kind: int) -> Noise:
    """Noise ``[quench, *cells, basis, components]``, each quench from a stream of its own."""
    fields = [NoiseField(plan.seed, _QUENCH_STREAMS + 3 * i + kind, domain, plan.components, torch.float64) for i in ids]
    return lambda step: torch.stack([noise(step) for noise in fields])


def _stored(state: State) -> dict[str, NDArray[Any]]:
    """State that continues quenches: the states and their forces, with the scalars that the next search for ``mu`` needs."""
    members: dict[str, Tensor] = {"q": state.q, "velocity": state.velocity}
    told: dict[str, NDArray[Any]] = {}
    if state.forces is not None:
        members |= {name: getattr(state.forces, name) for name in ("force", "density", "chemical_potential")}
        of_states = state.forces.of_states
        told = {_TOLD + name: np.array([one[name] for one in of_states]) for name in (of_states[0] if of_states else ())}
    step = np.full(len(state.q), state.step)
    return {"step": step, **told, **{name: value.cpu().numpy() for name, value in members.items()}}


def _stored_quenches(parts: Parts | None) -> _Stored:
    """Quench -> what an earlier run of the same job has kept of it; the farthest where several ranks have had it."""
    found: dict[int, dict[str, NDArray[Any]]] = {}
    for part in parts.load("quench-*") if parts is not None else []:
        for row, quench in enumerate(part.pop("quench")):
            one = {name: values[row] for name, values in part.items()}
            if quench not in found or found[quench]["step"] < one["step"]:
                found[int(quench)] = one
    return found


def _together(kept: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The states as one batch ``[quench, ...]``."""
    return {name: np.stack([one[name] for one in kept]) for name in kept[0]}


def _restored(part: Mapping[str, NDArray[Any]], domain: Domain) -> State:
    def tensor(name: str) -> Tensor:
        return torch.from_numpy(part[name]).to(domain.device)

    told = {name.removeprefix(_TOLD): values for name, values in part.items() if name.startswith(_TOLD)}
    of_states = tuple({name: float(values[i]) for name, values in told.items()} for i in range(len(part["q"]))) if told else ()
    result = ForceResult(tensor("force"), tensor("density"), tensor("chemical_potential"), of_states=of_states)
    return State(tensor("q"), tensor("velocity"), int(part["step"][0]), result)


def _whole(lattice: Lattice, device: str) -> CartesianDomain:
    """A domain that holds the whole lattice on one rank."""
    return CartesianDomain(lattice, SerialTransport(), device=device)
