"""Networks that read the matrix elements of ``H`` and write those of ``rho``, on every lattice, with all weights in use."""

import numpy as np
import pytest
import torch
from conformance.cases import LATTICES, build_lattice

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.errors import ConfigError, ModelError
from hpc_holstein.forces._elements import both_ways, matrix_elements
from hpc_holstein.forces._neural import NeuralForces
from hpc_holstein.hamiltonian import holstein, peierls
from hpc_holstein.interfaces import Bond, Ensemble, State
from hpc_holstein.lattice._bravais import BravaisLattice
from hpc_holstein.network.checkpoint import load_model, make_card, save_model
from hpc_holstein.network.elements import ElementReader, Elements, element_ranges, fixed_parts, reverse, strength
from hpc_holstein.network.models import enn_matrix
from hpc_holstein.network.served import check_card, trained_elsewhere
from hpc_holstein.network.supported import require_supported

CELLS = {1: (24,), 2: (14, 13), 3: (7, 7, 7)}
ODD = dict.fromkeys(("chain", "square", "honeycomb", "cubic"), (True, False, True))
ODD_OF_ORBITALS = {"e_g": (True, True, False, True)}
CANONICAL = Ensemble("canonical", kT=0.1)


class Turned(BravaisLattice):
    """A lattice that names every bond from its other end."""

    def bonds(self, shell):
        return tuple(reverse(bond) for bond in super().bonds(shell))


each_lattice = pytest.mark.parametrize("name", LATTICES)
each_kind = pytest.mark.parametrize("name", [*LATTICES, "e_g"])  # of two orbitals on each site of the square lattice


def lattice_of(name, *cells):
    lattice = build_lattice("square" if name == "e_g" else name, 12)
    return type(lattice)(
        lattice.name, cells or CELLS[len(lattice.extent)], lattice.periodic, lattice.vectors, lattice.basis, lattice.generators
    )


def built(name, **options):
    """A network with weights away from their start, and symmetric elements of ``H`` on the torus."""
    lattice = lattice_of(name)
    radii = (1, 0) if len(lattice.extent) == 3 else (1, 1, 0)
    torch.manual_seed(0)
    orbitals = name if name == "e_g" else "s"
    chosen = enn_matrix.Options(**{"copies": 2, "radii": radii, "outputs": 2, "levels": 3, "orbitals": orbitals, **options})
    network = enn_matrix.build(chosen, lattice).double()
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.15)
    return lattice, network.eval(), chosen


def sample(lattice, elements, seed=3):
    generator = torch.Generator().manual_seed(seed)
    found = 0.7 * torch.randn(1, *lattice.extent, len(elements), dtype=torch.float64, generator=generator)
    return both_directions(found, elements)


def both_directions(found, elements):
    """The elements with those of the second direction of each pair from the first: ``h_ij = h_ji``."""
    axes = tuple(range(1, found.ndim - 1))
    for first in range(elements.states, len(elements), 2):
        found[..., first + 1] = found[..., first].roll(elements.bonds[first].offset, axes)
    return found


def wrapped(field, width):
    for axis in range(1, field.ndim - 1):
        count = field.shape[axis]
        field = field.index_select(axis, torch.arange(-width, count + width).remainder(count))
    return field


def whole(network, elements):
    """``rho`` in all columns."""
    with torch.no_grad():
        found = torch.zeros_like(elements)
        found[..., network.written] = network(wrapped(elements, network.reach))
    torch.testing.assert_close(both_directions(found.clone(), network.elements), found, rtol=0, atol=1e-13)
    return found


def moved(elements, g, lattice, of):
    """Elements of the system that element ``g`` of the space group makes, its action written out on single bonds.

    ``x^2 - y^2``, the first of two orbitals, changes its sign where x and y change places.
    """
    group, number = lattice.symmetry, {bond: index for index, bond in enumerate(of.bonds)}
    matrix = group.point_group.array[g]
    cells = np.indices(lattice.extent).reshape(len(lattice.extent), -1)
    found = torch.zeros_like(elements)
    for index, bond in enumerate(of.bonds):
        (source, a), (target, b) = divmod(bond.source, of.orbitals), divmod(bond.target, of.orbitals)
        offset = matrix @ bond.offset + group.cell[g, target] - group.cell[g, source]
        ends = (int(group.site[g, one]) * of.orbitals + orbital for one, orbital in ((source, a), (target, b)))
        there = (matrix @ cells + group.cell[g, source][:, None]) % np.array(lattice.extent)[:, None]
        sign = -1 if a != b and matrix[0, 0] == 0 else 1
        found[(0, *there, number[Bond(*ends, tuple(map(int, offset)))])] = sign * elements[(0, *cells, index)]
    return found


