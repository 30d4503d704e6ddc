"""Shared by all tests: one thread, fixed seeds, and bodies that run alike on every transport."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from domain_checks import OnRanks

from hpc_holstein.domain.transport import SerialTransport, run_in_process

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Global generators start every test in the same state."""
    torch.manual_seed(20260104)
    np.random.seed(20260104)  # noqa: NPY002


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of its own for a test."""
    return torch.Generator().manual_seed(20260104)


@pytest.fixture(params=[1, 2, 3, 4, 6], ids=lambda size: f"{size}ranks")
def on_ranks(request: pytest.FixtureRequest) -> OnRanks:
    """``on_ranks(body)`` runs ``body(transport)`` serially and on in-process ranks; under ``tests/mpi`` on the ranks of MPI.

    Returns the results of the ranks of this process.
    """
    size: int = request.param
    if size == 1:
        return lambda body: [body(SerialTransport())]
    return lambda body: run_in_process(size, body)
