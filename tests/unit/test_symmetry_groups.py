"""Finite groups: classes, orders, permutations of sites, shells, particle-hole exchange."""

import numpy as np
import pytest
from named_groups import named_group

from hpc_holstein.errors import ConfigError
from hpc_holstein.lattice import square
from hpc_holstein.symmetry.internal import ParticleHoleGroup
from hpc_holstein.symmetry.shells import neighbour_shells

HEXAGONAL = [[1.0, 0.5], [0.5, 1.0]]


@pytest.mark.parametrize(
    ("name", "order", "classes"),
    [
        ("C1", 1, 1),
        ("C4", 4, 4),
        ("D2", 4, 4),
        ("D3", 6, 3),
        ("D4", 8, 5),
        ("D6", 12, 6),
        ("T", 12, 4),
        ("Td", 24, 5),
        ("O", 24, 5),
        ("Th", 24, 8),
        ("Oh", 48, 10),
    ],
)
def test_order_and_classes(name, order, classes):
    group = named_group(name)
    assert group.order == order
    assert len(group.conjugacy_classes) == classes
    assert sorted(g for members in group.conjugacy_classes for g in members) == list(range(order))
    for members in group.conjugacy_classes:  # conjugates share trace, determinant and order
        assert len({(np.trace(group.array[g]), round(np.linalg.det(group.array[g]))) for g in members}) == 1
        assert len({order_of(group.array[g]) for g in members}) == 1


def order_of(matrix):
    """The smallest ``n > 0`` with ``M^n = 1``."""
    return next(n for n in range(1, 7) if (np.linalg.matrix_power(matrix, n) == np.eye(len(matrix))).all())


def test_square_lattice_has_the_named_group():
    assert square.build((4, 4)).point_group == named_group("D4")


def test_shells_of_the_square_lattice():
    shells = neighbour_shells(np.eye(2), 13)
    assert [int((s[0] ** 2).sum()) for s in shells] == [0, 1, 2, 4, 5, 8, 9, 10, 13]
    assert [len(s) for s in shells] == [1, 4, 4, 4, 8, 4, 4, 8, 8]


def test_shells_of_the_triangular_and_the_cubic_lattice():
    assert [len(s) for s in neighbour_shells(HEXAGONAL, 7)] == [1, 6, 6, 6, 12]
    assert [len(s) for s in neighbour_shells(np.eye(3), 3)] == [1, 6, 12, 8]


@pytest.mark.parametrize("gram", [[[1.0, 2.0], [2.0, 1.0]], [[1.0, 0.5], [0.0, 1.0]]])
def test_shells_of_no_lattice(gram):
    with pytest.raises(ConfigError, match="positive definite"):
        neighbour_shells(gram, 4)


def test_negative_radius():
    with pytest.raises(ConfigError, match="-1"):
        neighbour_shells(np.eye(2), -1)


@pytest.mark.parametrize(("name", "gram"), [("D4", np.eye(2)), ("D6", HEXAGONAL), ("C6", HEXAGONAL), ("Oh", np.eye(3))])
def test_site_permutations(name, gram):
    group = named_group(name)
    offsets = np.concatenate(neighbour_shells(gram, 7))
    permutations = group.site_permutations(offsets)
    for g in range(group.order):
        np.testing.assert_array_equal(offsets[permutations[g]], offsets @ group.array[g].T)
        for h in range(group.order):
            np.testing.assert_array_equal(permutations[g][permutations[h]], permutations[group.product_table[g, h]])


def test_sites_that_are_not_closed():
    with pytest.raises(ConfigError, match=r"\(0, -1\) is missing"):
        named_group("D4").site_permutations([[0, 0], [1, 0], [-1, 0], [0, 1]])


def test_particle_hole_group():
    spatial = named_group("D4")
    group = ParticleHoleGroup(spatial)
    table, parity = group.product_table, group.parity
    assert group.order == 16
    for x in range(16):
        assert table[x, group.inverse[x]] == 0
        for y in range(16):
            assert table[x, y] % 8 == spatial.product_table[x % 8, y % 8]
            assert parity[table[x, y]] == parity[x] * parity[y]
    np.testing.assert_array_equal(parity, [1] * 8 + [-1] * 8)
    for irrep in group.irreps:
        products = np.einsum("gij,hjk->ghik", irrep.matrices, irrep.matrices)
        np.testing.assert_allclose(products, irrep.matrices[table], atol=1e-13)
    characters = np.array([irrep.character for irrep in group.irreps])
    np.testing.assert_allclose(characters @ characters.T, 16 * np.eye(10), atol=1e-12)
    np.testing.assert_array_equal(group.irreps[5].character, parity)
