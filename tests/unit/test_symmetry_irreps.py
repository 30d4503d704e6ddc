"""Real irreps against the published character tables, adapted bases and Clebsch-Gordan tensors by their definitions."""

import numpy as np
import pytest
from named_groups import named_group

from hpc_holstein.symmetry import irreps as irreps_module
from hpc_holstein.symmetry.clebsch_gordan import clebsch_gordan
from hpc_holstein.symmetry.irreps import real_irreps, symmetry_adapted_basis
from hpc_holstein.symmetry.point_group import PointGroup
from hpc_holstein.symmetry.shells import neighbour_shells

NAMES = ["C1", "C2", "C3", "C4", "C6", "D1", "D2", "D3", "D4", "D6", "T", "Th", "Td", "O", "Oh"]
HEXAGONAL = [[1.0, 0.5], [0.5, 1.0]]
QUATERNION_I = ((0, -1, 0, 0), (1, 0, 0, 0), (0, 0, 0, -1), (0, 0, 1, 0))  # left multiplication of quaternions by i and by j
QUATERNION_J = ((0, 0, -1, 0), (0, 0, 0, 1), (1, 0, 0, 0), (0, -1, 0, 0))

# Columns are one representative per class, in the basis of the primitive vectors.
D4_ELEMENTS = [((1, 0), (0, 1)), ((0, 1), (-1, 0)), ((-1, 0), (0, -1)), ((1, 0), (0, -1)), ((0, 1), (1, 0))]
D4_TABLE = {
    "A1": [1, 1, 1, 1, 1],
    "A2": [1, 1, 1, -1, -1],
    "B1": [1, -1, 1, 1, -1],
    "B2": [1, -1, 1, -1, 1],
    "E": [2, 0, -2, 0, 0],
}
# E, C6, C3, C2, mirror that keeps a_1, mirror across a_1; 60 degrees between the vectors
D6_ELEMENTS = [
    ((1, 0), (0, 1)),
    ((0, -1), (1, 1)),
    ((-1, -1), (1, 0)),
    ((-1, 0), (0, -1)),
    ((1, 1), (0, -1)),
    ((-1, -1), (0, 1)),
]
D6_TABLE = {
    "A1": [1, 1, 1, 1, 1, 1],
    "A2": [1, 1, 1, 1, -1, -1],
    "B1": [1, -1, 1, -1, 1, -1],
    "B2": [1, -1, 1, -1, -1, 1],
    "E1": [2, 1, -1, -2, 0, 0],
    "E2": [2, -1, -1, 2, 0, 0],
}
# E, C3 (111), C2' (110), C4 (z), C2 (z)
O_ELEMENTS = [
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    ((0, 1, 0), (1, 0, 0), (0, 0, -1)),
    ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
]
O_TABLE = {
    "A1": [1, 1, 1, 1, 1],
    "A2": [1, 1, -1, -1, 1],
    "E": [2, -1, 0, 0, 2],
    "T1": [3, 0, -1, 1, -1],
    "T2": [3, 0, 1, -1, -1],
}


def with_inversion(elements, table):
    inverted = [tuple(tuple(-x for x in row) for row in m) for m in elements]
    even = {name + "g": row + row for name, row in table.items()}
    odd = {name + "u": row + [-x for x in row] for name, row in table.items()}
    return elements + inverted, even | odd


OH = ("Oh", *with_inversion(O_ELEMENTS, O_TABLE))


@pytest.mark.parametrize("name", NAMES)
def test_irreps_represent_the_group(name):
    group = named_group(name)
    irreps = real_irreps(group)
    characters = np.array([irrep.character for irrep in irreps])
    commutants = np.array([irrep.commutant_dimension for irrep in irreps])
    assert sum(irrep.dimension**2 / irrep.commutant_dimension for irrep in irreps) == group.order
    np.testing.assert_allclose(characters @ characters.T / group.order, np.diag(commutants), atol=1e-13)
    np.testing.assert_array_equal(irreps[0].matrices, np.ones((group.order, 1, 1)))
    for irrep in irreps:
        products = np.einsum("gij,hjk->ghik", irrep.matrices, irrep.matrices)
        np.testing.assert_allclose(products, irrep.matrices[group.product_table], atol=1e-13)
        squares = irrep.matrices @ irrep.matrices.transpose(0, 2, 1)
        np.testing.assert_allclose(squares, np.broadcast_to(np.eye(irrep.dimension), squares.shape), atol=1e-13)


@pytest.mark.parametrize(
    ("name", "elements", "table"),
    [("D4", D4_ELEMENTS, D4_TABLE), ("D6", D6_ELEMENTS, D6_TABLE), ("O", O_ELEMENTS, O_TABLE), OH],
)
def test_published_character_tables(name, elements, table):
    group = named_group(name)
    columns = [group.matrices.index(element) for element in elements]
    found = sorted(tuple(irrep.character[columns].round(12) + 0.0) for irrep in real_irreps(group))
    assert found == sorted(tuple(map(float, row)) for row in table.values())


