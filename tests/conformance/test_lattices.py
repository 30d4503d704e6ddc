"""Every lattice: bonds closed under its symmetry, which permutes the sites of a cell."""

import itertools

import numpy as np
import pytest
from conformance.cases import LATTICES, build_lattice

from hpc_holstein.errors import ConfigError

each_lattice = pytest.mark.parametrize("name", LATTICES)


def shells(lattice):
    for shell in itertools.count(1):
        try:
            yield lattice.bonds(shell)
        except ConfigError:
            return


def displacements(lattice, bonds):
    """Vectors along the bonds, both ways, in units of the lattice constant, ``[2 bonds, dimension]``."""
    vectors, basis = np.asarray(lattice.vectors), np.asarray(lattice.basis)
    along = np.array([np.asarray(b.offset) @ vectors + basis[b.target] - basis[b.source] for b in bonds])
    return np.concatenate([along, -along])


@each_lattice
def test_point_group_preserves_distances(name):
    lattice = build_lattice(name, 6)
    vectors = np.asarray(lattice.vectors)
    for matrix in lattice.point_group.array:
        rotation = vectors.T @ matrix @ np.linalg.inv(vectors.T)
        assert np.allclose(rotation @ rotation.T, np.eye(len(vectors)))


@each_lattice
def test_bonds_are_closed_under_the_point_group(name):
    """Each shell has one length, each bond once, and every element maps the shell onto itself."""
    lattice = build_lattice(name, 6)
    vectors, lengths = np.asarray(lattice.vectors), []
    for bonds in shells(lattice):
        along = displacements(lattice, bonds)
        length = np.linalg.norm(along, axis=1)
        assert np.allclose(length, length[0])
        lengths.append(length[0])
        keyed = {(b.source, b.target, b.offset) for b in bonds} | {
            (b.target, b.source, tuple(-step for step in b.offset)) for b in bonds
        }
        assert len(keyed) == 2 * len(bonds)
        known = {tuple(row) for row in np.round(along, 9) + 0.0}
        for matrix in lattice.point_group.array:
            rotation = vectors.T @ matrix @ np.linalg.inv(vectors.T)
            assert {tuple(row) for row in np.round(along @ rotation.T, 9) + 0.0} == known
    assert lengths == sorted(lengths)
    assert lengths


@each_lattice
def test_symmetry_permutes_the_sites(name):
    """``site`` and ``cell`` move each site where its rotation moves it, about one point, and compose like the group."""
    lattice = build_lattice(name, 6)
    group, vectors, basis = lattice.symmetry, np.asarray(lattice.vectors), np.asarray(lattice.basis)
    images = group.cell @ vectors + basis[group.site]  # [g, basis, dim]
    shift = images - np.einsum("gij,bj->gbi", group.rotations, basis)  # (1 - R) origin, the same for all sites
    assert np.allclose(shift, shift[:, :1])
    fixed = np.eye(len(vectors)) - group.rotations
    origin = np.linalg.lstsq(fixed.reshape(-1, len(vectors)), shift[:, 0].reshape(-1), rcond=None)[0]
    assert np.allclose(fixed @ origin, shift[:, 0])
    table, matrices = group.point_group.product_table, group.point_group.array
    for g, h in itertools.product(range(group.point_group.order), repeat=2):
        assert (group.site[g][group.site[h]] == group.site[table[g, h]]).all()
        assert (group.cell[h] @ matrices[g].T + group.cell[g][group.site[h]] == group.cell[table[g, h]]).all()


@each_lattice
def test_bonds_are_those_of_the_symmetry(name):
    """Every element takes the bonds of a shell, cells and sites, to bonds of it."""
    lattice = build_lattice(name, 6)
    group = lattice.symmetry
    for bonds in shells(lattice):
        directed = {(b.source, b.target, b.offset) for b in bonds}
        directed |= {(t, s, tuple(-step for step in o)) for s, t, o in directed}
        for g, matrix in enumerate(group.point_group.array):
            moved_bonds = {
                (group.site[g, s], group.site[g, t], tuple((matrix @ o + group.cell[g, t] - group.cell[g, s]).tolist()))
                for s, t, o in directed
            }
            assert moved_bonds == directed


@each_lattice
def test_size_costs_nothing(name):
    small, large = build_lattice(name, 4), build_lattice(name, 10**6)
    assert large.bonds(1) == small.bonds(1)
    dimension = len(small.extent)
    assert large.sites == small.sites * (10**6 // 4) ** dimension