@each_kind
@pytest.mark.parametrize("options", [{}, {"kT_range": (0.01, 0.4)}], ids=["fixed", "kT"])
def test_each_element_of_the_space_group(name, options):
    """Inputs and outputs, on sites and pairs; cells of a square shape, so that rotations close."""
    lattice, network, _ = built(name, **options)
    square = lattice_of(name, *[max(lattice.extent)] * len(lattice.extent))
    elements = sample(square, network.elements)
    rho = whole(network, elements)
    assert float(rho.std(dim=tuple(range(1, rho.ndim - 1))).min()) > 1e-4
    for g in range(square.point_group.order):
        off = whole(network, moved(elements, g, square, network.elements)) - moved(rho, g, square, network.elements)
        assert float(off.abs().max()) < 1e-11 * float(rho.abs().max())


@each_kind
def test_exchange_of_particles_and_holes(name):
    """``rho(-S H S) = 1 - S rho(H) S`` where nearest neighbours join two sublattices, and no such thing elsewhere."""
    lattice, network, _ = built(name)
    of = network.elements
    known = ODD | ODD_OF_ORBITALS
    assert of.odd == known.get(name, (False,) * 3)
    sign = torch.cat([torch.full((len(part),), -1.0 if odd else 1.0) for part, odd in zip(of.parts, of.odd, strict=True)])
    half = torch.zeros(len(of)).index_fill(0, torch.arange(of.states), 0.5)
    elements = sample(lattice, of)
    if name not in known:
        sign = -torch.ones(len(of))  # rho(-H) = 1 - rho(H), which no weights know
    off = float(((whole(network, sign * elements) - half) - sign * (whole(network, elements) - half)).abs().max())
    assert off < 1e-12 if name in known else off > 1e-2


@pytest.mark.parametrize("name", ODD)
def test_exchange_on_exact_matrices(name):
    """The signs are those of the physics: density matrices of ``H`` and of ``-S H S``, by diagonalization."""
    lattice = lattice_of(name, *[4] * len(CELLS[len(build_lattice(name, 12).extent)]))
    of = Elements.of(lattice, 1)
    elements = sample(lattice, of)
    sign = torch.cat([torch.full((len(part),), -1.0 if odd else 1.0) for part, odd in zip(of.parts, of.odd, strict=True)])

    def rho(values):
        matrix = torch.zeros(lattice.sites, lattice.sites, dtype=torch.float64)
        cells = np.indices(lattice.extent).reshape(len(lattice.extent), -1)
        ends = []
        for index, bond in enumerate(of.bonds):
            there = (cells + np.array(bond.offset)[:, None]) % np.array(lattice.extent)[:, None]
            one, other = (
                np.ravel_multi_index(tuple(where), lattice.extent) * of.states + site
                for where, site in ((cells, bond.source), (there, bond.target))
            )
            ends.append((one, other))
            matrix[one, other] += values[(0, *cells, index)]
        energies, states = torch.linalg.eigh(matrix)
        full = states @ torch.diag(torch.sigmoid(-energies / 0.3)) @ states.T
        return torch.stack([full[pair] for pair in ends], dim=-1)

    half = torch.zeros(len(of)).index_fill(0, torch.arange(of.states), 0.5)
    torch.testing.assert_close(rho(sign * elements) - half, sign * (rho(elements) - half), rtol=0, atol=1e-12)


