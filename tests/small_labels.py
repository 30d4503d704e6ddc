"""Providers, plans and references of labelling."""

from __future__ import annotations

import numpy as np

from hpc_holstein import dynamics
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import atomic, exact, local
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceProvider
from hpc_holstein.lattice import square
from hpc_holstein.training import dataset
from hpc_holstein.training.label import make_file
from hpc_holstein.training.paths import QuenchPlan, RandomPlan

LATTICE = square.build((4, 6))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("canonical", kT=0.1)
INTEGRATOR = dynamics.build("verlet-ou", mass=5.0, gamma=0.2, dt=0.05, kT=0.1)


def make_exact(domain):
    return exact.build(exact.Options(), HAMILTONIAN, domain, ENSEMBLE)


def make_atomic(domain):
    return atomic.build(atomic.Options(), HAMILTONIAN, domain, Ensemble("grand-canonical", kT=0.1))


class InterruptedJobError(Exception):
    """Stands for the end of a job's time."""


class Watched(ForceProvider):
    """A provider that does something else before each call."""

    def __init__(self, forces, before):
        self.reach, self.tolerance = forces.reach, forces.tolerance
        self._forces, self._before = forces, before

    def __call__(self, state):
        self._before()
        return self._forces(state)


def stopping(make_forces, calls):
    """The provider of ``make_forces``, which fails after so many calls."""
    left = [calls]

    def count():
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedJobError

    return lambda domain: Watched(make_forces(domain), count)


def counting(make_forces, log):
    return lambda domain: Watched(make_forces(domain), lambda: log.append(1))


def exactly_batched(domain):
    """Exact forces, for labels, and for quenches that move together."""
    forces = make_exact(domain)
    forces.batches_exactly = True
    return forces


def plan(**changes):
    values = {"count": 3, "steps": (0, 1, 4, 9), "q_std": 5.27, "velocity_std": 1.0, "seed": 7, "integrator": INTEGRATOR}
    return QuenchPlan(**{**values, "make_forces": make_atomic, "path": "atomic", **changes})


def reference_labels(q):
    """Force, density and mu by plain loops and bisection, one snapshot."""
    ny, nx = q.shape
    h = np.diag(-3.5 * q.reshape(-1))
    elastic = np.zeros_like(q)
    for y in range(ny):
        for x in range(nx):
            for dy, dx in ((0, 1), (1, 0)):
                b = ((y + dy) % ny, (x + dx) % nx)
                i, j = y * nx + x, b[0] * nx + b[1]
                h[i, j] -= 1.0
                h[j, i] -= 1.0
                elastic[y, x] += q[b]
                elastic[b] += q[y, x]
    e, v = np.linalg.eigh(h)
    low, high = e[0] - 1, e[-1] + 1
    for _ in range(100):
        mu = (low + high) / 2
        f = 0.5 * (1 - np.tanh((e - mu) / 0.2))
        low, high = (mu, high) if f.sum() < q.size / 2 else (low, mu)
    n = (v**2 @ f).reshape(q.shape)
    return 3.5 * (n - 0.5) - q - 0.18 * elastic, n, mu


WIDE = square.build((8, 9))


def make_local(domain, **options):
    return local.build(local.Options(reach=2, **options), holstein.build(holstein.Options(), WIDE), domain, ENSEMBLE)


def make(target, transport=None, make_forces=make_exact, stop=None, **changes):
    return make_file(
        target,
        LATTICE,
        transport or SerialTransport(),
        make_forces,
        dataset.physics_attributes(LATTICE, HAMILTONIAN, ENSEMBLE),
        {"provider": "exact"},
        RandomPlan(5, 5.27, seed=2),
        plan(**changes),
        stop=stop,
    )
