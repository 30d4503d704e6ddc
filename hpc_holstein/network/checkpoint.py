"""Model files: the weights and a card that says what they are for, in one safetensors file (nothing in it is executed).

The card is JSON under the key ``card`` of the file's metadata; the tensors are the parameters of the network under their
names in the module.  Any safetensors reader opens the file.
"""

from __future__ import annotations

import hashlib
import json
import pkgutil
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from dataclasses import field as member
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import safe_open, save
from torch import nn

from hpc_holstein import lattice as lattices
from hpc_holstein.errors import HolsteinError, ModelError
from hpc_holstein.files import replaced
from hpc_holstein.interfaces import Ensemble, Hamiltonian, Lattice
from hpc_holstein.memory import free_bytes, shown_bytes
from hpc_holstein.network import models, surroundings
from hpc_holstein.network._card_members import REMEDY, members_of, options_of
from hpc_holstein.network.field_range import in_words
from hpc_holstein.network.scaling import Scaling
from hpc_holstein.network.served import valid_for

SCHEMA = 2
"""Version of the card; files of a newer one are refused, older ones lack members that were added since."""

UNITS = "t_nn = hbar = k_B = a = 1"

_COPIES = 3.0  # of the weights of a file that is read


@dataclass(frozen=True)
class Card:
    """Purpose and origin of a model file.

    architecture, options  file in ``network/models`` and its ``Options``
    lattice, extent        kind of lattice, and the cells it was trained on (the model runs at any size)
    group                  matrices of the point group, in the order that the weights refer to
    reach, field, predicts facts of the network: cells it reads around a site, ``"shifted"``, ``"plain"`` or ``"matrix"`` input,
                           ``"density"``, ``"force"``, ``"grand_potential"`` or ``"density_matrix"``
    hamiltonian, parameters, ensemble, filling, kT   the system that labelled the training data
    dtype                  precision of the weights
    data_hash, seed        SHA-256 of the training data and the seed of the training
    metrics                errors on data that was held out, name and value
    versions               of the package and of the libraries that trained it
    ranges                 lowest and highest value of parameters (``kT``, ``g``) in the training data, and of the elements of
                           ``H/t`` of each shell (:func:`network.elements.element_ranges`); see :func:`check_card`
    field_range            what the network saw in training (:func:`network.field_range.field_range`); empty: not recorded
    surroundings           of the training sites (:func:`network.surroundings.surroundings_of`); empty: not recorded
    training               the keys of ``[training]``, and ``from``, the SHA-256 of the model whose weights it started from;
                           empty: not recorded; ``systems``: those beside the main one that it was trained on
    """

    architecture: str
    options: dict[str, Any]
    lattice: str
    extent: tuple[int, ...]
    group: tuple[tuple[tuple[int, ...], ...], ...]
    reach: int
    field: str
    predicts: str
    hamiltonian: str
    parameters: dict[str, float]
    ensemble: str
    filling: float
    kT: float
    dtype: str
    data_hash: str
    seed: int
    metrics: dict[str, float] = member(default_factory=dict)
    versions: dict[str, str] = member(default_factory=dict)
    field_range: dict[str, float] = member(default_factory=dict)
    surroundings: dict[str, Any] = member(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = member(default_factory=dict)
    training: dict[str, Any] = member(default_factory=dict)
    units: str = UNITS
    schema: int = SCHEMA

    @property
    def of_electrons(self) -> bool:
        """True if the network stands for the electrons alone, in the shifted field, so that no ``g`` binds it."""
        return self.predicts != "force" and self.field == "shifted" and {"t", "g"} <= self.parameters.keys()

    @property
    def of_matrix(self) -> bool:
        """True if the network stands for the map from ``H`` to ``rho``, so that none but the elements of ``H`` bind it."""
        return self.field == "matrix"

    @property
    def systems(self) -> list[dict[str, Any]]:
        """Every system that it was trained on, the main one first: ``hamiltonian``, ``parameters``, ``kT`` and ``filling``."""
        own = {"hamiltonian": self.hamiltonian, "parameters": self.parameters, "kT": self.kT, "filling": self.filling}
        return [own, *self.training.get("systems", ())]

    @property
    def known(self) -> list[dict[str, tuple[float, float]]]:
        """Ranges of the matrix elements and of ``kT/t`` of each system: what moves together, and at which temperature."""
        return [{name: (low, high) for name, (low, high) in one.items()} for one in self.training.get("ranges", [self.ranges])]

    @property
    def hamiltonians(self) -> list[str]:
        """Names of the Hamiltonians of these systems."""
        return list(dict.fromkeys(one["hamiltonian"] for one in self.systems))

    @property
    def coupling(self) -> float:
        """Factor from the field that the network reads to an energy in units of the hopping."""
        return 1.0 if self.of_matrix else self.parameters["g"]

    def scaling(self, hamiltonian: Hamiltonian) -> Scaling:
        """Scaling by which the network sees a system that passes :func:`check_card`."""
        return Scaling.of(hamiltonian.parameters, self.parameters) if self.of_electrons else Scaling()


def make_card(
    module: nn.Module,
    architecture: str,
    options: object,
    hamiltonian: Hamiltonian,
    lattice: Lattice,
    ensemble: Ensemble,
    *,
    data_hash: str,
    seed: int,
    metrics: Mapping[str, float],
    seen: Mapping[str, float] | None = None,
    surroundings: Mapping[str, Any] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Card:
    """The card of ``module``, built by ``architecture`` from the dataclass ``options`` and trained on ``lattice``.

    ``seen``: the range of its training fields, see :func:`hpc_holstein.network.field_range.field_range`; ``ranges``: of the
    parameters, where the training data has several values of them; ``surroundings``, ``training``: as on the card.
    """
    return Card(
        architecture=architecture,
        options=asdict(options),  # type: ignore[call-overload]
        lattice=lattice.name,
        extent=tuple(lattice.extent),
        group=lattice.point_group.matrices,
        reach=module.reach,  # type: ignore[arg-type]
        field=module.field,  # type: ignore[arg-type]
        predicts=module.predicts,  # type: ignore[arg-type]
        hamiltonian=hamiltonian.name,
        parameters=dict(hamiltonian.parameters),
        ensemble=ensemble.kind,
        filling=ensemble.filling,
        kT=ensemble.kT,
        dtype=str(next(module.parameters()).dtype).removeprefix("torch."),
        data_hash=data_hash,
        seed=seed,
        metrics=dict(metrics),
        versions={
            "hpc_holstein": metadata.version("hpc_holstein"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "safetensors": metadata.version("safetensors"),
        },
        field_range=dict(seen or {}),
        surroundings=dict(surroundings or {}),
        ranges={name: (float(low), float(high)) for name, (low, high) in (ranges or {}).items()},
        training=dict(training or {}),
    )


def save_model(path: str | Path, module: nn.Module, card: Card, overwrite: bool = False) -> None:
    """Write ``module`` and ``card`` to ``path`` in one step: a reader sees the old file or the whole new one.

    Raises :class:`ModelError` when the file exists and ``overwrite`` is not set, or when it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ModelError(f"model file {path} exists already: remove it, choose another path or ask for overwriting")
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in module.state_dict().items()}
    content = save(weights, metadata={"card": json.dumps(asdict(card), sort_keys=True)})
    with replaced(path, ModelError) as temporary:
        temporary.write_bytes(content)  # not save_file, whose files are readable by their owner alone


def load_model(path: str | Path, lattice: Lattice | None = None) -> tuple[nn.Module, Card]:
    """The network in a model file, in eval mode and in the precision of its weights, and its card.

    ``lattice`` is the one it is to run on, of the kind that the card names; without it the training lattice is built.
    Raises :class:`ModelError` for a file that is missing, damaged, of a newer schema or does not fit this version.
    """
    path = Path(path)
    card, weights = _read(path)
    if lattice is not None and lattice.name != card.lattice:
        raise ModelError(
            f"model file {path} is made for the {card.lattice} lattice, not for the {lattice.name} lattice: "
            f"set lattice kind to '{card.lattice}' or train a model for the {lattice.name} lattice"
        )
    if lattice is None:
        lattice = _lattice_of(path, card)
    module = _rebuild(path, card, lattice, sum(value.numel() for value in weights.values()))
    wanted, given = (
        {name: (*value.shape, value.is_floating_point()) for name, value in tensors.items()}
        for tensors in (module.state_dict(), weights)
    )
    odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if odd:
        raise ModelError(
            f"the weights in {path} do not fit architecture '{card.architecture}' (names or shapes differ: {', '.join(odd)}): "
            f"{REMEDY}"
        )
    module.load_state_dict(weights)
    return module.eval(), card


def read_card(path: str | Path) -> Card:
    """The card of a model file; raises :class:`ModelError` as :func:`load_model` does."""
    return _read(Path(path))[0]


def model_hash(path: str | Path) -> str:
    """SHA-256 of a model file, which data files and summaries record."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"model file {path} cannot be read ({error.strerror}): give the path of a model file") from error


def describe(card: Card) -> str:
    """The card in words, one fact a line."""
    systems = [
        ", ".join(
            [one["hamiltonian"], *(f"{name} = {value:g}" for name, value in {**one["parameters"], "kT": one["kT"]}.items())]
        )
        for one in card.systems
    ]
    cells = "x".join(map(str, card.extent))
    lines = {
        "network": f"{card.architecture}, {card.dtype} ({_named(card.options)})",
        "predicts": f"{card.predicts} from the {card.field} field, {card.reach} cells around a site",
        "lattice": f"{card.lattice}, point group of order {len(card.group)}, trained on {cells} cells",
        "hamiltonian": "; ".join(dict.fromkeys(systems)),
        "valid for": valid_for(card),
        "ensemble": f"{card.ensemble}, filling {card.filling:g}",
        "units": card.units,
        "metrics": ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items()) or "none",
        "training": f"seed {card.seed}, data SHA-256 {card.data_hash or 'unknown'}",
        "trained by": _named({k: v for k, v in card.training.items() if k not in ("systems", "ranges")}) or "not recorded",
        "trained on": in_words(card.field_range, "t" if card.of_matrix else "a"),
        "surroundings": surroundings.in_words(card.surroundings),
        "versions": _named(card.versions) or "unknown",
    }
    return "\n".join(f"{name:<13}{text}" for name, text in lines.items())


def _read(path: Path) -> tuple[Card, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise ModelError(f"model file {path} does not exist: give the path of a model file or 'default'")
    try:
        size = path.stat().st_size
        with safe_open(path, framework="pt") as file:
            card = Card(**members_of(path, (file.metadata() or {}).get("card")))
            if _COPIES * size > free_bytes():
                raise ModelError(f"{path} has {shown_bytes(size)}, more than can be read here: give another model")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}): it is truncated or of another kind, copy or train it again"
        ) from error
    broken = [name for name, value in weights.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ModelError(f"the weights {', '.join(broken)} in {path} are not finite: train the model again")
    return card, weights


def _rebuild(path: Path, card: Card, lattice: Lattice, weights: int) -> nn.Module:
    """The network with fresh weights, checked against the facts on the card."""
    source = _kind(path, "architecture", models, card.architecture)
    options = options_of(path, source.Options, card.architecture, card.options, weights)
    try:
        module: nn.Module = source.build(options, lattice)
    except (TypeError, ValueError, RuntimeError, MemoryError, HolsteinError) as error:
        raise ModelError(f"the options in {path} do not fit architecture '{card.architecture}' ({error}): {REMEDY}") from error
    for name, here in (("reach", module.reach), ("field", module.field), ("predicts", module.predicts)):
        if getattr(card, name) != here:
            raise ModelError(f"{name} is {getattr(card, name)} on the card in {path} but {here} in this version: {REMEDY}")
    if card.group != lattice.point_group.matrices:
        raise ModelError(f"the weights in {path} refer to another order of the {lattice.name} point group: {REMEDY}")
    return module.to(getattr(torch, card.dtype))


def _lattice_of(path: Path, card: Card) -> Lattice:
    """The training lattice."""
    try:
        lattice: Lattice = _kind(path, "lattice", lattices, card.lattice).build(card.extent)
    except (TypeError, ValueError, HolsteinError) as error:
        raise ModelError(f"extent = {list(card.extent)} on the card in {path} gives no lattice ({error}): {REMEDY}") from error
    return lattice


def _kind(path: Path, what: str, folder: ModuleType, name: str) -> ModuleType:
    """A file of one of the folders of kinds."""
    known = [module.name for module in pkgutil.iter_modules(folder.__path__) if not module.name.startswith("_")]
    if name not in known:
        raise ModelError(f"{what} '{name}' of {path} is not known, valid are {', '.join(sorted(known))}: {REMEDY}")
    return import_module(f"{folder.__name__}.{name}")


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
