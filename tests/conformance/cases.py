"""What the conformance tests run over: the listings of the folders, so that a new file is tested by existing."""

from __future__ import annotations

import dataclasses
import math
import pkgutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hpc_holstein import forces, hamiltonian, lattice
from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport, Transport
from hpc_holstein.errors import ConfigError
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice
from hpc_holstein.network import models
from hpc_holstein.network.checkpoint import make_card, save_model

KT = 0.1
CANONICAL = Ensemble("canonical", kT=KT)


def listing(package: ModuleType) -> list[str]:
    """Public modules of a folder."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(package: ModuleType, name: str) -> Any:
    return import_module(f"{package.__name__}.{name}")


LATTICES = listing(lattice)
HAMILTONIANS = listing(hamiltonian)
MODELS = listing(models)
SQUARE_ALONE = {"jahn_teller"}
SYSTEMS = [(name, of) for name, of in product(LATTICES, HAMILTONIANS) if name == "square" or of not in SQUARE_ALONE]


@dataclass(frozen=True)
class ForceCase:
    """One force provider; those with an option ``model`` once for every network."""

    kind: str
    network: str | None = None

    def __str__(self) -> str:
        return self.kind if self.network is None else f"{self.kind}-{self.network}"

    @property
    def knows_mu(self) -> bool:
        """False for a network of the plain field, which stands for half filling alone."""
        return self.network is None or build_model(self.network, build_lattice("square", 8)).field != "plain"


def _force_cases() -> Iterator[ForceCase]:
    for kind in listing(forces):
        if "model" in {option.name for option in dataclasses.fields(load(forces, kind).Options)}:
            yield from (ForceCase(kind, network) for network in MODELS)
        else:
            yield ForceCase(kind)


FORCES = list(_force_cases())


def build_lattice(name: str, cells: int, periodic: bool = True) -> Lattice:
    """Lattice of ``cells`` along every axis, whatever its dimension."""
    for dimension in (1, 2, 3):
        try:
            return load(lattice, name).build((cells,) * dimension, (periodic,) * dimension)
        except ConfigError:
            continue
    raise AssertionError(f"no dimension fits the {name} lattice")


def build_hamiltonian(name: str, on: Lattice) -> Hamiltonian:
    module = load(hamiltonian, name)
    return module.build(module.Options(), on)


def build_model(name: str, on: Lattice, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """A network whose weights are all away from their initial values, as after training."""
    torch.manual_seed(1)
    network = load(models, name).build(model_options(name), on)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.to(dtype).eval()


def model_options(name: str) -> Any:
    """Options of a network whose window fits into 10 cells."""
    return load(models, name).Options(**({"radii": (1, 1)} if name == "enn_matrix" else {}))


_FOLDER = tempfile.TemporaryDirectory(prefix="hpc_holstein_conformance_")  # removed when the interpreter ends


@cache
def model_file(name: str) -> Path:
    path = Path(_FOLDER.name) / f"{name}.safetensors"
    on = build_lattice("square", 8)
    network, options = build_model(name, on), model_options(name)
    system = build_hamiltonian("holstein", on)
    # of the matrix elements of any Holstein model, which a network that reads these must have seen
    seen = {"H/t on sites": (-100.0, 100.0), "H/t of shell 1": (-1.0, -1.0), "H/t of shell 2": (0.0, 0.0)}
    facts = {"data_hash": "", "seed": 0, "metrics": {}, "ranges": seen if network.field == "matrix" else {}}
    save_model(path, network, make_card(network, name, options, system, on, CANONICAL, **facts))
    return path


def provider(
    case: ForceCase,
    ensemble: Ensemble = CANONICAL,
    cells: tuple[int, ...] = (10, 10),
    transport: Transport | None = None,
    grid: tuple[int, ...] | None = None,
    **given: Any,
) -> Any:
    """The :class:`ForceProvider` for Holstein on the square lattice; its ``domain`` and ``hamiltonian`` are public members.

    ``given``: options of the kind of forces.
    """
    on = load(lattice, "square").build(cells)
    module = load(forces, case.kind)
    options = module.Options(**({"model": str(model_file(case.network))} if case.network else {}), **given)
    domain = CartesianDomain(on, transport or SerialTransport(), grid=grid)
    return module.build(options, build_hamiltonian("holstein", on), domain, ensemble)


def random_q(*shape: int, std: float = 2.0, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Coordinates ``[*shape, 1, 1]``."""
    generator = torch.Generator().manual_seed(seed)
    return (std * torch.randn(*shape, 1, 1, generator=generator, dtype=torch.float64)).to(dtype)


def moved(field: Tensor, matrix: Any, first_axis: int = 0) -> Tensor:
    """``f'(M r) = f(r)`` on a periodic lattice with as many cells along every axis; cells start at ``first_axis``."""
    dimension, cells = len(matrix), field.shape[first_axis]
    r = torch.stack(torch.meshgrid(*[torch.arange(cells)] * dimension, indexing="ij")).flatten(1)
    image = torch.tensor(matrix) @ r % cells
    strides = torch.tensor([cells ** (dimension - 1 - axis) for axis in range(dimension)])
    flat = field.flatten(first_axis, first_axis + dimension - 1)
    out = torch.empty_like(flat)
    out.index_copy_(first_axis, strides @ image, flat.index_select(first_axis, strides @ r))
    return out.reshape(field.shape)


def wrapped(field: Tensor, width: int) -> Tensor:
    """Periodic ghost cells of any width, ``[batch, *cells]``."""
    for axis in range(1, field.ndim):
        cells = field.shape[axis]
        field = field.index_select(axis, torch.arange(-width, cells + width) % cells)
    return field


def rms(x: Tensor) -> float:
    return math.sqrt(float(x.double().square().mean()))
