"""KPM forces under MPI: messages behind the work, windows of several orders, the same forces as on one rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import MPITransport, SerialTransport, Transport
from hpc_holstein.forces import _kernel_fused, kpm
from hpc_holstein.forces._kernel_layout import Layout
from hpc_holstein.hamiltonian import holstein
from hpc_holstein.interfaces import Ensemble, ForceResult, State
from hpc_holstein.lattice import square
from hpc_holstein.training.dataset import read

QUENCH = Path(__file__).parents[1] / "data" / "quench-20x20.h5"
OPTIONS = [{"tolerance": 1e-4}, {"probing": "random", "vectors": 20, "tolerance": 1e-3}, {"sites": 9}]


def forces(transport: Transport, options: dict[str, object], dtype: torch.dtype) -> tuple[ForceResult, tuple[slice, ...]]:
    lattice = square.build((20, 20))
    domain = CartesianDomain(lattice, transport)
    tile = tuple(slice(*span) for span in domain.owned)
    q = torch.from_numpy(np.asarray(read(QUENCH).q[8], dtype=np.float64))[..., None, None].to(dtype)[tile].contiguous()
    ensemble = Ensemble("grand-canonical" if "sites" in options else "canonical", 0.1)
    provider = kpm.build(kpm.Options(**options), holstein.build(holstein.Options(), lattice), domain, ensemble)
    return provider(State.at_rest(q)), tile


@pytest.mark.mpi
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("options", OPTIONS, ids=["coloured", "random", "sampled"])
def test_ranks_agree_with_one(
    transport: MPITransport, options: dict[str, object], groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To round-off in float64, also where one group of vectors computes while the ghosts of another are under way."""
    monkeypatch.setattr(_kernel_fused, "WORTH_A_MESSAGE", 1 if groups == 2 else 1 << 40)
    result, tile = forces(transport, options, torch.float64)
    alone, _ = forces(SerialTransport(), options, torch.float64)
    assert torch.allclose(result.force, alone.force[tile], atol=1e-10, rtol=0, equal_nan=True)
    assert result.info["colours"] == alone.info["colours"]
    assert result.info["error_estimate"] == pytest.approx(alone.info["error_estimate"], rel=1e-3)


@pytest.mark.mpi
def test_single_precision_on_ranks(transport: MPITransport) -> None:
    result, tile = forces(transport, {"tolerance": 1e-3}, torch.float32)
    alone, _ = forces(SerialTransport(), {"tolerance": 1e-3}, torch.float32)
    assert torch.allclose(result.force, alone.force[tile], atol=1e-4, rtol=0)


@pytest.mark.mpi
def test_windows_are_long_where_messages_cost_most(transport: MPITransport) -> None:
    domain = CartesianDomain(square.build((20, 20)), transport)
    assert Layout.of(domain, 1, 0, torch.float64).window >= (4 if transport.size > 1 else 1)
