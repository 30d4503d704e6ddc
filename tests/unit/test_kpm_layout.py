"""Layout and memory of the KPM forces, and their refusals."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_kpm import CANONICAL, KT, random_q, system

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, run_in_process
from hpc_holstein.errors import ConfigError, DomainError, SpectrumError
from hpc_holstein.forces import _memory, kpm
from hpc_holstein.forces._kernel_layout import Layout, orders_kept
from hpc_holstein.forces._stencil import Stencil
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

# --- layout and memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("extent", [(6, 6), (24, 30), (400, 12), (2000, 2000)])
def test_layouts_fit_the_tiles_and_are_the_same_on_all_ranks(extent, beyond, dtype):
    def body(transport):
        domain = CartesianDomain(square.build(extent), transport)
        layout = Layout.of(domain, 1, beyond, dtype)
        domain.require_halo(max(w for w, parts in zip(layout.widths, domain.grid, strict=True) if parts > 1))
        return layout

    for ranks in (2, 4, 6):
        layouts = set(run_in_process(ranks, body))
        assert len(layouts) == 1
        layout = layouts.pop()
        assert layout.lanes * dtype.itemsize == 64
        assert layout.window & (layout.window - 1) == 0
    alone = Layout.of(CartesianDomain(square.build(extent), SerialTransport()), 1, beyond, dtype)
    assert (alone.window > 1) == (math.prod(extent) > 10_000)  # of two orders of a block, the cache of a core holds as much


def test_as_many_orders_are_kept_as_take_no_more_memory_than_the_vectors():
    assert orders_kept(10_000, 10) == 64
    assert orders_kept(10_000, 250) == 32
    assert orders_kept(10_000, 100_000) == 16
    assert orders_kept(10_000, 0) == 64


MEMORY = """
import torch
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.forces import kpm
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, State
from hpc_holstein.lattice import square

def resident(kind):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))

def provider(length):
    lattice = square.build((length, length))
    domain = CartesianDomain(lattice, SerialTransport())
    options, hamiltonian = kpm.Options(tolerance=1e-3), holstein.build(holstein.Options(), lattice)
    return kpm.build(options, hamiltonian, domain, Ensemble("canonical", 2.0))

torch.set_num_threads(1)
provider(20)(State.at_rest(torch.zeros(20, 20, 1, 1, dtype=torch.float64)))
q = torch.randn(400, 400, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
forces = provider(400)
before = resident("VmRSS")
forces(State.at_rest(q))
print(forces.memory_bytes(), resident("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
def test_memory_is_as_stated():
    """Against the peak of the resident memory of a process of its own, whose allocator gives back what is freed."""
    returned = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "4096"}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, env={**os.environ, **returned}, check=True
    )
    stated, taken = map(float, done.stdout.split())
    assert taken > 5e7
    assert 0.8 <= stated / taken <= 1.25


def test_vectors_are_held_in_blocks_that_fit(monkeypatch):
    provider = kpm.build(kpm.Options(), *system((30, 30)), CANONICAL)
    state = State.at_rest(random_q((30, 30)))
    free = provider(state)
    sizes = [provider.memory_bytes(block=block) for block in (8, 16, 64)]
    assert sizes == sorted(sizes)
    monkeypatch.setattr(_memory, "usable_bytes", lambda device: 1.01 * sizes[0] / 0.8)
    assert provider._problem(state.q).block == 8
    assert torch.allclose(provider(state).force, free.force, atol=1e-11, rtol=0)
    monkeypatch.setattr(_memory, "usable_bytes", lambda device: 0.99 * sizes[0] / 0.8)
    with pytest.raises(ConfigError, match=r"need 0\.0\d+ GiB of memory .* 0\.0\d+ GiB can be used: use more nodes"):
        provider(state)


# --- what users can get wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ensemble", "error", "message"),
    [
        ({}, Ensemble("canonical", 0.0), SpectrumError, "kT = 0 .* 'exact'"),
        ({}, Ensemble("canonical", KT, filling=1.0), SpectrumError, r"filling = 1\.0"),
        ({"tolerance": 1e-30}, CANONICAL, ConfigError, r"tolerance = 1e-30"),
        ({"tolerance": 0.0}, CANONICAL, ConfigError, r"tolerance = 0\.0"),
        ({"tolerance": math.nan}, CANONICAL, ConfigError, "tolerance = nan"),
        ({"probing": "jackson"}, CANONICAL, ConfigError, "probing = 'jackson'"),
        ({"vectors": 1}, CANONICAL, ConfigError, "vectors = 1"),
        ({"seed": -1}, CANONICAL, ConfigError, "seed = -1"),
        ({"block": -1}, CANONICAL, ConfigError, "block = -1"),
        ({"sites": -1}, CANONICAL, ConfigError, "sites = -1"),
        ({"sites": 17}, CANONICAL, ConfigError, "sites = 17 .* 1 to 16"),
        ({"sites": 3, "probing": "random"}, CANONICAL, ConfigError, "one of the two"),
    ],
)
def test_options_and_ensembles_that_cannot_be_are_refused(options, ensemble, error, message):
    with pytest.raises(error, match=message):
        kpm.build(kpm.Options(**options), *system((4, 4)), ensemble)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_coordinates_that_are_not_numbers_are_refused(bad):
    q = random_q((4, 4))
    q[1, 2] = bad
    with pytest.raises(SpectrumError, match="NaN or infinity"):
        kpm.build(kpm.Options(), *system((4, 4)), CANONICAL)(State.at_rest(q))


def test_a_spectrum_outside_its_bounds_is_noticed(monkeypatch):
    monkeypatch.setattr(Stencil, "bounds", lambda self: (-1.0, 1.0))
    with pytest.raises(SpectrumError, match="which the spectrum leaves"):
        kpm.build(kpm.Options(), *system((4, 4)), CANONICAL)(State.at_rest(random_q((4, 4))))


def test_a_tile_without_room_for_the_halo_is_refused():
    def body(transport):
        domain = CartesianDomain(square.build((2, 2)), transport, grid=(2, 2))
        hamiltonian, _ = system((2, 2))
        hamiltonian.reach = 2
        return kpm.build(kpm.Options(), hamiltonian, domain, CANONICAL)

    with pytest.raises(DomainError, match="halo of 2"):
        run_in_process(4, body)
