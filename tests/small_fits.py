"""Small trainings: a network of one stencil and its data."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble
from hpc_holstein.lattice import square
from hpc_holstein.training.dataset import Snapshots
from hpc_holstein.training.fit import fit
from hpc_holstein.training.fit_options import FitOptions
from hpc_holstein.training.regimes import Regimes

G, KT = 3.5, 0.1
LATTICE = square.build((8, 8))
HAMILTONIAN = holstein.build(holstein.Options(), LATTICE)
ENSEMBLE = Ensemble("canonical", kT=KT)


class Stencil(nn.Module):
    """Two convolutions on saturating functions of the field, beside the atomic limit where the density is asked for."""

    reach = 2

    def __init__(self, field="shifted", predicts="density", seed=0):
        super().__init__()
        self.field, self.predicts = field, predicts
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList([nn.Conv2d(2, 6, 3), nn.Conv2d(6, 1, 3)])
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))

    def forward(self, ghosted):
        x = torch.stack([torch.tanh(ghosted), torch.tanh(ghosted / 5)], dim=1)
        out = self.layers[1](torch.tanh(self.layers[0](x)))[:, 0]
        inner = ghosted[:, 2:-2, 2:-2]
        return torch.sigmoid(G * inner / KT) + out if self.predicts == "density" else 10 * out


def data(quenches=4, per_quench=4, random=4, seed=0):
    """Fields whose density depends smoothly on the neighbourhood of the shifted field."""
    rng = np.random.default_rng(seed)
    count = quenches * per_quench + random
    mu = rng.uniform(-1, 1, count)
    q = rng.normal(0, 2, (count, 8, 8))
    x = q + mu[:, None, None] / G
    near = sum(np.roll(x, s, axis=a) for s in (1, -1) for a in (1, 2))
    density = 0.5 * (1 + np.tanh(G * x / KT / 2)) + 0.1 * np.tanh(x) - 0.05 * np.tanh(near / 5)
    return Snapshots.of(
        q,
        quench=np.r_[np.repeat(np.arange(quenches), per_quench), np.full(random, -1)],
        step=np.r_[np.tile(np.arange(per_quench) * 250, quenches), np.zeros(random, int)],
        force=G * (density - 0.5) - q,
        density=density,
        chemical_potential=mu,
    )


def options(**changes):
    plain = {"epochs": 6, "batch": 4, "validation": 0.25, "test": 0.25, "warmup": 0.1, "learning_rate": 1e-2}
    return FitOptions(**{**plain, **changes})


def run(opts=None, transport=None, snapshots=None, model=None, **files):
    where = transport or SerialTransport()
    states = data() if snapshots is None else snapshots
    masks = Regimes(square.build(states.extent), {"early": (0, 300), "late": (300, None)}).masks(states)
    return fit(model or Stencil(), states, HAMILTONIAN, ENSEMBLE, opts or options(), where, masks=masks, **files)


def curve(result, *names):
    return [[row[name] for name in names or ("training_mse", "validation_mse", "learning_rate")] for row in result.history]


class Responsive(Stencil):
    """A stencil network of which few sites respond to mu, as in a gap."""

    def response(self, ghosted):
        return self(ghosted), 1e-3 + torch.exp(-20 * ghosted[:, 2:-2, 2:-2].square())
