"""The parts of the PETSc forces: poles against scalar functions, rows and block system against dense ones, options, errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.special import expit

from hpc_holstein.config import load_config
from hpc_holstein.config.loading import config_of_text
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import _petsc, exact, petsc
from hpc_holstein.forces._columns import assemble
from hpc_holstein.forces._petsc_options import require_solver_options
from hpc_holstein.forces._poles import PoleExpansion
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.hamiltonian._base import LatticeHamiltonian, displaced
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

GRAND_CANONICAL = Ensemble("grand-canonical", 0.1, chemical_potential=0.3)


def random_q(*extent, std=2.0, seed=0):
    return std * torch.randn(*extent, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(extent, ensemble=GRAND_CANONICAL, kind=petsc, transport=None, periodic=(True, True), hamiltonian=None, **options):
    lattice = square.build(extent, periodic)
    h = hamiltonian(lattice) if hamiltonian else holstein.build(holstein.Options(), lattice)
    return kind.build(kind.Options(**options), h, CartesianDomain(lattice, transport or SerialTransport()), ensemble)


# ---- poles ---------------------------------------------------------------------------------------------------------------


def value(weights, expansion, energies):
    """The expansion at ``energies``, by the formula of its documentation."""
    z = expansion.centre + 1j * expansion.heights
    return weights.constant + weights.slope * energies + (weights.poles / (energies[:, None] - z)).real.sum(axis=1)


@pytest.mark.parametrize(("half_width", "kT"), [(70.0, 0.1), (9.0, 0.1), (70.0, 1e-3), (12.0, 5.0), (1.0, 30.0)])
@pytest.mark.parametrize("error", [1e-3, 1e-6, 1e-9])
def test_poles_represent_the_fermi_function(half_width, kT, error):
    """At energies that are not those of the fit, hence the factor; the error that is told is the one that is found."""
    expansion = PoleExpansion(0.7, half_width, kT, error)
    energies = 0.7 + half_width * np.random.default_rng(1).uniform(-1, 1, 20_000)
    energies = np.concatenate([energies, 0.7 + 20 * kT * np.linspace(-1, 1, 2_001)])
    energies = energies[abs(energies - 0.7) <= half_width]
    weights = expansion.fermi(0.7)
    found = abs(value(weights, expansion, energies) - expit((0.7 - energies) / kT)).max()
    assert found <= 1.2 * error
    assert found <= 1.2 * weights.error + 1e-13
    assert (expansion.heights > 0).all()


@pytest.mark.parametrize(("half_width", "kT"), [(70.0, 0.1), (25.0, 0.1), (40.0, 1.0)])
def test_a_window_tells_the_density_beside_its_centre_and_the_grand_potential(half_width, kT):
    expansion = PoleExpansion(-0.2, half_width, kT, 1e-7, window=0.3)
    energies = -0.2 + half_width * np.linspace(-1, 1, 40_001)
    for shift in (-0.3, -0.1, 0.0, 0.3):
        mu = -0.2 + shift * kT
        weights, grand = expansion.fermi(mu), expansion.grand_potential(mu)
        assert abs(value(weights, expansion, energies) - expit((mu - energies) / kT)).max() <= 1.2e-7
        exact_omega = -kT * np.logaddexp(0, (mu - energies) / kT)
        assert abs(value(grand, expansion, energies) - exact_omega).max() <= 2 * grand.error
        assert grand.error <= 3e-7 * kT
    outside = expansion.fermi(-0.2 + 5 * kT)
    assert outside.error > 1e-5  # which is told


def test_poles_are_few_and_their_number_grows_as_the_logarithm():
    """The published contour takes about 40 at the first of these."""
    assert len(PoleExpansion(0, 70, 0.1, 1e-7).heights) <= 12
    counts = [len(PoleExpansion(0, width, 0.1, 1e-6).heights) for width in (7, 70, 700)]
    assert counts == sorted(counts)
    assert counts[2] <= 2 * counts[0]


def test_more_poles_than_there_may_be():
    with pytest.raises(SpectrumError, match=r"kT = 1e-09 .* more than 60 poles .* raise kT or the tolerance"):
        PoleExpansion(0.0, 70.0, 1e-9, 1e-9)


# ---- rows and block system -----------------------------------------------------------------------------------------------


def dense(extent, periodic, q):
    return make(extent, kind=exact, periodic=periodic)._matrix(q).numpy()


@pytest.mark.parametrize("periodic", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("extent", [(5, 4), (2, 3)])
def test_rows_are_those_of_the_dense_matrix(extent, periodic):
    q = random_q(*extent)
    lattice = square.build(extent, periodic)
    rows = assemble(holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport()), q)
    matrix = csr_array((rows.values, rows.columns, rows.starts)).toarray()
    assert np.array_equal(matrix, dense(extent, periodic, q))
    assert np.array_equal(rows.values[rows.diagonal], np.diag(matrix))
    energies = np.linalg.eigvalsh(matrix)
    low, high = rows.bounds()
    assert low <= energies[0]
    assert energies[-1] <= high


@pytest.mark.parametrize(
    "defaults", [(_petsc._FACTORIZE,), (_petsc._ITERATE + "60",), (_petsc._ITERATE + "1", _petsc._FACTORIZE)]
)
def test_block_system_solves_the_complex_one(defaults):
    """Directly, iteratively, and by the second choice where the first gives up."""
    q = random_q(6, 5)
    lattice = square.build((6, 5))
    rows = assemble(holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport()), q)
    system = _petsc.BlockSystem("", defaults)
    system.load(rows, 1e-12)
    matrix = dense((6, 5), (True, True), q)
    for number, z in enumerate((0.3 + 0.31j, -1.0 + 4.0j)):
        system.shift(z)
        b = np.random.default_rng(2).normal(size=30)
        x = system.solve(b)
        assert np.allclose(x, np.linalg.solve(matrix - z * np.eye(30), b), atol=1e-10, rtol=0)
        assert system.solved == number + 1
    assert system.residual <= 1e-11


def test_a_metal_is_factorized():
    """Without a field levels are extended, and the iteration gives up once; in a hot state it takes a few steps."""
    lattice = square.build((70, 70))
    for std in (0.0, 5.27):
        q = random_q(70, 70, std=std)
        rows = assemble(holstein.build(holstein.Options(), lattice), CartesianDomain(lattice, SerialTransport()), q)
        system = _petsc.BlockSystem("", _petsc._alone(sites=4900, factorize=True))
        system.load(rows, 1e-10)
        system.shift(0.05 + 0.314j)
        for site in (35, 60):
            system.solve(np.eye(1, 4900, site)[0])
        if std == 0:
            assert system.iterations == 60 + 2
            assert system.residual < 1e-13
        else:
            assert 4 <= system.iterations <= 20
            assert 1e-13 < system.residual <= 1e-10


# ---- a Hamiltonian whose bonds move --------------------------------------------------------------------------------------


class Bonds(holstein.Holstein):
    """Holstein whose hopping depends on the coordinate where the bond starts: off-diagonal entries of rho are needed."""

    electronic_force = LatticeHamiltonian.electronic_force

    def matrix(self, ghosted_q, halo):
        first, q = len(self.lattice.basis), displaced(ghosted_q, halo, (0, 0))
        entries = super().matrix(ghosted_q, halo)
        return torch.cat([entries[..., :first], entries[..., first:] * (1 + 0.4 * torch.tanh(q[..., 0]))], dim=-1)


def moving_bonds(lattice):
    return Bonds(lattice, holstein.Options())


def test_off_diagonal_entries():
    """At all sites and at sampled ones."""
    q = random_q(10, 10, seed=4)
    wanted = make((10, 10), kind=exact, hamiltonian=moving_bonds)(State.at_rest(q))
    whole = make((10, 10), hamiltonian=moving_bonds)(State.at_rest(q))
    assert torch.allclose(whole.force, wanted.force, atol=1e-6, rtol=0)
    some = make((10, 10), hamiltonian=moving_bonds, sites=7)(State.at_rest(q))
    kept = ~torch.isnan(some.force)
    assert int(kept.sum()) == 7
    assert torch.allclose(some.force[kept], wanted.force[kept], atol=1e-6, rtol=0)


def test_more_ranks_than_poles_share_the_vectors():
    """At high temperature five poles suffice; on six ranks one of them is solved by two."""
    ensemble = Ensemble("grand-canonical", 20.0)
    q = random_q(6, 6)
    alone = make((6, 6), ensemble)(State.at_rest(q))
    assert alone.info["poles"] < 6

    def body(transport):
        forces = make((6, 6), ensemble, transport=transport)
        tile = tuple(slice(*span) for span in forces.domain.owned)
        return tile, forces(State.at_rest(q[tile].contiguous()))

    for tile, result in run_in_process(6, body):
        assert torch.allclose(result.force, alone.force[tile], atol=1e-12, rtol=0)
        assert result.info["right_hand_sides"] == alone.info["right_hand_sides"]


# ---- options of PETSc ----------------------------------------------------------------------------------------------------


def solve(**options):
    return make((8, 8), **options)(State.at_rest(random_q(8, 8)))


def test_options_reach_the_solver_and_leave_no_trace():
    from petsc4py import PETSc

    before = PETSc.Options().getAll()
    direct, iterative = solve(), solve(petsc="-ksp_type bcgs -pc_type ilu -pc_factor_levels 1 -ksp_rtol 1e-9")
    assert direct.info["iterations"] == direct.info["right_hand_sides"]
    assert iterative.info["iterations"] > 1.5 * iterative.info["right_hand_sides"]
    assert 1e-14 < iterative.info["linear_residual"] < 1e-6
    assert torch.allclose(direct.force, iterative.force, atol=1e-6, rtol=0)
    assert PETSc.Options().getAll() == before


def test_options_of_the_environment_hold_unless_others_are_given():
    """PETSC_OPTIONS fills the database when PETSc starts; the defaults must not overwrite it."""
    from petsc4py import PETSc

    database = PETSc.Options()
    database.setValue("holstein_ksp_type", "gmres")
    database.setValue("holstein_pc_type", "ilu")
    try:
        from_environment, given = solve(), solve(petsc="-ksp_type preonly -pc_type lu")
        assert database.getAll()["holstein_ksp_type"] == "gmres"
    finally:
        database.delValue("holstein_ksp_type")
        database.delValue("holstein_pc_type")
    assert from_environment.info["iterations"] > from_environment.info["right_hand_sides"]
    assert given.info["iterations"] == given.info["right_hand_sides"]


@pytest.mark.parametrize(
    ("text", "error", "told"),
    [
        ("-ksp_rtoll 1e-9", ConfigError, "petsc option '-ksp_rtoll' means nothing .* PETSC_OPTIONS"),
        ("-ksp_type gmers", ConfigError, "Unable to find requested KSP type gmers"),
        ("-ksp_type gmres -pc_type none -ksp_max_it 3", SpectrumError, "DIVERGED_MAX_IT after 3 iterations"),
        ("-ksp_type gmres -pc_type jacobi -ksp_rtol 0.1", SpectrumError, "residual of .* -ksp_rtol 1e-12"),
        ("-pc_type jacobi", SpectrumError, "residual of .* such as petsc = '-ksp_type gmres"),
    ],
)
def test_options_that_do_not_work(text, error, told):
    with pytest.raises(error, match=told) as caught:
        solve(petsc=text)
    assert "\n" not in str(caught.value)
    assert torch.isfinite(solve().force).all()  # nothing of it stays behind


@pytest.mark.parametrize(
    "text",
    [
        "-ksp_view :written.txt",
        "-ksp_view ascii:written.txt:ascii_info",
        "-ksp_monitor ascii:written.txt",
        "-ksp_monitor -ksp_view_mat binary",
        "-ksp_view_solution hdf5:written.h5",
        "-ksp_converged_reason ::ascii_info_detail:append -ksp_view_rhs :/tmp/written",
        "-mat_view draw",
        "-sub_ksp_view socket",
        "-options_file written",
        "-options_file_yaml written",
        "-prefix_pop -log_view :written",
        "-log_view",
        "-malloc_dump written",
        "-info :written",
        "-dll_append ./lib.so",
        "-pc_type python -pc_python_type module.Class",
        "-pc_python_type module",
        "-ksp_type python",
        "-ksp_monitor_python module.function",
        "-mat_mumps_ooc_tmpdir 5",
        "-pc_bddc_save 1",
        "-pc_asm_print_subdomains 1",
        "-mat_h2opus_vieweps_filename x",
        "-ksp_rtol /etc/passwd",
        "-pc_type ../lu",
        "-ksp_tpye gmres",
        "-KSP_VIEW :written",
    ],
)
def test_a_configuration_gives_no_option_that_names_a_file_or_loads_code(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"is not one that a configuration may give: it takes those of the solver") as caught:
        solve(petsc=text)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_gives_options_of_solvers():
    for text in (
        "",
        "-ksp_type bcgs -ksp_monitor -pc_type bjacobi",
        "-ksp_pc_side right -ksp_max_it 100 -ksp_rtol 1e-9 -ksp_gmres_restart 30",
        "-ksp_view -ksp_view ::ascii_info_detail -ksp_converged_reason ascii",
        "-pc_type asm -pc_asm_overlap 2 -sub_pc_type ilu -sub_pc_factor_levels 2",
        "-pc_factor_mat_solver_type mumps -mat_mumps_icntl_14 -50 -mat_mumps_cntl_1 .01",
        "-pc_type gamg -pc_gamg_threshold 0.1,0.05 -mg_levels_ksp_type richardson -pc_mg_galerkin true",
        "-pc_type composite -pc_composite_pcs ilu,jacobi -pc_factor_mat_ordering_type nd",
    ):
        require_solver_options(text)
    with pytest.raises(ConfigError, match="petsc = 'ksp_type gmres' does not start with the name of an option"):
        require_solver_options("ksp_type gmres")


# ---- what cannot be done -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ensemble", "error", "told"),
    [
        ({}, Ensemble("grand-canonical", 0.0), SpectrumError, "kT = 0 .* give kT > 0, or use force kind 'exact'"),
        ({}, Ensemble("canonical", 0.1, filling=1.0), SpectrumError, "filling = 1.0"),
        ({"tolerance": 1e-12}, GRAND_CANONICAL, ConfigError, "tolerance = 1e-12 .* from 1e-09 to 1"),
        ({"tolerance": float("nan")}, GRAND_CANONICAL, ConfigError, "tolerance = nan"),
        ({"sites": -1}, GRAND_CANONICAL, ConfigError, "sites = -1"),
        ({"sites": 65}, GRAND_CANONICAL, ConfigError, "sites = 65 .* 1 to 64"),
        ({"sites": 3, "seed": -1}, GRAND_CANONICAL, ConfigError, "seed = -1"),
    ],
)
def test_what_cannot_be_built(options, ensemble, error, told):
    with pytest.raises(error, match=told):
        make((8, 8), ensemble, **options)


def test_coordinates_that_are_not_finite():
    q = random_q(8, 8)
    q[3, 4] = torch.nan
    with pytest.raises(SpectrumError, match="1 coordinates at step 0 are NaN"):
        make((8, 8))(State.at_rest(q))


def test_sampled_sites_in_a_canonical_ensemble_need_a_mu():
    with pytest.raises(ConfigError, match="chemical potential of the whole lattice"):
        make((8, 8), Ensemble("canonical", 0.1), sites=3)(State.at_rest(random_q(8, 8)))


def test_lattices_that_are_too_large(monkeypatch):
    told = r"forces of up to 2048 states and this lattice has 2116: give sites = 64, .* or use force kind 'kpm'"
    with pytest.raises(ConfigError, match=told):
        make((46, 46))
    monkeypatch.setattr(_petsc, "usable_bytes", lambda device: 1e6)
    with pytest.raises(ConfigError, match=r"each rank holds the matrix of all 2116 states, 0\.00493 GiB, .* start fewer ranks"):
        make((46, 46), sites=4)


def test_a_key_of_earlier_versions_is_told_and_read_in_stored_configurations():
    given = {"lattice.extent": [6, 6], "force.kind": "petsc"}
    text = load_config(preset_name="paper-2601.04104", overrides=given).toml()
    assert config_of_text(text.replace('kind = "petsc"', 'kind = "petsc"\ndistribute = "auto"')).toml() == text
    with pytest.raises(ConfigError, match=r"force\.distribute is a key of earlier versions, each rank holds the whole matrix"):
        load_config(preset_name="paper-2601.04104", overrides={**given, "force.distribute": "lattice"})


@pytest.fixture
def _unloaded():
    _petsc._petsc.cache_clear()
    yield
    _petsc._petsc.cache_clear()


@pytest.mark.usefixtures("_unloaded")
def test_petsc_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "petsc4py", None)
    with pytest.raises(ConfigError, match=r"needs petsc4py, which cannot be imported .* pip install 'hpc_holstein\[petsc\]'"):
        make((8, 8))


@pytest.mark.usefixtures("_unloaded")
@pytest.mark.parametrize(("scalar", "named"), [(np.complex128, "complex128"), (np.float32, "float32")])
def test_petsc_of_other_numbers(monkeypatch, scalar, named):
    from petsc4py import PETSc

    monkeypatch.setattr(PETSc, "ScalarType", scalar)
    with pytest.raises(ConfigError, match=f"this PETSc computes with {named}: install one of real double precision"):
        make((8, 8))
