"""Checkpoints: the whole state of a run at one step by global index, so that it continues on any number of ranks.

One HDF5 file a checkpoint, ``step-000000012345.h5``, written under a temporary name, brought onto the disk and renamed; its
first 512 bytes (a user block, which HDF5 leaves alone) hold the SHA-256 of the rest.  Forces are stored with everything that
they told, since a force provider starts from those of the step before: on the same ranks a run continues bit for bit.

===========================================  ===========================================================================
``q``, ``velocity``, ``force``, ``density``  ``[*batch, *extent, basis, components]`` in the precision of the run
``chemical_potential``, ``grand_potential``  ``[*batch]`` [t_nn]
attributes                                   ``step``, configuration, seed, versions, model, units; ``account``, ``info`` (JSON)
===========================================  ===========================================================================
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from hpc_holstein.domain.transport import Transport
from hpc_holstein.errors import DataError
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Domain, ForceResult, State
from hpc_holstein.output.journal import sync_folder

SCHEMA = "hpc_holstein checkpoint 1"
_BLOCK = 512  # bytes before the HDF5 file
_UNITS = {
    "q": "a",
    "velocity": "a t_nn/hbar",
    "force": "t_nn/a",
    "density": "electrons/site",
    "chemical_potential": "t_nn",
    "grand_potential": "t_nn",
}


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step, on the root.

    arrays      by the names of the table above; without forces, ``q`` and ``velocity`` only
    info        of the forces: what the next ones start from
    account     what a summary adds up, and what health is measured against
    attributes  how the run was made
    """

    step: int
    arrays: dict[str, NDArray[Any]]
    info: dict[str, float] = field(default_factory=dict)
    account: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


def gathered(state: State, domain: Domain) -> Checkpoint | None:
    """``state`` on the root, None elsewhere; collective."""
    fields = {"q": state.q, "velocity": state.velocity}
    numbers, info = {}, {}
    if state.forces is not None:
        fields |= {"force": state.forces.force, "density": state.forces.density.unsqueeze(-1)}
        numbers = {"chemical_potential": state.forces.chemical_potential, "grand_potential": state.forces.grand_potential}
        info = dict(state.forces.info)
    arrays = {}
    for name, owned in fields.items():
        whole = domain.gather(owned)
        if whole is not None:
            arrays[name] = whole.cpu().numpy()
    if domain.rank != 0:
        return None
    arrays |= {name: number.cpu().numpy() for name, number in numbers.items() if number is not None}
    return Checkpoint(state.step, arrays, info)


def restored(stored: Checkpoint | None, domain: Domain, transport: Transport) -> State:
    """The state that :func:`gathered` took, on the ranks there are now; ``stored`` is that of the root.  Collective."""
    fields = ("q", "velocity", "force", "density")
    facts: tuple[int, dict[str, Any], dict[str, Any], dict[str, float]] | None = None
    if stored is not None:
        shapes = {name: (array.shape, array.dtype.name) for name, array in stored.arrays.items() if name in fields}
        facts = stored.step, shapes, {k: v for k, v in stored.arrays.items() if k not in fields}, stored.info
    facts = transport.bcast(facts)
    assert facts is not None
    step, shapes, numbers, info = facts
    cells = len(domain.lattice.extent)
    owned = {}
    for name, (shape, dtype) in shapes.items():
        local = (*shape[: len(shape) - cells - 2], *domain.local_extent, *shape[-2:])
        like = torch.empty(local, dtype=getattr(torch, dtype), device=domain.device)
        owned[name] = domain.scatter(None if stored is None else torch.from_numpy(stored.arrays[name]), like)
    state = State(owned["q"], owned["velocity"], step)
    if "force" not in owned:
        return state
    found = {name: torch.as_tensor(number, device=domain.device) for name, number in numbers.items()}
    mu, omega = found["chemical_potential"], found.get("grand_potential")
    return state.moved(forces=ForceResult(owned["force"], owned["density"][..., 0], mu, omega, info))


def write(folder: Path, stored: Checkpoint, kept: int) -> Path:
    """A new checkpoint in ``folder``; the ``kept`` last ones stay.  DataError, and nothing is lost, if it cannot be written."""
    path = path_of(folder, stored.step)
    content = _packed(stored)
    with replaced(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)
    for old in listed(folder)[:-kept]:
        with suppress(OSError):
            old.unlink()
    return path


def read(path: Path) -> Checkpoint:
    """A checkpoint whose checksum is right; DataError for a file that is missing, truncated, damaged or something else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"checkpoint {path} cannot be read ({error.strerror}): give a file that exists") from None
    if content[:_BLOCK] != _block(memoryview(content)[_BLOCK:]):
        raise DataError(f"checkpoint {path} is truncated or damaged (its checksum is wrong): use an earlier one")
    return _unpacked(path, content)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The last checkpoint in ``folder`` that is whole, None where there is none; and a sentence for each one passed over.

    Raises DataError where there are checkpoints but none is whole.
    """
    complaints: list[str] = []
    for path in reversed(listed(folder)):
        try:
            return read(path), complaints
        except DataError as error:
            complaints.append(str(error))
    if complaints:
        raise DataError(f"no checkpoint in {folder} is whole, of {len(complaints)}: choose another output, or remove this one")
    return None, complaints


def listed(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, whole or not, in the order of their steps."""
    return sorted(folder.glob("step-*.h5"))


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:012d}.h5"


def clean(folder: Path, after: int) -> None:
    """Remove checkpoints of later steps than ``after``, and what killed writers left behind."""
    for path in [*reversed(listed(folder)), *folder.glob(".step-*.tmp")]:
        if path.suffix == ".tmp" or path > path_of(folder, after):
            path.unlink()


def with_facts(stored: Checkpoint, account: Mapping[str, float], attributes: Mapping[str, Any]) -> Checkpoint:
    """``stored`` with what the run says about itself."""
    return replace(stored, account=dict(account), attributes=dict(attributes))


def _block(content: memoryview) -> bytes:
    """The user block of a file with this content."""
    text = f"{SCHEMA}\nsha256 {hashlib.sha256(content).hexdigest()}\nbytes {len(content)}\n"
    return text.encode().ljust(_BLOCK, b"\0")


def _packed(stored: Checkpoint) -> memoryview:
    """The bytes of the file."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", userblock_size=_BLOCK) as file:
        for name, array in stored.arrays.items():
            file.create_dataset(name, data=array).attrs["units"] = _UNITS[name]
        file.attrs.update({**stored.attributes, "schema": SCHEMA, "step": stored.step})
        file.attrs["info"] = json.dumps(stored.info)
        file.attrs["account"] = json.dumps(stored.account)
    content = stream.getbuffer()
    content[:_BLOCK] = _block(content[_BLOCK:])
    return content


def _unpacked(path: Path, content: bytes) -> Checkpoint:
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            arrays = {name: dataset[()] for name, dataset in file.items()}
            attributes = {k: v.tolist() if isinstance(v, (np.ndarray, np.generic)) else v for k, v in file.attrs.items()}
        step, info, account = (attributes.pop(name) for name in ("step", "info", "account"))
    except (OSError, KeyError) as error:
        raise DataError(f"checkpoint {path} is of another format ({error}): use one that this version wrote") from None
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    return Checkpoint(step, arrays, json.loads(info), json.loads(account), attributes)
