"""A performance model of a time step on ``R`` ranks of ``s`` sites each, fitted to the records of a machine.

    t_step(s, R) = s (e t_evaluation + t_rest) + t_fixed                      what a rank computes
                   + max(0, m t_message + B / bandwidth - s t_hidden)         halo, as far as it is not hidden
                   + log2(R) t_sum                                            sums, waiting for the slowest rank included

A step takes ``e`` evaluations of the network: more in small and in hot lattices, whose ``mu`` changes faster; 1 for other
forces.  ``m`` messages of ``B`` bytes together leave a rank in a step (those of its grid: 2 if one axis is split, 8 if both
are); ``t_hidden`` is the time that a rank computes, per site, while its halo is on its way.  ``t_step`` holds force, noise,
integration and observables, but no output, which the first rank gathers: it costs ``t_written`` for each site *of the lattice*.

Fit: ``t_evaluation`` and ``t_fixed`` by least squares of the relative error of the force, none negative; ``t_rest``,
``t_hidden`` and ``t_written`` are means; ``t_message`` and bandwidth are the measured ceilings of `bench kernels` where its
record is there, else a least-squares fit to the waiting for halos; ``t_sum`` to the rest of the communication.  Standard
errors are those that the spread of the repeats gives the parameters: what differs from point to point is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from scipy.optimize import brentq, least_squares, nnls

from hpc_holstein.bench.record import Record
from hpc_holstein.errors import DataError

LEAST_POINTS = 3
_SMALLEST, _LARGEST = 1e2, 1e12  # sites of a rank that are looked at
_THRESHOLD = 0.9


@dataclass(frozen=True)
class Point:
    """What the model knows of a record: seconds of a step without output, and their parts."""

    ranks: int
    sites: float  # of a rank
    lattice: float  # sites of all ranks
    evaluations: float
    seconds: float
    force: float
    force_error: float  # standard error of the median
    waiting_error: float
    halo: float
    waiting: float  # halos and sums
    hidden: float
    messages: float
    bytes: float
    crossing: float  # cells along all sides of a tile that meet another rank
    written: float  # output, seconds a step and site of the lattice
    memory: float  # bytes of a rank

    @classmethod
    def of(cls, record: Record) -> Point:
        """The medians of a step."""
        result, setting = record.result, record.setting
        waiting = record.part("halo") + record.part("sums")
        return cls(
            ranks=record.ranks,
            sites=record.sites_per_rank,
            lattice=float(setting["sites"]),
            evaluations=float(result.get("evaluations", 1.0)),
            force=record.part("force"),
            force_error=_standard_error(record, "force"),
            waiting_error=math.hypot(*(_standard_error(record, name) for name in ("halo", "sums"))),
            seconds=record.seconds - record.part("output"),
            halo=record.part("halo"),
            waiting=waiting,
            hidden=float(result.get("hidden_seconds", {"median": 0.0})["median"]),
            messages=float(result.get("messages", 0.0)),
            bytes=float(result.get("halo_bytes", 0.0)),
            crossing=_crossing(setting["grid"], setting["lattice_per_rank"]),
            written=record.part("output") / float(setting["sites"]),
            memory=float(result.get("bytes_per_rank", 0.0)),
        )


@dataclass(frozen=True)
class Model:
    """Parameters in seconds, as in the equation of this module; ``bytes_per_cell`` of a side of a tile travel in a step.

    evaluations  of a step on the largest lattice of the fit, which predictions assume
    t_evaluation_error, t_fixed_error, t_sum_error  standard errors
    bytes_site, bytes_fixed  memory of a rank beyond the program: for each of its sites, and whatever it holds
    error  largest relative error of ``t_step`` over the points of the fit; ``points`` how many there are
    measured_messages  whether ``t_message`` and the bandwidth are measured ceilings, not fitted
    """

    evaluations: float
    t_evaluation: float
    t_evaluation_error: float
    t_rest: float
    t_fixed: float
    t_fixed_error: float
    t_message: float
    t_byte: float
    t_hidden: float
    t_sum: float
    t_sum_error: float
    t_written: float
    bytes_per_cell: float
    bytes_site: float
    bytes_fixed: float
    error: float
    points: int
    most_ranks: int
    measured_messages: bool

    def seconds(self, sites: float, ranks: int, evaluations: float | None = None) -> float:
        """A step of ``sites`` a rank in square tiles, corners left out of the bytes."""
        side = math.sqrt(sites)
        sides, messages = (0, 0) if ranks == 1 else (2, 2) if ranks < 4 else (4, 8)
        evaluations = self.evaluations if evaluations is None else evaluations
        return self.computed(sites, evaluations) + self._waiting(sites, ranks, messages, self.bytes_per_cell * sides * side)

    def standard_error(self, sites: float, ranks: int) -> float:
        """Of :meth:`seconds`, from those of the parameters, as if these were independent."""
        evaluating = self.evaluations * sites * self.t_evaluation_error
        return math.hypot(evaluating, self.t_fixed_error, math.log2(ranks) * self.t_sum_error)

    def of_point(self, point: Point) -> float:
        """A step of a measured point, with its own evaluations, bytes and messages."""
        waiting = self._waiting(point.sites, point.ranks, point.messages, point.bytes)
        return self.computed(point.sites, point.evaluations) + waiting

    def computed(self, sites: float, evaluations: float) -> float:
        """A step without communication."""
        return sites * (evaluations * self.t_evaluation + self.t_rest) + self.t_fixed

    def efficiency(self, sites: float, ranks: int) -> float:
        """Of weak scaling, against one rank."""
        return self.seconds(sites, 1) / self.seconds(sites, ranks)

    def efficient_from(self, ranks: int) -> float | None:
        """Sites a rank from which the weak-scaling efficiency is 90 % and more; None if it never is."""

        def excess(exponent: float) -> float:
            return self.efficiency(10**exponent, ranks) - _THRESHOLD

        low, high = math.log10(_SMALLEST), math.log10(_LARGEST)
        if excess(high) < 0:
            return None
        return float(10 ** brentq(excess, low, high)) if excess(low) < 0 else _SMALLEST

    def _waiting(self, sites: float, ranks: int, messages: float, sent: float) -> float:
        halo = max(0.0, messages * self.t_message + sent * self.t_byte - sites * self.t_hidden)
        return halo + math.log2(ranks) * self.t_sum


def fit(records: Sequence[Record], ceilings: dict[str, float] | None = None) -> Model:
    """The model of records of one machine and one kind of force; ``ceilings`` of the same machine, if they were measured.

    DataError, in one sentence, where the points cannot tell the parameters.
    """
    points = [Point.of(record) for record in records]
    _require_enough(points)
    sites = np.array([point.sites for point in points])
    evaluated = np.array([point.sites * point.evaluations for point in points])
    force, noise = (np.array([getattr(point, name) for point in points]) for name in ("force", "force_error"))
    t_evaluation, t_fixed = _straight(evaluated, force)
    t_evaluation_error, t_fixed_error = _errors(evaluated, force, noise)
    bytes_site, bytes_fixed = _straight(sites, np.array([max(point.memory, 1.0) for point in points]))
    several = [point for point in points if point.ranks > 1]
    t_hidden = float(np.mean([point.hidden / point.sites for point in several]))
    known = ceilings is not None and "neighbour_latency_s" in ceilings
    if known:
        assert ceilings is not None
        t_message, t_byte = ceilings["neighbour_latency_s"], 1 / ceilings["neighbour_bandwidth"]
    else:
        t_message, t_byte = _fit_messages(several, t_hidden)
    draft = Model(
        evaluations=max(points, key=lambda point: point.lattice).evaluations,
        t_evaluation=t_evaluation,
        t_evaluation_error=t_evaluation_error,
        t_rest=float(np.mean([(point.seconds - point.waiting - point.force) / point.sites for point in points])),
        t_fixed=t_fixed,
        t_fixed_error=t_fixed_error,
        t_message=t_message,
        t_byte=t_byte,
        t_hidden=t_hidden,
        t_sum=0.0,
        t_sum_error=0.0,
        t_written=float(np.mean([point.written for point in points])),
        bytes_per_cell=float(np.mean([point.bytes / point.crossing for point in several])),
        bytes_site=bytes_site,
        bytes_fixed=bytes_fixed,
        error=0.0,
        points=len(points),
        most_ranks=max(point.ranks for point in points),
        measured_messages=known,
    )
    return _with_sums(draft, points)


def _straight(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset, none negative, of least squares of the relative error."""
    slope, offset = nnls(np.stack([x / y, 1 / y], axis=1), np.ones(len(y)))[0]
    return float(slope), float(offset)