def test_irreps_of_the_square_come_in_the_order_of_its_table():
    """Which the channels of a stored network follow."""
    group = named_group("D4")
    columns = [group.matrices.index(element) for element in D4_ELEMENTS]
    assert [irrep.character[columns].round(12).tolist() for irrep in real_irreps(group)] == list(D4_TABLE.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C3", "1 2*"),
        ("C4", "1 1 2*"),
        ("C6", "1 1 2* 2*"),
        ("D1", "1 1"),
        ("D2", "1 1 1 1"),
        ("D3", "1 1 2"),
        ("Td", "1 1 2 3 3"),
        ("Th", "1 1 2* 2* 3 3"),
    ],
)
def test_dimensions_and_types(name, expected):
    assert [f"{i.dimension}" + "*" * (i.type == "complex") for i in real_irreps(named_group(name))] == expected.split()


def test_vectors_of_space_are_an_irrep_of_the_cube():
    group = named_group("Oh")
    vector = np.trace(group.array, axis1=1, axis2=2)
    assert sum(np.allclose(irrep.character, vector, atol=1e-13) for irrep in real_irreps(group)) == 1


def test_four_dimensional_group_of_quaternionic_type():
    irreps = real_irreps(PointGroup.from_generators([QUATERNION_I, QUATERNION_J]))
    assert [(i.dimension, i.type) for i in irreps] == [(1, "real")] * 4 + [(4, "quaternionic")]
    assert irreps[4].commutant_dimension == 4


@pytest.mark.parametrize("name", ["C4", "C6", "D4", "D6", "Td", "Oh"])
def test_matrices_do_not_depend_on_the_random_start(name, monkeypatch):
    group = named_group(name)
    before = real_irreps(group)
    monkeypatch.setattr(irreps_module, "_SEED", 7)
    after = real_irreps.__wrapped__(group)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a.matrices, b.matrices, atol=1e-12)


def test_square_doublet_is_the_vector():
    doublet = real_irreps(named_group("D4"))[4].matrices
    signs = np.diag([1, -1])  # basis (y, -x)
    np.testing.assert_array_equal(doublet, signs @ named_group("D4").array @ signs)


def test_published_decomposition_of_45_sites():
    group = named_group("D4")
    permutations = group.site_permutations(np.concatenate(neighbour_shells(np.eye(2), 13)))
    copies = [len(symmetry_adapted_basis(permutations, irrep)) for irrep in real_irreps(group)]
    assert copies == [9, 3, 6, 5, 11]  # A1, A2, B1, B2, E


@pytest.mark.parametrize(
    ("name", "gram", "radius"),
    [
        ("D4", np.eye(2), 13),
        ("C4", np.eye(2), 13),
        ("D2", np.eye(2), 5),
        ("D6", HEXAGONAL, 7),
        ("C6", HEXAGONAL, 7),
        ("Oh", np.eye(3), 5),
        ("Td", np.eye(3), 3),
    ],
)
def test_adapted_basis_is_complete_and_transforms_exactly(name, gram, radius):
    group = named_group(name)
    shells = neighbour_shells(gram, radius)
    permutations = group.site_permutations(np.concatenate(shells))
    sites = permutations.shape[1]
    shell_of = np.repeat(np.arange(len(shells)), [len(s) for s in shells])
    rows = []
    for irrep in real_irreps(group):
        basis = symmetry_adapted_basis(permutations, irrep)
        for g in range(group.order):
            moved = np.empty_like(basis)
            moved[:, :, permutations[g]] = basis  # (P_g b)(g i) = b(i)
            np.testing.assert_allclose(moved, np.einsum("kj,mki->mji", irrep.matrices[g], basis), atol=1e-12)
        for copy in basis:
            assert len(set(shell_of[np.abs(copy).max(axis=0) > 1e-9])) == 1
            first = copy[0][np.abs(copy[0]) > 1e-9][0]
            assert irrep.dimension > 1 or first > 0
        rows.append(basis.reshape(-1, sites))
    complete = np.concatenate(rows)
    np.testing.assert_allclose(complete @ complete.T, np.eye(sites), atol=1e-12)


@pytest.mark.parametrize("name", ["C4", "C6", "D2", "D4", "D6", "T", "Td", "Oh"])
def test_clebsch_gordan(name):
    irreps = real_irreps(named_group(name))
    for a in irreps:
        for b in irreps:
            states = []
            for c in irreps:
                tensors = clebsch_gordan(a, b, c)
                left = np.einsum("gij,gkl,mjln->gmikn", a.matrices, b.matrices, tensors)
                right = np.einsum("mikp,gpn->gmikn", tensors, c.matrices)
                np.testing.assert_allclose(left, right, atol=1e-12)
                states += [t.reshape(-1, c.dimension).T for t in tensors]
            product = np.concatenate(states)
            np.testing.assert_allclose(product @ product.T, np.eye(a.dimension * b.dimension), atol=1e-12)


def test_product_of_two_square_doublets():
    a1, a2, b1, b2, e = real_irreps(named_group("D4"))
    half = np.sqrt(0.5)
    expected = {a1: [[1, 0], [0, 1]], a2: [[0, 1], [-1, 0]], b1: [[1, 0], [0, -1]], b2: [[0, 1], [1, 0]]}
    for irrep, matrix in expected.items():
        np.testing.assert_allclose(clebsch_gordan(e, e, irrep)[0, :, :, 0], half * np.array(matrix), atol=1e-15)
    assert clebsch_gordan(e, e, e).shape == (0, 2, 2, 2)
