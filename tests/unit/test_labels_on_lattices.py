"""Labels on every lattice against a dense diagonalization whose bonds are typed from the schema, not taken from the package.

q [snapshot, *cells(, site)(, component)], cells in array order, components (x, y, z) with x along the last cell axis.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from commands import execute

from hpc_holstein.domain.transport import SerialTransport, run_in_process

BONDS = {  # kind: extent, sites a cell, (site, site, offset) of nearest and of second neighbours
    "chain": ((8,), 1, [(0, 0, (1,))], [(0, 0, (2,))]),
    "square": ((4, 6), 1, [(0, 0, (1, 0)), (0, 0, (0, 1))], [(0, 0, (1, 1)), (0, 0, (1, -1))]),
    "triangular": ((6, 3), 1, [(0, 0, (1, 0)), (0, 0, (0, 1)), (0, 0, (1, -1))], []),
    "honeycomb": ((4, 3), 2, [(0, 1, (0, 0)), (1, 0, (1, 0)), (1, 0, (0, 1))], []),
    "kagome": (
        (3, 4),
        3,
        [(0, 1, (0, 0)), (0, 2, (0, 0)), (1, 2, (0, 0)), (1, 0, (0, 1)), (2, 0, (1, 0)), (1, 2, (-1, 1))],
        [],
    ),
    "cubic": ((4, 3, 3), 1, [(0, 0, (1, 0, 0)), (0, 0, (0, 1, 0)), (0, 0, (0, 0, 1))], []),
}
KT, FILLING = 0.1, {"triangular": 1 / 3}
HOLSTEIN = {"t": 1.0, "g": 3.5, "k": 1.0, "kappa": 0.1}
PEIERLS = {"t0": 2.5, "t2": 0.5, "alpha": 4.0, "k0": 30.0, "kappa": 4.0}
SYSTEMS = [(kind, "holstein") for kind in BONDS] + [("chain", "peierls"), ("square", "peierls")]


def pairs(kind, shell, periodic):
    """Numbers of the two sites of each bond, and the offset of their cells."""
    extent, basis = BONDS[kind][:2]
    for s, t, offset in BONDS[kind][1 + shell]:
        for cell in itertools.product(*map(range, extent)):
            there = [c + o for c, o in zip(cell, offset, strict=True)]
            if periodic or all(0 <= c < n for c, n in zip(there, extent, strict=True)):
                there = tuple(c % n for c, n in zip(there, extent, strict=True))
                numbers = (np.ravel_multi_index(c, extent) * basis + site for c, site in ((cell, s), (there, t)))
                yield *numbers, offset


def dense(kind, model, q, filling, periodic):
    """Force and density of one state by diagonalization and bisection, and the density as a function of ``mu``."""
    u = q.reshape(int(np.prod(BONDS[kind][0])) * BONDS[kind][1], -1)
    h, force = np.zeros((len(u), len(u))), np.zeros_like(u)
    p = HOLSTEIN if model == "holstein" else PEIERLS
    moved = []
    if model == "holstein":
        h -= np.diag(p["g"] * u[:, 0])
    for i, j, offset in pairs(kind, 1, periodic):
        axis = len(offset) - 1 - int(np.argmax(np.abs(offset)))  # the component along a bond of chain and square
        hopping = p["t"] if model == "holstein" else p["t0"] - p["alpha"] * (u[j, axis] - u[i, axis])
        h[i, j] -= hopping
        h[j, i] -= hopping
        force[i] -= p["kappa"] * u[j]
        force[j] -= p["kappa"] * u[i]
        moved.append((i, j, axis))
    for i, j, _ in pairs(kind, 2, periodic) if model == "peierls" else ():
        h[i, j] -= p["t2"]
        h[j, i] -= p["t2"]
    levels, states = np.linalg.eigh(h)
    low, high = levels[0] - 50, levels[-1] + 50

    def density_matrix(mu):
        return (states * ((1 - np.tanh((levels - mu) / (2 * KT))) / 2)) @ states.T

    for _ in range(100):
        mu = (low + high) / 2
        low, high = (mu, high) if np.trace(density_matrix(mu)) < filling * len(u) else (low, mu)
    rho = density_matrix(mu)
    if model == "holstein":
        force[:, 0] += p["g"] * (np.diag(rho) - 0.5) - p["k"] * u[:, 0]
    else:
        force -= p["k0"] * u
        for i, j, axis in moved:
            force[i, axis] += 2 * p["alpha"] * rho[i, j]
            force[j, axis] -= 2 * p["alpha"] * rho[i, j]
    return force.reshape(q.shape), np.diag(rho), lambda mu: np.diag(density_matrix(mu))


def labelled(folder: Path, kind: str, model: str, periodic: bool, ranks: int, force: str, q: np.ndarray, filling: float):
    """The file that ``label --input`` makes of coordinates alone."""
    source, target = folder / "q.h5", folder / f"{force}-{ranks}.h5"
    with h5py.File(source, "w") as file:
        file["q"] = q
    keys = {f"hamiltonian.{name}": value for name, value in (HOLSTEIN if model == "holstein" else PEIERLS).items()}
    keys |= {"lattice.periodic": json.dumps([periodic] * len(BONDS[kind][0])), "ensemble.kT": KT, "ensemble.filling": filling}
    words = [f"lattice.kind={kind}", f"hamiltonian.kind={model}", *(f"{name}={value}" for name, value in keys.items())]
    words += ["force.tolerance=1e-7"] if force == "kpm" else []
    sets = [word for assignment in words for word in ("--set", assignment)]
    arguments = ["label", "--input", source, "--force", force, *sets, "--output", target]
    if ranks == 1:
        execute(SerialTransport(), *arguments)
    else:
        run_in_process(ranks, lambda transport: execute(transport, *arguments))
    with h5py.File(target) as file:
        return {name: file[name][...] for name in file}


@pytest.mark.parametrize(("force", "tolerance"), [("exact", 1e-9), ("kpm", 1e-6)])
@pytest.mark.parametrize(("periodic", "ranks"), [(True, 1), (False, 2)], ids=["periodic", "open"])
@pytest.mark.parametrize(("kind", "model"), SYSTEMS, ids=map("-".join, SYSTEMS))
def test_labels_of_coordinates_alone(kind, model, periodic, ranks, force, tolerance, tmp_path):
    extent, basis = BONDS[kind][:2]
    components = len(extent) if model == "peierls" else 1
    shape = (*extent, *([basis] if basis > 1 else []), *([components] if components > 1 else []))
    q = np.random.default_rng(1).normal(0, 1.0 if model == "holstein" else 0.1, (3, *shape))
    filling = FILLING.get(kind, 0.5)
    found = labelled(tmp_path, kind, model, periodic, ranks, force, q, filling)
    for i, state in enumerate(q):
        wanted = dense(kind, model, state, filling, periodic)
        np.testing.assert_allclose(found["force"][i], wanted[0], rtol=0, atol=tolerance)
        np.testing.assert_allclose(found["density"][i].ravel(), wanted[1], rtol=0, atol=tolerance)
        if force == "exact":  # with densities at further chemical potentials
            more, mu = found["more_density"][i, 1].ravel(), found["more_chemical_potential"][i, 1]
            np.testing.assert_allclose(more, wanted[2](mu), rtol=0, atol=tolerance)
    assert found["force"].shape == q.shape
    assert found["density"].shape == (3, *extent, *([basis] if basis > 1 else []))