def _errors(x: np.ndarray, y: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """Standard errors of slope and offset of :func:`_straight`, to first order in the ``noise`` of ``y``."""
    moved = np.linalg.pinv(np.stack([x / y, 1 / y], axis=1)) * (noise / y)
    slope, offset = np.sqrt((moved**2).sum(axis=1))
    return float(slope), float(offset)


def _standard_error(record: Record, part: str) -> float:
    """Of the median of a part, from the range of its repeats, as of normal errors."""
    found, repeats = record.result["parts"].get(part), int(record.setting["repeats"])
    if found is None or repeats < 2:
        return 0.0
    deviations = 2 * NormalDist().inv_cdf((repeats - 0.375) / (repeats + 0.25))  # in the expected range, by Blom's formula
    return math.sqrt(math.pi / (2 * repeats)) * float(found["max"] - found["min"]) / deviations


def _fit_messages(points: Sequence[Point], t_hidden: float) -> tuple[float, float]:
    """``t_message`` and ``1 / bandwidth`` from the waiting for halos, in units of which both are of order one."""
    messages = np.array([point.messages for point in points])
    sent = np.array([point.bytes for point in points])
    if sent.max() == 0:
        return 0.0, 0.0
    hidden = np.array([point.sites * t_hidden for point in points])
    halo, scale = np.array([point.halo for point in points]), np.array([point.seconds for point in points])
    units = np.array([1 / messages.max(), 1 / sent.max()]) * float((halo + hidden).max())

    def residuals(parameters: np.ndarray) -> np.ndarray:
        latency, per_byte = parameters * units
        return np.asarray((np.maximum(0.0, messages * latency + sent * per_byte - hidden) - halo) / scale)

    # From above, where nothing is hidden: below, the gradient is zero.
    found = least_squares(residuals, [1.0, 1.0], bounds=(0, np.inf), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    t_message, t_byte = found.x * units
    return float(t_message), float(t_byte)


def _with_sums(draft: Model, points: Sequence[Point]) -> Model:
    """The same with ``t_sum``, by least squares of what the waiting has beyond the halos, and with its error."""
    levels = np.array([math.log2(point.ranks) / point.seconds for point in points])
    halos = [draft.of_point(point) - draft.computed(point.sites, point.evaluations) for point in points]
    rest = np.array([(point.waiting - halo) / point.seconds for point, halo in zip(points, halos, strict=True)])
    noise = np.array([point.waiting_error / point.seconds for point in points])
    t_sum = max(0.0, float(levels @ rest / (levels @ levels)))
    t_sum_error = float(np.sqrt(levels**2 @ noise**2) / (levels @ levels))
    model = replace(draft, t_sum=t_sum, t_sum_error=t_sum_error)
    error = max(abs(model.of_point(point) / point.seconds - 1) for point in points)
    return replace(model, error=error)


def _require_enough(points: Sequence[Point]) -> None:
    tiles, several = {round(point.sites) for point in points}, [point for point in points if point.ranks > 1]
    if len(points) < LEAST_POINTS or len(tiles) < 2 or not several:
        raise DataError(
            f"{len(points)} point(s) with {len(tiles)} size(s) of tile, {len(several)} of them on several ranks, cannot tell "
            f"the parameters of the model: measure {LEAST_POINTS} or more, on one and on several ranks, with two sizes of tile"
        )


def _crossing(grid: Sequence[int], tile: Sequence[int]) -> float:
    """Cells along the sides of a tile where another rank begins."""
    cells = math.prod(tile)
    return float(sum(2 * cells // length for parts, length in zip(grid, tile, strict=True) if parts > 1))
