"""Which provider ``auto`` chooses, and that it says so."""

from __future__ import annotations

import logging

import h5py
import pytest
import torch

from hpc_holstein.cli import main
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, SpectrumError
from hpc_holstein.forces import auto, exact, kpm
from hpc_holstein.forces._exact import ExactForces
from hpc_holstein.forces._kpm import KPMForces
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

CANONICAL = Ensemble("canonical", 0.1)


def build(kind, extent, ensemble=CANONICAL, transport=None, **options):
    lattice = square.build(extent)
    domain = CartesianDomain(lattice, transport or SerialTransport())
    return kind.build(kind.Options(**options), holstein.build(holstein.Options(), lattice), domain, ensemble)


def random_q(extent):
    generator = torch.Generator().manual_seed(3)
    return 2 * torch.randn(*extent, 1, 1, generator=generator, dtype=torch.float64)


def test_each_side_of_the_crossing():
    assert auto.choose(1000, 0.1)[0] == "exact"
    assert auto.choose(1001, 0.1) == ("kpm", "auto: kpm, 1,001 sites > 1,000")
    assert auto.choose(10**6, 0.0) == ("exact", "auto: exact, kT = 0")


def test_forces_are_those_of_the_chosen_one(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    q = random_q((6, 8))
    small = build(auto, (6, 8))
    assert "auto: exact, 48 sites <=" in caplog.text
    assert (small.tolerance, small.reach) == (ExactForces.tolerance, None)
    assert torch.equal(small(State.at_rest(q)).force, build(exact, (6, 8))(State.at_rest(q)).force)
    monkeypatch.setattr(auto, "MOST_SITES", 40)
    caplog.clear()
    large = build(auto, (6, 8), tolerance=1e-4)
    assert "auto: kpm, 48 sites >" in caplog.text
    assert large.tolerance == 1e-4
    assert torch.equal(large(State.at_rest(q)).force, build(kpm, (6, 8), tolerance=1e-4)(State.at_rest(q)).force)


def test_the_choice_does_not_depend_on_the_ranks(monkeypatch):
    monkeypatch.setattr(auto, "MOST_SITES", 70)
    for extent, kind in (((8, 8), ExactForces), ((8, 10), KPMForces)):
        assert isinstance(build(auto, extent), kind)
        made = run_in_process(4, lambda transport, extent=extent: build(auto, extent, transport=transport))
        assert all(isinstance(one, kind) for one in made)


def test_bad_options_are_refused():
    for tolerance in (0.0, -1.0, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"tolerance = .* is not a force error"):
            build(auto, (4, 4), tolerance=tolerance)
    with pytest.raises(SpectrumError, match=r"filling = 1\.5"):
        build(auto, (4, 4), Ensemble("canonical", 0.1, filling=1.5))
    assert isinstance(build(auto, (4, 4), Ensemble("canonical", 0.0)), ExactForces)


def test_a_run_says_what_was_chosen(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = ["run", "--preset", "paper-2601.04104", "--lattice", "6x6", "--steps", "1", "--output", "r"]
    assert main([*run, "--force", "auto", "--set", "force.tolerance=0.001"]) == 0
    assert "auto: exact, 36 sites <=" in caplog.text
    with h5py.File(tmp_path / "r" / "trajectory.h5") as file:
        assert file.attrs["provider.chosen"] == "exact"


def test_labels_say_what_was_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["label", "--lattice", "6x6", "--random", "1", "--force", "auto", "--output", "a.h5"]) == 0
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file["force"].attrs["provider"], file["force"].attrs["provider.chosen"]) == ("auto", "exact")