@each_lattice
def test_reach_is_honest(name):
    """``rho`` of a cell depends on elements up to ``reach`` cells away, and on none beyond."""
    lattice, network, _ = built(name)
    width = 2 * network.reach + 3
    shape = (1, *[width + 2 * network.reach] * len(lattice.extent), len(network.elements))
    elements = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = network(elements)
    assert out.shape == (1, *[width] * len(lattice.extent), len(network.written))
    centre = (0, *[width // 2] * len(lattice.extent))
    (gradient,) = torch.autograd.grad(out[centre].sum(), elements)
    middle = width // 2 + network.reach
    away = torch.stack(torch.meshgrid(*[(torch.arange(n) - middle).abs() for n in shape[1:-1]], indexing="ij")).amax(dim=0)
    size = gradient[0].abs().sum(dim=-1)
    assert (size[away > network.reach] == 0).all()
    assert (size[away == network.reach] != 0).any()


@each_lattice
def test_the_reader_reads_what_the_solvers_do(name):
    """``(H - mu)/t`` on every directed pair, against the bonds that the solvers are given; and back onto the pattern."""
    lattice = lattice_of(name)
    hamiltonian = peierls.build(peierls.Options(t0=2.0), lattice)
    domain = CartesianDomain(lattice, SerialTransport())
    of = Elements.of(lattice, 2)
    reader = ElementReader(hamiltonian, of)
    generator = torch.Generator().manual_seed(1)
    q = 0.1 * torch.randn(*lattice.extent, len(lattice.basis), hamiltonian.components, dtype=torch.float64, generator=generator)
    elements = reader(domain.pad(q, reader.margin).unsqueeze(0), torch.tensor([0.3], dtype=torch.float64))[0]
    found = matrix_elements(hamiltonian, domain, q)
    for bond, values in both_ways(hamiltonian, domain, found):
        wanted = (values - (0.3 if bond == reverse(bond) else 0.0)) / 2.0
        torch.testing.assert_close(elements[..., of.bonds.index(bond)], wanted, rtol=0, atol=1e-14)
    back = reader.on_pattern(elements, np.arange(len(of)))
    shifted = torch.cat([found[..., : of.states] - 0.3, found[..., of.states :]], dim=-1)
    torch.testing.assert_close(2.0 * back, shifted, rtol=0, atol=1e-14)


def test_a_file_and_what_it_serves(tmp_path):
    """The same bits from the file; other elements than those of the training are refused in words, kT/t decides."""
    lattice, network, options = built("square", outputs=1, kT=0.02)
    system = peierls.build(peierls.Options(), lattice)
    domain, of = CartesianDomain(lattice, SerialTransport()), network.elements
    reader = ElementReader(system, of)
    q = 0.1 * torch.randn(3, *lattice.extent, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mu = torch.tensor([0.1, 0.0, -0.3], dtype=torch.float64)
    elements = reader(domain.pad(q, reader.margin), mu)
    ranges = element_ranges(elements, mu / 2.5, of)
    assert ranges["H/t on sites"] == pytest.approx((0.0, 0.0), abs=1e-15)
    assert ranges["H/t of shell 2"] == (-0.2, -0.2)
    assert float(strength(elements, of).min()) > 0.0
    ensemble = Ensemble("canonical", kT=0.05)
    how = {"data_hash": "", "seed": 0, "metrics": {}, "ranges": ranges}
    save_model(tmp_path / "m.safetensors", network, make_card(network, "enn_matrix", options, system, lattice, ensemble, **how))
    again, card = load_model(tmp_path / "m.safetensors", lattice)
    with torch.no_grad():
        assert torch.equal(again(elements), network(elements))
    check_card(card, system, ensemble, lattice)
    twice = peierls.build(peierls.Options(t0=5.0, t2=1.0, alpha=3.0), lattice)
    check_card(card, twice, Ensemble("canonical", kT=0.1), lattice)
    assert "alpha is 3 and was 4" in trained_elsewhere(card, twice, Ensemble("canonical", kT=0.1))
    with pytest.raises(ModelError, match=r"kT/t is 0.02 in the model and 0.04 in this run"):
        check_card(card, system, Ensemble("canonical", kT=0.1), lattice)
    with pytest.raises(ModelError, match=r"H/t of shell 2 is -0.4 here and was -0.2 to -0.2 in training"):
        check_card(card, peierls.build(peierls.Options(t2=1.0), lattice), ensemble, lattice)
    with pytest.raises(ModelError, match=r"H/t on sites moves with the coordinates here and was 0 in training"):
        check_card(card, holstein.build(holstein.Options(), lattice), Ensemble("canonical", kT=0.02), lattice)


def test_what_it_cannot_read_or_write_is_refused():
    lattice, near, _ = built("square", outputs=0)
    with pytest.raises(ModelError, match="need rho between neighbours of shell 1"):
        require_supported(near, peierls.build(peierls.Options(), lattice), lattice, CANONICAL)
    _, narrow, _ = built("square", shells=1, outputs=1)
    with pytest.raises(ModelError, match="the network reads no such pairs"):
        require_supported(narrow, peierls.build(peierls.Options(), lattice), lattice, CANONICAL)
    require_supported(narrow, peierls.build(peierls.Options(t2=0.0), lattice), lattice, CANONICAL)
    require_supported(near, holstein.build(holstein.Options(), lattice), lattice, CANONICAL)
    for wrong in ({"shells": 0}, {"shells": 1, "outputs": 2}, {"pair_scales": ()}, {"pair_scales": (0.0,)}):
        with pytest.raises(ConfigError, match="makes no network"):
            built("square", **wrong)


def test_fixed_parts():
    lattice = lattice_of("square")
    of = Elements.of(lattice, 2)
    assert list(fixed_parts(peierls.build(peierls.Options(), lattice), of).values()) == [(0.0, 0.0), None, (-0.2, -0.2)]
    assert list(fixed_parts(holstein.build(holstein.Options(t=2.0), lattice), of).values()) == [None, (-1.0, -1.0), (0.0, 0.0)]
    assert [len(part) for part in of.parts] == [1, 4, 4]


@each_lattice
def test_a_pattern_may_name_its_bonds_from_the_other_end(name):
    """The same forces for a Hamiltonian whose bonds begin at the sites where those of the lattice end."""
    lattice, network, _ = built(name)
    turned = Turned(lattice.name, lattice.extent, lattice.periodic, lattice.vectors, lattice.basis, lattice.generators)
    shape = *lattice.extent, len(lattice.basis), len(lattice.extent)
    q = 0.1 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other = (peierls.build(peierls.Options(), on) for on in (lattice, turned))
    assert set(one.pattern[len(lattice.basis) :]).isdisjoint(other.pattern)
    domain, ensemble = CartesianDomain(lattice, SerialTransport()), Ensemble("grand-canonical", kT=0.25)
    forces = [NeuralForces(network, hamiltonian, domain, ensemble)(State.at_rest(q)).force for hamiltonian in (one, other)]
    torch.testing.assert_close(forces[1], forces[0], rtol=0, atol=1e-12)
