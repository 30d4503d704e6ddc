"""Every network that reads any lattice, on every lattice: symmetry, ranks, windows, particle-hole exchange, the sign of t."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from conformance.cases import LATTICES, MODELS, build_hamiltonian, build_lattice, load

from hpc_holstein import conformance
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ModelError
from hpc_holstein.forces import _neural
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.network import models
from hpc_holstein.network.checkpoint import load_model, make_card, save_model
from hpc_holstein.network.served import check_card, trained_elsewhere
from hpc_holstein.symmetry.internal import has_particle_hole

CANONICAL = Ensemble("canonical", kT=0.2, filling=0.4)
GRAND_CANONICAL = Ensemble("grand-canonical", kT=0.2, chemical_potential=0.3)
CELLS = {1: 16, 2: 10, 3: 6}
RADII = {
    "enn": {1: (2, 1, 0), 2: (1, 1, 0), 3: (1, 0)},
    "enn_energy": {1: (2, 1), 2: (1, 0), 3: (1, 0)},
    "enn_matrix": {1: (1, 1, 0), 2: (1, 0), 3: (0, 0)},
}
BIPARTITE = {"chain": True, "square": True, "triangular": False, "honeycomb": True, "kagome": False, "cubic": True}
ANY = [name for name in MODELS if name != "efnn"]

each = pytest.mark.parametrize(("name", "model"), list(product(LATTICES, ANY)))


def built(name, model, **options):
    """A lattice, a network whose weights are all in use, its options and a Hamiltonian."""
    lattice = build_lattice(name, CELLS[len(build_lattice(name, 1).extent)])
    source, radii = load(models, model), RADII[model][len(lattice.extent)]
    chosen = source.Options(copies=2, levels=3, radii=radii, scales=(6.4, 1.0), kT=0.2, **options)
    torch.manual_seed(0)
    network = source.build(chosen, lattice).double()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return lattice, network.eval(), chosen, build_hamiltonian("holstein", lattice)


def forces_of(network, hamiltonian, ensemble):
    return NeuralForces(network, hamiltonian, CartesianDomain(hamiltonian.lattice, SerialTransport()), ensemble)


@each
@pytest.mark.parametrize("options", [{}, {"kT_range": (0.1, 0.4)}], ids=["fixed", "kT"])
def test_symmetry(name, model, options):
    """Each element of the space group, on several sites a cell too; the density does vary from site to site."""
    _, network, _, hamiltonian = built(name, model, **options)
    q = conformance.random_coordinates(hamiltonian)
    forces = forces_of(network, hamiltonian, CANONICAL)
    conformance.check_symmetry(forces, hamiltonian, q, 1e-9)
    assert float(forces(State.at_rest(q)).density.std()) > 0.1


@each
@pytest.mark.parametrize("ensemble", [CANONICAL, GRAND_CANONICAL], ids=["canonical", "grand"])
def test_ranks(name, model, ensemble):
    _, network, _, hamiltonian = built(name, model)
    make = lambda domain: NeuralForces(network, hamiltonian, domain, ensemble)  # noqa: E731
    conformance.check_forces(make, hamiltonian, ensemble, ranks=(2,) if len(hamiltonian.lattice.extent) == 3 else (2, 4))


@pytest.mark.parametrize("name", LATTICES)
def test_pieces_of_a_batch(name, monkeypatch):
    """Windows of a few cells, which do not divide the lattice, and states one by one: the same density."""
    lattice, network, _, hamiltonian = built(name, "enn_energy")
    q = torch.stack([conformance.random_coordinates(hamiltonian, seed) for seed in range(3)])
    whole = forces_of(network, hamiltonian, CANONICAL)(State.at_rest(q))
    monkeypatch.setattr(_neural, "_LONGEST", {"cpu": {1: 2, 2: 5, 3: 8}[len(lattice.extent)]})
    pieces = forces_of(network, hamiltonian, CANONICAL)
    assert max(pieces._window) < min(lattice.extent)
    together, alone = pieces(State.at_rest(q)), [pieces(State.at_rest(one)) for one in q]
    for member, atol in (("density", 1e-9), ("grand_potential", 1e-8)):
        wanted = getattr(whole, member)
        torch.testing.assert_close(getattr(together, member), wanted, rtol=0, atol=atol)
        torch.testing.assert_close(torch.stack([getattr(one, member) for one in alone]), wanted, rtol=0, atol=atol)


@each
def test_particle_hole_exchange_exactly_where_it_is_a_symmetry(name, model):
    _, network, _, hamiltonian = built(name, model)
    assert network.particle_hole is BIPARTITE[name] is has_particle_hole(hamiltonian)
    q = conformance.random_coordinates(hamiltonian)
    minus = Ensemble("grand-canonical", kT=0.2, chemical_potential=-0.3)
    here, there = (forces_of(network, hamiltonian, e)(State.at_rest(s * q)) for e, s in ((GRAND_CANONICAL, 1), (minus, -1)))
    off = float((here.density + there.density - 1).abs().max())
    assert off < 1e-12 if BIPARTITE[name] else off > 1e-2


@pytest.mark.parametrize("name", LATTICES)
def test_a_file_and_the_sign_of_the_hopping(name, tmp_path: Path):
    """On two sublattices the sign of t is a choice of phases; on others a model of +t is refused for -t."""
    lattice, network, options, hamiltonian = built(name, "enn")
    card = make_card(network, "enn", options, hamiltonian, lattice, CANONICAL, data_hash="", seed=0, metrics={})
    save_model(tmp_path / "model.safetensors", network, card)
    again, read = load_model(tmp_path / "model.safetensors", lattice)
    q = conformance.random_coordinates(hamiltonian)
    one, other = (forces_of(module, hamiltonian, CANONICAL)(State.at_rest(q)) for module in (network, again))
    torch.testing.assert_close(other.force, one.force, rtol=0, atol=1e-12)
    opposite = holstein.build(holstein.Options(t=-1.0), lattice)
    if BIPARTITE[name]:
        check_card(read, opposite, CANONICAL, lattice)
    else:
        with pytest.raises(ModelError, match=r"sign of t is \+ in the model and - in this run"):
            check_card(read, opposite, CANONICAL, lattice)
    half = replace(card, filling=0.5)
    at_zero = trained_elsewhere(half, hamiltonian, Ensemble("grand-canonical", 0.2, chemical_potential=0.0))
    assert bool(at_zero) is not BIPARTITE[name]  # mu = 0 is half filling


@pytest.mark.parametrize("name", [name for name in LATTICES if name not in ("square", "triangular")])
def test_a_network_of_other_lattices_is_refused(name):
    lattice = build_lattice(name, 16 if name == "chain" else 8)
    network = load(models, "efnn").build(load(models, "efnn").Options(), build_lattice("square", 16))
    hamiltonian = build_hamiltonian("holstein", lattice)
    with pytest.raises(ModelError, match=f"lattices of two dimensions with one site a cell, and the {name} lattice is another"):
        forces_of(network, hamiltonian, Ensemble("canonical", 0.1))
