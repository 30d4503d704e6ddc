"""A performance model of a time step on ``R`` ranks of ``s`` sites each, fitted to the records of a machine.

    python benchmarks/machine/model.py FOLDER --kernels FOLDER/kernels-2.json --predict 64 10000

    t_step(s, R) = s (e t_evaluation + t_rest) + t_fixed                      what a rank computes
                   + max(0, m t_message + B / bandwidth - s t_hidden)         halo, as far as it is not hidden
                   + log2(R) t_sum                                            sums, waiting for the slowest rank included

FOLDER holds records of ``bench strong`` and ``weak`` of one force, with two sizes of tile, on one rank and on several.  A step
takes ``e`` evaluations of the network (1 for other forces); ``m`` messages (2 if one axis of the grid is split, 8 if both are)
of ``B`` bytes together leave a rank in a step; ``t_hidden`` is the time that a rank computes, per site, while they travel.
``t_evaluation`` and ``t_fixed`` are fitted to the force by least squares of the relative error, none negative; ``t_rest`` and
``t_hidden`` are means; message time and bandwidth are those that ``kernels.py`` measured; ``t_sum`` is fitted to the waiting
beyond the halos.  Left out: output, and a network between ranks that is shared or has a topology.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import brentq, nnls

from hpc_holstein.bench.record import Record, read_folder

LARGE = (1e9, 1e11)
"""Sites of lattices that are asked about."""


@dataclass(frozen=True)
class Point:
    """Members of a record that the model reads: sites of a rank, and seconds of a step without output and of its parts."""

    ranks: int
    sites: float
    evaluations: float
    force: float
    rest: float
    waiting: float
    hidden: float
    bytes: float
    crossing: float  # cells along all sides of a tile that meet another rank
    split: int  # axes of the grid that are split

    @classmethod
    def of(cls, record: Record) -> Point:
        result, setting = record.result, record.setting
        parts = {name: value["median"] for name, value in result["parts"].items()}
        split = [axis for axis, count in enumerate(setting["grid"]) if count > 1]
        tile = setting["lattice_per_rank"]
        return cls(
            ranks=record.ranks,
            sites=setting["sites"] / record.ranks,
            evaluations=result.get("evaluations", 1.0),
            force=parts["force"],
            rest=parts["noise"] + parts["integration"] + parts["observables"],
            waiting=parts["halo"] + parts["sums"],
            hidden=result["hidden_seconds"]["median"],
            bytes=result["halo_bytes"],
            crossing=sum(2 * math.prod(tile) / tile[axis] for axis in split),
            split=len(split),
        )

    @property
    def seconds(self) -> float:
        return self.force + self.rest + self.waiting


@dataclass(frozen=True)
class Model:
    """Parameters in seconds, as in the equation of this module; ``bytes_per_cell`` of a side of a tile travel in a step."""

    evaluations: float
    t_evaluation: float
    t_fixed: float
    t_rest: float
    t_message: float
    t_byte: float
    t_hidden: float
    bytes_per_cell: float
    t_sum: float = 0.0

    def seconds(self, sites: float, ranks: int) -> float:
        """A step of ``sites`` a rank in square tiles, corners left out of the bytes."""
        split = 0 if ranks == 1 else 1 if ranks < 4 else 2
        sent = self.bytes_per_cell * 2 * split * math.sqrt(sites)
        return self.computed(sites, self.evaluations) + self.waiting(sites, ranks, split, sent)

    def of_point(self, point: Point) -> float:
        waiting = self.waiting(point.sites, point.ranks, point.split, point.bytes)
        return self.computed(point.sites, point.evaluations) + waiting

    def computed(self, sites: float, evaluations: float) -> float:
        return sites * (evaluations * self.t_evaluation + self.t_rest) + self.t_fixed

    def waiting(self, sites: float, ranks: int, split: int, sent: float) -> float:
        halo = (0, 2, 8)[split] * self.t_message + sent * self.t_byte - sites * self.t_hidden
        return max(0.0, halo) + math.log2(ranks) * self.t_sum

    def efficiency(self, sites: float, ranks: int) -> float:
        """Efficiency of weak scaling, against one rank."""
        return self.seconds(sites, 1) / self.seconds(sites, ranks)

    def efficient_from(self, ranks: int) -> float:
        """Sites a rank from which the weak-scaling efficiency is 90 % and more."""
        return float(10 ** brentq(lambda power: self.efficiency(10**power, ranks) - 0.9, 0, 14))


def fit(points: Sequence[Point], t_message: float, t_byte: float) -> Model:
    """The model of points of one machine and one force."""
    several = [point for point in points if point.ranks > 1]
    if len(points) < 3 or len({round(point.sites) for point in points}) < 2 or not several:
        raise SystemExit("measure three points or more, on one and on several ranks, with two sizes of tile")
    force = np.array([point.force for point in points])
    evaluated = np.array([point.sites * point.evaluations for point in points])
    t_evaluation, t_fixed = nnls(np.stack([evaluated / force, 1 / force], axis=1), np.ones(len(force)))[0]
    model = Model(
        evaluations=max(points, key=lambda point: point.sites * point.ranks).evaluations,
        t_evaluation=float(t_evaluation),
        t_fixed=float(t_fixed),
        t_rest=float(np.mean([point.rest / point.sites for point in points])),
        t_message=t_message,
        t_byte=t_byte,
        t_hidden=float(np.mean([point.hidden / point.sites for point in several])),
        bytes_per_cell=float(np.mean([point.bytes / point.crossing for point in several])),
    )
    levels = np.array([math.log2(point.ranks) / point.seconds for point in points])
    halos = [model.of_point(point) - model.computed(point.sites, point.evaluations) for point in points]
    rest = np.array([(point.waiting - halo) / point.seconds for point, halo in zip(points, halos, strict=True)])
    return replace(model, t_sum=max(0.0, float(levels @ rest / (levels @ levels))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="records of bench strong and weak")
    parser.add_argument("--kernels", type=Path, required=True, help="record of kernels.py on two ranks or more")
    parser.add_argument("--predict", type=int, nargs="+", default=[64, 10_000], metavar="RANKS")
    arguments = parser.parse_args()
    ceilings = json.loads(arguments.kernels.read_text())["result"]["ceilings"]
    points = [Point.of(record) for record in read_folder(arguments.folder)]
    model = fit(points, ceilings["neighbour_latency_s"], 1 / ceilings["neighbour_bandwidth"])
    error = max(abs(model.of_point(point) / point.seconds - 1) for point in points)
    measured = max(point.ranks for point in points)
    print(model)
    print(f"{len(points)} points, largest error {100 * error:.0f} %; beyond {measured} rank(s) all is extrapolated")
    for ranks in arguments.predict:
        print(f"{ranks} ranks: weak-scaling efficiency 90 % from {model.efficient_from(ranks):.3g} sites a rank on")
        for lattice in LARGE:
            seconds = model.seconds(lattice / ranks, ranks)
            print(f"    {lattice:.0e} sites: {1e3 * seconds:.4g} ms a step, {lattice / seconds:.3g} site-steps/s")


if __name__ == "__main__":
    main()
