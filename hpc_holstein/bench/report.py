"""Tables of a folder of records, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpc_holstein.bench.ceilings import UNITS
from hpc_holstein.bench.groups import Group, differences, grouped, machine_key, work_key
from hpc_holstein.bench.model import Model, Point, fit
from hpc_holstein.bench.record import Record
from hpc_holstein.bench.step import PARTS
from hpc_holstein.domain.partition import shown
from hpc_holstein.errors import DataError

LARGE = (1e9, 1e11)
"""Sites of lattices that are asked about."""
_STEPS = 25_000  # of the published production run


@dataclass(frozen=True)
class Fitted:
    """A model with the lines that it was fitted to; ``refusal`` says why there is none."""

    groups: tuple[Group, ...]
    model: Model | None
    refusal: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that a folder says: the lines, the models, kernels and writers."""

    groups: list[Group]
    fitted: list[Fitted]
    tables: list[Record]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Report:
        """Group the records and fit a model to each kind of work of each machine."""
        groups = grouped(records)
        kernels = [record for record in records if record.benchmark == "kernels"]
        works: dict[Any, list[Group]] = {}
        for group in groups:
            if group.first.setting["of"] == "step":
                works.setdefault(work_key(group.first), []).append(group)
        tables = [record for record in records if record.benchmark in ("kernels", "io")]
        return cls(groups, [_fitted(members, kernels) for members in works.values()], tables)

    def model_of(self, group: Group) -> Model | None:
        """The model that covers a line."""
        return next((fitted.model for fitted in self.fitted if group in fitted.groups), None)

    def markdown(self, predicted: Sequence[int] = ()) -> str:
        """All tables; ``predicted``: numbers of ranks that the models are asked about."""
        parts = ["# Scaling report"]
        if len(self.groups) > 1:
            names = ", ".join(differences(self.groups))
            parts.append(
                f"The records make {len(self.groups)} lines, which differ in {names}: each has tables and curves of its own, "
                "and none is compared with another."
            )
        for group in self.groups:
            parts += _group(group, self.model_of(group))
        for record in self.tables:
            parts += _rows(record)
        for fitted in self.fitted:
            parts += _model(fitted, predicted)
        return "\n\n".join(parts) + "\n"


def _fitted(groups: Sequence[Group], kernels: Sequence[Record]) -> Fitted:
    records = [record for group in groups for record in group.records]
    unique = {(record.ranks, tuple(record.setting["lattice"])): record for record in records}  # strong and weak may share one
    same = [record for record in kernels if machine_key(record) == machine_key(records[0])]
    ceilings = max(same, key=lambda record: record.ranks).result["ceilings"] if same else None
    try:
        return Fitted(tuple(groups), fit(list(unique.values()), ceilings))
    except DataError as refusal:
        return Fitted(tuple(groups), None, str(refusal))


def _group(group: Group, model: Model | None) -> list[str]:
    """Rates and parts of one line."""
    unit = group.first.result["unit"]
    head = ["ranks", "grid", f"{unit} [ms]", "min to max [ms]", f"site-{unit}s/s", "speed-up", "efficiency", "model [ms]"]
    rows = []
    for record, efficiency in zip(group.records, group.efficiency, strict=True):
        seconds, rate = record.result["seconds"], record.result["site_steps_per_second"]["median"]
        speed_up = efficiency * record.ranks / group.first.ranks
        predicted = "-" if model is None else _ms(model.of_point(Point.of(record)) + record.part("output"))
        spread = f"{_ms(seconds['min'])} to {_ms(seconds['max'])}"
        cells = [record.ranks, shown(record.setting["grid"]), _ms(record.seconds), spread]
        rows.append([*cells, f"{rate:.3g}", f"{speed_up:.2f}", f"{100 * efficiency:.0f} %", predicted])
    parts = [f"## {group.benchmark.capitalize()} scaling: {group.name}", _machine(group.first), _table(head, rows)]
    if len(group.records) == 1:
        parts.append(
            f"One number of ranks ({group.first.ranks}) tells no speed-up: measure another one into the same folder, on the "
            "same machine and commit."
        )
    if group.first.result["parts"]:
        parts.append("Time of a step, in percent of it:")
        split = [[record.ranks, *(f"{record.shares[name]:.1f}" for name in PARTS)] for record in group.records]
        parts.append(_table(["ranks", *PARTS], split))
    return parts


def _rows(record: Record) -> list[str]:
    """Ceilings and kernels, or writers, of one record."""
    title = "Kernels" if record.benchmark == "kernels" else f"Writers, lattice {shown(record.setting['lattice'])}"
    parts = [f"## {title}, {record.ranks} rank(s)", _machine(record)]
    ceilings: Mapping[str, float] = record.result.get("ceilings", {})
    if ceilings:
        rows = [[UNITS[name][0], f"{value * UNITS[name][2]:.3g}", UNITS[name][1]] for name, value in ceilings.items()]
        parts.append(_table(["ceiling", "measured", "unit"], rows))
    lines = [
        [row["name"], f"{row['rate']:.3g}", row["unit"], row["yardstick"], f"{row['times']:.2f}", f"{100 / row['times']:.0f} %"]
        for row in record.result["rows"]
    ]
    parts.append(_table(["kernel", "rate", "unit", "yardstick", "time in units of it", "percent of it"], lines))
    return parts


