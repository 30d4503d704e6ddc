"""A trained network that drives; :mod:`hpc_holstein.forces.neural` says what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from hpc_holstein.compiled.instructions import LONGEST
from hpc_holstein.errors import ConfigError
from hpc_holstein.forces._canonical import (
    CanonicalDensity,
    Density,
    require_filling,
    site_mean,
    solve_chemical_potential,
)
from hpc_holstein.forces._committee import Committee
from hpc_holstein.forces._elements import electron_domain, on_sites
from hpc_holstein.forces._filling import potential_uncertainty
from hpc_holstein.forces._first_guess import LocalSpectra
from hpc_holstein.forces._following import RecordedPotential, completed, followed
from hpc_holstein.forces._graphs import Outputs, Replayed, require_graphs
from hpc_holstein.forces._precision import arithmetic, dtype_of
from hpc_holstein.forces.neural import Options, Precision
from hpc_holstein.interfaces import Domain, Ensemble, ForceProvider, ForceResult, Hamiltonian, State
from hpc_holstein.network.elements import ElementReader, strength
from hpc_holstein.network.models._levels import LevelNetwork
from hpc_holstein.network.scaling import Scaling
from hpc_holstein.network.served import trained_elsewhere
from hpc_holstein.network.supported import model_for, require_supported
from hpc_holstein.network.surroundings import Surroundings

_DENSITY_TOLERANCE = 1e-5  # bound on each n_i from the iteration for mu
_STEEP = 1e-4  # kT d(mean n)/d(mu) below which the slope that the solver has may be what round-off hides
_STEP = 0.1  # of kT
_LONGEST = {"cpu": 64, "cuda": 512}  # edge of a window of the lattice that is evaluated at once
# CPU: activations stay in the cache, where PyTorch evaluates the network.  CUDA: bounds the memory.


class NeuralForces(ForceProvider):
    """Force provider that evaluates ``module``; implements :class:`interfaces.ForceProvider`, batches included.

    The result depends on ``q`` and on ``state.forces`` (``chemical_potential``, ``info["filling_slope"]`` and
    ``info["mu_drift"]``, of a batch in ``of_states``) alone, so a run that is restarted with these continues bit by bit.
    ``batches_exactly``: that of a state has the same bits in any batch.
    """

    tolerance = None
    takes_batches = True

    def __init__(
        self,
        module: torch.nn.Module,
        hamiltonian: Hamiltonian,
        domain: Domain,
        ensemble: Ensemble,
        precision: Precision = "state",
        following: float = 0.0,
        deterministic: bool = False,
        replayed: Replayed | None = None,
        scaling: Scaling = Scaling(),  # noqa: B008 - frozen
    ) -> None:
        require_filling(ensemble)
        require_supported(module, hamiltonian, domain.lattice, ensemble)
        self.hamiltonian, self.domain, self.ensemble = hamiltonian, electron_domain(hamiltonian, domain), ensemble
        elements = getattr(module, "elements", None)
        self._reader = None if elements is None else ElementReader(hamiltonian, elements)
        self._halo: int = module.reach  # type: ignore[assignment]  # of what the network reads
        self.reach: int = self._halo + (0 if self._reader is None else self._reader.margin)
        self._width = max(self.reach, hamiltonian.reach)
        self._module, self._basis = module, len(domain.lattice.basis)
        self._precision, self._replayed = precision, replayed
        self._following = following if hasattr(module, "response") else 0.0
        self.scaling = scaling
        self._energy = scaling.energy if self._reader is None else hamiltonian.hopping  # unit of the network
        self._factor = 1.0 if isinstance(module, LevelNetwork) else scaling.field  # those multiply the field by g themselves
        self.deterministic = deterministic
        self.committee: Committee | None = None
        self.field_range: Mapping[str, float] = {}
        self.surroundings: Surroundings | None = None
        self.trained_elsewhere = ""
        self._converted: dict[tuple[torch.dtype, torch.device], torch.nn.Module] = {}
        self._fused = isinstance(module, LevelNetwork) and module.is_fused(domain.device) and precision != "bfloat16"
        self.batches_exactly = self._fused and self._reader is None  # PyTorch computes the elements of H and their force
        if deterministic and not self.batches_exactly:
            raise ConfigError(
                "deterministic = true needs a network that is compiled, as `enn` is in 1 and 2 dimensions on CPUs with AVX2 or "
                "NEON: the bits that PyTorch computes depend on the place of a site, so use such a model, or leave "
                "deterministic out"
            )
        longest = LONGEST if self._fused else _LONGEST[domain.device.type]
        longest = round(longest ** (2 / len(domain.local_extent)))  # as many cells in any dimension
        self._window = tuple(_window(cells, longest) for cells in domain.local_extent)

    @torch.no_grad()
    def __call__(self, state: State) -> ForceResult:
        """Force, density and ``mu`` of a state ``[*batch, *cells, basis, 1]``.

        ``info``: ``evaluations`` of the network per state, ``residual`` of the filling, ``filling_slope`` (its derivative
        by ``mu``) and ``mu_drift`` (change of ``mu`` since the previous forces), both as a mean over the batch; the largest
        ``mu_uncertainty`` where there are no previous forces.
        """
        axes = len(self._window) + 2
        batch = state.q.shape[:-axes]
        q = state.q.reshape(-1, *state.q.shape[-axes:])
        ghosted = _Arriving(q, self.domain, self._width)
        omega, of_states = None, list[dict[str, float]]()
        if self._module.predicts == "force":
            force = self._evaluate(ghosted, torch.zeros(len(q), dtype=torch.float64), torch.arange(len(q)))[..., None]
            classical = self.hamiltonian.classical_force(ghosted.arrived(), self._width, self.domain)
            density = self.hamiltonian.density(force - classical)
            mu, info = torch.full((len(q),), math.nan, dtype=torch.float64), {"evaluations": 1.0}
        else:
            evaluate = self._evaluation(ghosted)
            rho, mu, info, of_states = self._density(q, ghosted, evaluate, state.forces)
            density = on_sites(self.hamiltonian, rho)
            omega = evaluate.at(mu, density).reshape(batch) if isinstance(evaluate, RecordedPotential) else None
            on_pattern = rho if self._reader is None else self._reader.on_pattern(rho, cast(Any, self._module).written)
            force = self.hamiltonian.force(ghosted.arrived(), self._width, on_pattern, self.domain)
        return ForceResult(
            force=force.reshape(state.q.shape),
            density=density.reshape(state.q.shape[:-1]),
            chemical_potential=mu.reshape(batch).to(q.device, torch.float64),
            grand_potential=None if omega is None else omega.to(q.device),
            info=info,
            of_states=tuple(of_states) if batch else (),
        )

    def field(self, state: State) -> Tensor:
        """Field of a state with forces that the network reads, ``[*cells, basis]``: ``Q`` if it is plain, else ``Q + mu/g``.

        In the units that the network was made in (:attr:`scaling`), as its :attr:`field_range` is; of a network that reads the
        elements of ``H``, :func:`~hpc_holstein.network.elements.strength`.  Collective.
        """
        assert state.forces is not None
        if self._reader is not None:
            padded = self.domain.pad(state.q, self._reader.margin).unsqueeze(0)
            return strength(self._reader(padded, state.forces.chemical_potential.reshape(1)), self._reader.elements)[0]
        q = state.q[..., 0]
        if self._module.field == "plain":
            return q
        field = q + (state.forces.chemical_potential / self.hamiltonian.parameters["g"]).to(q)
        return field if self.scaling.field == 1 else self.scaling.field * field

    def memory_bytes(self, dtype: torch.dtype = torch.float64) -> float:
        """Bytes of one evaluation on this rank with its result, for coordinates of ``dtype``, without the few MB of a window.

        Measured, where ``mu`` is iterated.
        """
        more = 0 if self.committee is None else 5 * dtype.itemsize  # sums, a difference and the deviation
        more += 0 if self._reader is None else 2 * dtype.itemsize * len(self.hamiltonian.pattern)  # rho and H
        return (7 * dtype.itemsize + 42 + more) * math.prod(self.domain.local_extent) * self._basis

    def _density(
        self, q: Tensor, ghosted: _Arriving, evaluate: Density, previous: ForceResult | None
    ) -> tuple[Tensor, Tensor, dict[str, float], list[dict[str, float]]]:
        """``n [batch, *cells, basis]``, with pairs behind if the network has them, ``mu [batch]``, info, that of each state."""
        every = torch.arange(len(q))
        if self._module.field == "plain":
            zero = torch.zeros(len(q), dtype=torch.float64)
            return evaluate(zero, every), zero * math.nan, {"evaluations": 1.0}, []
        if self.ensemble.kind == "grand-canonical":
            mu = torch.full((len(q),), self.ensemble.chemical_potential, dtype=torch.float64)
            return evaluate(mu, every), mu, {"evaluations": 1.0}, []
        if previous is not None and not torch.isfinite(previous.chemical_potential).all():
            previous = None  # forces of a provider that knows no mu
        guess, slope = self._start(q, previous)
        if previous is not None and self._following > 0:
            found, left = self._followed(ghosted, guess)
            solved = completed(found, left, self._solved(evaluate, guess, slope, left)) if len(left) else found
        else:
            solved = self._solved(evaluate, guess, slope, every)
        mu = solved.chemical_potential
        drift = torch.zeros_like(mu) if previous is None else mu - previous.chemical_potential.reshape(-1).double().cpu()
        told = {"filling_slope": solved.slope, "mu_drift": drift}
        info = {"evaluations": solved.evaluations, "residual": solved.residual}
        info |= {name: float(values.mean()) for name, values in told.items()}
        if previous is None:
            info["mu_uncertainty"] = self._uncertainty(ghosted, solved)
        return solved.density, mu, info, [{name: float(values[i]) for name, values in told.items()} for i in every]

    def _uncertainty(self, ghosted: _Arriving, solved: CanonicalDensity) -> float:
        """Largest of the batch [t_nn]; where ``mu`` may lie in a gap, from one more evaluation a little above it."""
        kT, mu = self.ensemble.kT, solved.chemical_potential
        chi = kT * solved.slope.abs()
        flat = torch.nonzero(chi < _STEEP)[:, 0]
        if len(flat):
            outputs = _with_grand_potential if self._module.predicts == "grand_potential" else _prediction
            moved = self._apply(outputs, ghosted, mu[flat] + _STEP * kT, flat)[0]
            before = self._mean(solved.density[flat.to(moved.device)])
            chi[flat] = (self._mean(moved) - before).abs() / _STEP
        return max(potential_uncertainty(float(one), kT) for one in chi)

    def _mean(self, density: Tensor) -> Tensor:
        """Mean over all states, ``[m]``, of the diagonal of what the network writes."""
        return site_mean(density[..., : self.hamiltonian.states], self.domain)

    def _solved(self, evaluate: Density, guess: Tensor, slope: Tensor, states: Tensor) -> CanonicalDensity:
        """Canonical density of the states of these numbers, by the iteration that always converges."""
        return solve_chemical_potential(
            density=lambda mu, rows: evaluate(mu, states[rows]),
            mean=self._mean,
            filling=self.ensemble.filling,
            kT=self.ensemble.kT,
            guess=guess[states],
            slope=slope[states],
            density_tolerance=_DENSITY_TOLERANCE,
            sharpness=getattr(self._module, "sharpness", 1.0),
        )

    def _followed(self, ghosted: _Arriving, guess: Tensor) -> tuple[CanonicalDensity, Tensor]:
        """See :func:`forces._following.followed`."""

        def network(mu: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            density, response = self._apply(_response, ghosted, mu, rows)
            return density, response if self._energy == 1 else response / self._energy

        return followed(
            network=network,
            mean=self._mean,
            filling=self.ensemble.filling,
            kT=self.ensemble.kT,
            guess=guess,
            error=self._following,
        )

    def _start(self, q: Tensor, previous: ForceResult | None) -> tuple[Tensor, Tensor]:
        """``mu`` and slope to start from, ``[batch]``: extrapolated from the previous forces, or of the first guess."""
        if previous is not None:
            guess = previous.chemical_potential.reshape(-1).double().cpu()
            told = previous.of_states if len(previous.of_states) == len(q) else (previous.info,) * len(q)
            if "filling_slope" in told[0]:
                slope, drift = (guess.new_tensor([one[name] for one in told]) for name in ("filling_slope", "mu_drift"))
                return guess + drift, slope
        spectra = LocalSpectra.of(self.hamiltonian, self.domain, q, self.ensemble.kT)
        if previous is None:
            guess = spectra.chemical_potential(self.ensemble.filling)
        return guess, spectra.slope(guess)

    def _evaluation(self, ghosted: _Arriving) -> Density | RecordedPotential:
        """The density as a function of ``mu`` and the states; with the grand potential, where the network has one."""
        if self._module.predicts != "grand_potential":
            return lambda mu, rows: self._evaluate(ghosted, mu, rows)

        def both(mu: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
            density, omega = self._apply(_with_grand_potential, ghosted, mu, rows)
            return density, omega if self.scaling.energy == 1 else self.scaling.energy * omega

        return RecordedPotential(both, self.domain, len(ghosted.field))

    def _evaluate(self, ghosted: _Arriving, mu: Tensor, rows: Tensor) -> Tensor:
        """Network output ``[m, *cells, basis]`` for the states ``rows [m]`` at ``mu [m]``."""
        return self._apply(_prediction, ghosted, mu, rows)[0]

    def _apply(self, function: Outputs, ghosted: _Arriving, mu: Tensor, rows: Tensor) -> list[Tensor]:
        """Outputs of ``function(network, shifted field)``, ``[m, *cells, basis]`` each, piece by piece of the tile.

        Pieces that need no ghosts come first, while these are on their way.
        """
        halo, spare, axes = 2 * self.reach, self._width - self.reach, len(self._window)
        field = ghosted.field
        for axis in range(1, 1 + axes):
            field = field.narrow(axis, spare, field.shape[axis] - 2 * spare)
        cells = [edge - halo for edge in field.shape[1 : 1 + axes]]
        dtype = dtype_of(self._precision, field.dtype)
        network = self._network(dtype, field.device)
        out: list[Tensor] = []
        with torch.inference_mode(), arithmetic(self._precision, field.device):
            for inside, states, part in self._pieces(len(rows), cells):
                if not inside:
                    ghosted.arrived()
                around = [slice(along.start, along.stop + halo) for along in part]
                seen = field[rows[states].to(field.device)][(slice(None), *around)]
                window = self._filled_up(self._read(seen, mu[states]).to(dtype))
                found = self._replayed(function, network, window) if self._replayed else function(network, window)
                pieces = [piece if piece.ndim == 2 + axes else piece.unsqueeze(-1) for piece in found]
                out = out or [field.new_empty(len(rows), *cells, piece.shape[-1]) for piece in pieces]
                inner = (slice(None), *(slice(along.stop - along.start) for along in part))
                for whole, piece in zip(out, pieces, strict=True):
                    whole[(states, *part)] = piece[inner]
        return out

    def _read(self, seen: Tensor, mu: Tensor) -> Tensor:
        """Input of the network for coordinates ``[m, *cells, basis, components]`` with ghosts, at ``mu [m]``."""
        if self._reader is not None:
            return self._reader(seen, mu)
        field = seen[..., 0] if self._basis > 1 else seen[..., 0, 0]
        shifted = field + (mu / self.hamiltonian.parameters["g"]).to(field).view(-1, *(1,) * (field.ndim - 1))
        return shifted if self._factor == 1 else self._factor * shifted

    def _pieces(self, states: int, cells: Sequence[int]) -> Iterator[tuple[bool, slice, tuple[slice, ...]]]:
        """Pieces to evaluate: if one sees no ghosts, its states and its cells along each axis.

        Small windows leave room for more states; pieces without ghosts come first.
        """
        together = max(1, _LONGEST[self.domain.device.type] ** 2 // math.prod(self._window))
        starts = product(*(range(0, count, edge) for count, edge in zip(cells, self._window, strict=True)))
        parts = []
        for first, start in product(range(0, states, together), list(starts)):
            part = [
                slice(begin, min(begin + edge, count)) for begin, edge, count in zip(start, self._window, cells, strict=True)
            ]
            beside = [min(along.start, count - along.stop) for along, count in zip(part, cells, strict=True)]
            parts.append((min(beside) >= self.reach, slice(first, first + together), tuple(part)))
        yield from sorted(parts, key=lambda part: not part[0])

    def _filled_up(self, seen: Tensor) -> Tensor:
        """Zeros behind each axis up to a whole window: of another shape, those of PyTorch may add up in another order."""
        if self._fused:
            return seen
        lacking = [edge + 2 * self._halo - seen.shape[axis] for axis, edge in enumerate(self._window, 1)]
        if not any(lacking):
            return seen
        behind = [amount for edge in reversed(lacking) for amount in (0, edge)]
        return pad(seen, [0, 0] * (seen.ndim - 1 - len(self._window)) + behind)

    def _network(self, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
        """The module in a precision and on a device; the one that was given stays as it is."""
        key = (dtype, device)
        if key not in self._converted:
            network = deepcopy(self._module).to(dtype=dtype, device=device).eval()
            if isinstance(network, LevelNetwork):
                g = self.hamiltonian.parameters.get("g", 1.0)  # of no meaning to a network that reads H
                network.at(g / self._energy, self.ensemble.kT / self._energy)
            self._converted[key] = network
        return self._converted[key]


def _prediction(network: Any, field: Tensor) -> tuple[Tensor, ...]:
    return (network(field),)


def _response(network: Any, field: Tensor) -> tuple[Tensor, ...]:
    return cast(tuple[Tensor, ...], network.response(field))


def _with_grand_potential(network: Any, field: Tensor) -> tuple[Tensor, ...]:
    return cast(tuple[Tensor, ...], network.with_grand_potential(field))


class _Arriving:
    """``q [batch, *cells, basis, 1]`` with ``width`` ghosts that are on their way until :meth:`arrived`; collective to make."""

    def __init__(self, q: Tensor, domain: Domain, width: int) -> None:
        cells = [n + 2 * width for n in domain.local_extent]
        self.field = q.new_empty((len(q), *cells, *q.shape[-2:]))
        domain.crop(self.field, width).copy_(q)
        self._finish: Callable[[], Tensor] | None = domain.exchange_start(self.field, [width] * len(cells))

    def arrived(self) -> Tensor:
        """The field with its ghosts; waits for them."""
        if self._finish is not None:
            self._finish()
            self._finish = None
        return self.field


def _window(cells: int, longest: int) -> int:
    """Edge of the windows that cut ``cells`` into the fewest parts of nearly one length."""
    return -(-cells // -(-cells // longest))


def from_files(options: Options, hamiltonian: Hamiltonian, domain: Domain, ensemble: Ensemble) -> NeuralForces:
    """Forces from the model file ``options.model``, with its committee; raises ModelError."""

    def of(model: str) -> NeuralForces:
        module, card = model_for(model, hamiltonian, ensemble, domain.lattice)
        how = options.precision, options.following, options.deterministic
        if options.cuda_graphs:
            require_graphs(module, domain.device)
        replayed = Replayed() if options.cuda_graphs else None
        forces = NeuralForces(module, hamiltonian, domain, ensemble, *how, replayed, card.scaling(hamiltonian))
        forces.field_range = card.field_range
        forces.surroundings = Surroundings.of_card(card.surroundings, card.coupling)
        forces.trained_elsewhere = trained_elsewhere(card, hamiltonian, ensemble)
        return forces

    main = of(options.model)
    if options.committee:
        main.committee = Committee(main, [of(model) for model in options.committee])
    return main