def _model(fitted: Fitted, predicted: Sequence[int]) -> list[str]:
    setting = fitted.groups[0].first.setting
    title = f"## Model: {setting['force']}, {setting['dtype']}, {setting['threads']} thread(s) a rank"
    if fitted.model is None:
        return [title, f"No model: {fitted.refusal}."]
    model = fitted.model
    source = "measured by `bench kernels`" if model.measured_messages else "fitted"
    parameters = [
        ["e", f"{model.evaluations:.3g}", "evaluations of the force in a step, on the largest lattice"],
        ["t_evaluation", _with_error(model.t_evaluation, model.t_evaluation_error, 1e9, "ns"), "force, a site and evaluation"],
        ["t_rest", f"{1e9 * model.t_rest:.4g} ns", "noise, integration and observables, a site and step"],
        ["t_fixed", _with_error(model.t_fixed, model.t_fixed_error, 1e3, "ms"), "force, a step"],
        ["t_message", f"{1e6 * model.t_message:.4g} us", f"a message ({source})"],
        ["bandwidth", "-" if not model.t_byte else f"{1e-9 / model.t_byte:.4g} GB/s", f"of a rank ({source})"],
        ["t_hidden", f"{1e9 * model.t_hidden:.4g} ns", "computing while halos travel, a site"],
        ["t_sum", _with_error(model.t_sum, model.t_sum_error, 1e3, "ms"), "sums and waiting, for each doubling of the ranks"],
        ["t_written", f"{1e9 * model.t_written:.4g} ns", "output by the first rank, a site of the lattice and step"],
    ]
    told = (
        f"t_step = s (e t_evaluation + t_rest) + t_fixed + max(0, m t_message + B / bandwidth - s t_hidden) + log2(R) t_sum, "
        f"without output; {model.points} points on up to {model.most_ranks} rank(s), largest error {100 * model.error:.0f} %. "
        "+- is one standard error, from the spread of the repeats."
    )
    parts = [title, told, _table(["parameter", "value", "meaning"], parameters)]
    ranks = sorted({*predicted, model.most_ranks})
    parts += [_efficient(model, count) for count in ranks if count > 1]
    return [*parts, *(_predictions(fitted, model, predicted) if predicted else [])]


def _efficient(model: Model, ranks: int) -> str:
    sites = model.efficient_from(ranks)
    if sites is None:
        return f"On {ranks} ranks the weak-scaling efficiency of the model is below 90 % for every size of tile."
    side = round(sites**0.5)
    return f"On {ranks} ranks the weak-scaling efficiency falls under 90 % below {side}x{side} sites a rank ({sites:.3g})."


def _predictions(fitted: Fitted, model: Model, predicted: Sequence[int]) -> list[str]:
    """At the tile of the largest point, and for lattices of :data:`LARGE`."""
    largest = max((record for group in fitted.groups for record in group.records), key=lambda r: r.sites_per_rank)
    head = ["ranks", "sites", "sites a rank", "step [ms]", "efficiency", "site-steps/s", "memory a rank [GB]", "25,000 steps"]
    rows = []
    for ranks in predicted:
        for sites in (largest.sites_per_rank * ranks, *LARGE):
            here = sites / ranks
            if here >= 1:
                seconds = model.seconds(here, ranks)
                step = f"{_ms(seconds)} +- {100 * model.standard_error(here, ranks) / seconds:.0f} %"
                cells = [ranks, f"{sites:.3g}", f"{here:.3g}", step, f"{100 * model.efficiency(here, ranks):.0f} %"]
                rows.append(
                    [
                        *cells,
                        f"{sites / seconds:.3g}",
                        f"{(model.bytes_site * here + model.bytes_fixed) / 1e9:.3g}",
                        _time(_STEPS * seconds),
                    ]
                )
    device = largest.machine["device"]
    beyond = max(predicted) > model.most_ranks
    assumed = (
        f"Assumed: every rank is like one of these ({largest.machine['cpu'] if device == 'cpu' else device}, "
        f"{largest.setting['threads']} thread(s)), tiles are square, the network between ranks has the latency and bandwidth "
        "of the one that was measured, sums go up a tree in which each doubling of the ranks costs the same, and a step takes "
        f"{model.evaluations:.3g} evaluations, as those of the largest lattice here did. "
        f"Memory: {model.bytes_site:.0f} bytes a site and {model.bytes_fixed / 1e6:.0f} MB a rank, fitted to the peaks that "
        "were measured beyond the program itself. "
        f"Output is left out: a snapshot that the first rank gathers and writes would take "
        f"{_time(model.t_written * largest.setting['snapshot_every'] * LARGE[0])} for 1e9 sites."
    )
    if beyond:
        assumed += f" Nothing was measured beyond {model.most_ranks} rank(s): all of it is extrapolated."
    return ["Prediction:", _table(head, rows), assumed]


def _machine(record: Record) -> str:
    machine = record.machine
    versions = machine["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, device {machine['device']}, host {machine['host']}, "
        f"{machine.get('mpi') or 'no MPI'}, torch {versions.get('torch')}, commit {str(machine.get('git'))[:12]}"
        f"{' with changes' if machine.get('dirty') else ''}, load before {machine.get('load', float('nan')):.2f}, "
        f"{machine.get('date', '')[:10]}."
    )


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _with_error(seconds: float, error: float, scale: float, unit: str) -> str:
    digits = ".2g" if scale * error < 100 else ".0f"
    return f"{scale * seconds:.4g} +- {scale * error:{digits}} {unit}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"


def _time(seconds: float) -> str:
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"
