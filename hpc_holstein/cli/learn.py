"""``hpc-holstein learn``: a network finds the states that it does not know, and learns them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from hpc_holstein.batch.study import deciding_keys, store_settings
from hpc_holstein.cli import label, parser, run, train
from hpc_holstein.cli.options import configuration, force_overrides, require_one_run
from hpc_holstein.cli.restart import Folder
from hpc_holstein.cli.session import Session
from hpc_holstein.cli.trust import limits_with
from hpc_holstein.config import Config, config_of_text, fit_options
from hpc_holstein.config.builders import build_system, provider_facts, require_dynamics, require_forces
from hpc_holstein.config.kinds import site_axes
from hpc_holstein.config.same_physics import require_fit
from hpc_holstein.config.sections import require_seeds
from hpc_holstein.errors import ConfigError, DataError, SpectrumError, TrainingError
from hpc_holstein.files import replace_text
from hpc_holstein.network.checkpoint import read_card
from hpc_holstein.network.packaged import model_path
from hpc_holstein.output.folder_lock import FolderLock
from hpc_holstein.output.provenance import provenance
from hpc_holstein.output.summary import finished, read_summary
from hpc_holstein.simulation import StopSignals
from hpc_holstein.training import dataset

_FREE = ("learn.rounds", "learn.folder")
_COLUMNS = {
    "round": ("round", "d"),
    "collected": ("states collected", "d"),
    "committee_rms": ("largest rms deviation [t_nn/a]", ".3g"),
    "outside_fraction": ("largest part outside", ".3g"),
    "snapshots": ("snapshots in all", "d"),
    "validation_mse": ("validation MSE [(t_nn/a)^2]", ".3g"),
}


def execute(args: argparse.Namespace, session: Session) -> int:
    """All rounds; returns the exit code, 75 where a run was stopped."""
    with StopSignals():  # also between the commands that it calls, which know what has arrived
        return _execute(Learning(configuration(args), session), session)


def _execute(learning: Learning, session: Session) -> int:
    session.on_root(learning.check)
    with FolderLock(learning.folder) as lock:
        session.on_root(lock.acquire)
        session.on_root(learning.claim)
        networks, rows = learning.start(), []
        for number in range(1, learning.settings.rounds + 1):
            session.say(f"round {number}: network {networks[0]}, committee {', '.join(networks[1:])}")
            row = learning.round(number, networks)
            if row is None:
                session.say(f"stopped in round {number}: the same command continues it")
                return os.EX_TEMPFAIL
            rows.append(row)
            if not row["collected"]:
                session.say(f"round {number} collected nothing: the network is trusted within the limits")
                break
            networks = learning.after(number, networks)
        session.on_root(lambda: learning.write(rows, networks))
    session.say(f"{table(rows)}\nnetwork {networks[0]}\ncommittee {' '.join(networks[1:])}\nwrote {learning.report}")
    return os.EX_OK


class Learning:
    """The rounds in their folder, and the ``report``, a table of them; every method that makes something is collective."""

    def __init__(self, config: Config, session: Session) -> None:
        settings = config.learn
        if config.force.kind != "neural":
            raise ConfigError(f"force.kind = '{config.force.kind}' learns nothing: give force.kind = 'neural' and a model")
        if settings.data is None:
            raise ConfigError("learn.data is missing: give the labelled snapshots to start from, made by `hpc-holstein label`")
        if not config.trust.limited:
            raise ConfigError("[trust] has no limit, so nothing would be collected: give trust.max_deviation or max_outside")
        require_one_run(config, "learn", " and give learn.runs")
        explorations = settings.rounds * settings.runs
        require_seeds("dynamics.seed", config.dynamics.seed, explorations, "learn.rounds * learn.runs")
        require_seeds("training.seed", fit_options(config).seed, settings.members + 1, "learn.members + 1")
        self.config, self.session, self.settings, self.data = config, session, settings, settings.data
        self.folder = Path(settings.folder)
        self.report = self.folder / "learn.json"

    def of_round(self, number: int) -> Path:
        """Folder of a round; 0: before the first one."""
        return self.folder / f"round-{number}"

    def run_folder(self, number: int, one: int) -> Folder:
        """Folder of an exploration."""
        return Folder(self.of_round(number) / f"run-{one}")

    def labelled(self, number: int, one: int) -> Path:
        """File of the labelled states that an exploration collected."""
        return self.run_folder(number, one).path / "labelled.h5"

    def models(self, number: int) -> list[str]:
        """The network and its committee after a round."""
        return [str(self.of_round(number) / f"model-{m}" / "model.safetensors") for m in range(self.settings.members + 1)]

    def after(self, number: int, networks: Sequence[str]) -> list[str]:
        """The network and its committee after a round; those of ``networks`` stay if their training was refused."""
        made = self.models(number)
        pairs = zip(made, [*networks, *made[len(networks) :]], strict=True)
        return self.session.on_root(lambda: [new if Path(new).exists() else old for new, old in pairs])

    def check(self) -> None:
        """On the root: raise what would end a later part, before any work."""
        data, text = Path(self.data), self.config.toml()
        snapshots = dataset.read(data, True, site_axes(self.config.lattice.kind))
        config = config_of_text(text, {"lattice.extent": list(snapshots.extent)})
        require_dynamics(config)
        system = build_system(config)
        require_fit(snapshots, data, system, lambda meant: train.network_for(self.config, meant))
        labeller = config_of_text(text, force_overrides(self.settings.labeller)).force
        for section in (self.config.force, labeller):
            require_forces(section, system)
        train.network_for(self.config, system)
        card = read_card(model_path(self._given()[0], system))
        limits_with(self.config, True, bool(card.field_range), bool(card.surroundings))
        provider_facts(labeller, system)

    def claim(self) -> None:
        """On the root: store the configuration; ConfigError where the folder belongs to another one."""
        store_settings(self.folder / "config.toml", self.config.toml(), _decisive, "learns", "folder with --output")

    def start(self) -> list[str]:
        """The network of the first round and its committee, which is trained where none is given."""
        main, committee = self._given()
        if not committee:
            for member in range(1, self.settings.members + 1):
                self._train(0, member, None)
            committee = self.models(0)[1:]
        return [main, *committee]

    def _given(self) -> tuple[str, list[str]]:
        """Network and committee of the configuration."""
        options = self.config.force.option_values
        return options.get("model", "default"), list(options.get("committee", []))

    def round(self, number: int, networks: Sequence[str]) -> dict[str, Any] | None:
        """Explore with ``networks``, label, train; what it found, None where a run was stopped."""
        done = self.of_round(number) / "round.json"
        row = self.session.on_root(lambda: _row_in(done))
        if row is not None:
            return row
        ones = range(1, self.settings.runs + 1)
        for one in ones:
            if not self._explore(number, one, networks):
                return None
        for one in ones:
            self._label(number, one)
        if self.session.on_root(lambda: any(self.labelled(number, one).exists() for one in ones)):
            for member in range(self.settings.members + 1):
                self._train(number, member, networks[member] if member < len(networks) else None)
        row = self.session.on_root(lambda: self._row(number))
        self.session.on_root(lambda: replace_text(done, json.dumps(row, indent=2) + "\n"))
        return row

    def _explore(self, number: int, one: int, networks: Sequence[str]) -> bool:
        """A run that collects; False where it was stopped.  One that is not physics any more has collected, too."""
        folder, steps = self.run_folder(number, one), self.config.dynamics.steps
        ended = folder.path / "ended.txt"
        seed = self.config.dynamics.seed + (number - 1) * self.settings.runs + one - 1
        if self.session.on_root(lambda: finished(folder.path, steps, seed) or ended.exists()):
            return True
        settings = self.of_round(number) / "explore.toml"
        extent = self.session.on_root(lambda: list(dataset.read(self.data).extent))
        force = {"force.model": networks[0], "force.committee": list(networks[1:])}
        explore = {"trust.action": "collect", "lattice.extent": extent, **force}
        self.session.on_root(lambda: replace_text(settings, config_of_text(self.config.toml(), explore).toml()))
        try:
            return self._call(run, settings, "--seed", seed, "--output", folder.path) == os.EX_OK
        except SpectrumError as error:
            sentence = str(error)
            self.session.say(f"this run ends here: {sentence}")
            self.session.on_root(lambda: replace_text(ended, f"{sentence}\n"))
            return True

    def _label(self, number: int, one: int) -> None:
        """Labels for what a run collected, if it did."""
        states, labelled = self.run_folder(number, one).collected, self.labelled(number, one)
        if self.session.on_root(lambda: states.exists() and not labelled.exists()):
            settings = self.of_round(number) / "explore.toml"
            self._call(label, settings, "--input", states, "--force", self.settings.labeller, "--output", labelled)

    def _train(self, number: int, member: int, start: str | None) -> None:
        """A network on all data up to a round, from the weights of ``start`` where these fit, which stays if that fails."""
        folder = self.of_round(number) / f"model-{member}"
        refused = folder / "refused.txt"
        if self.session.on_root(lambda: refused.exists() or _is_trained(folder)):
            return
        data = self.session.on_root(lambda: self._data(number))
        warm = ["--from", start] if start is not None and train.can_start(start, self.config) else []
        seed = fit_options(self.config).seed + member
        origin = f"from the weights of {start}" if warm else "from random weights"
        self.session.say(f"train {folder} on {len(data)} file(s), {origin}")
        try:
            self._call(train, *data, self.folder / "config.toml", "--seed", seed, "--output", folder, *warm, quietly=True)
        except TrainingError as error:
            if start is None:
                raise
            sentence = f"{error}; {start} stays"
            self.session.say(sentence)
            self.session.on_root(lambda: replace_text(refused, f"{sentence}\n"))
            return
        mse = self.session.on_root(lambda: _validation_mse(folder))
        self.session.say(f"trained {folder}: validation MSE {mse:.3g} (t_nn/a)^2")

    def _data(self, number: int) -> list[str]:
        """All labelled snapshots up to a round, on the root."""
        found = [self.labelled(n, one) for n in range(1, number + 1) for one in range(1, self.settings.runs + 1)]
        return [self.data, *(str(path) for path in found if path.exists())]

    def _row(self, number: int) -> dict[str, Any]:
        """Row of a round in the table, on the root."""
        runs = [self.run_folder(number, one) for one in range(1, self.settings.runs + 1)]
        judged = [summary["trust"] for one in runs if (summary := read_summary(one.summary)) is not None]
        row: dict[str, Any] = {"round": number}
        row["collected"] = sum(len(dataset.read(one.collected)) for one in runs if one.collected.exists())
        for name in ("committee_rms", "outside_fraction"):
            values = [one[f"largest_{name}"] for one in judged if one.get(f"largest_{name}") is not None]
            row[name] = max(values) if values else None
        row["snapshots"] = sum(len(dataset.read(path)) for path in self._data(number))
        trained = Path(self.models(number)[0]).parent
        row["validation_mse"] = _validation_mse(trained) if (trained / "metrics.json").exists() else None
        return row

    def write(self, rows: Sequence[dict[str, Any]], networks: Sequence[str]) -> None:
        """On the root: the report."""
        content = {"rounds": list(rows), "network": networks[0], "committee": list(networks[1:]), **provenance()}
        replace_text(self.report, json.dumps(content, indent=2) + "\n")

    def _call(self, command: ModuleType, *arguments: object, quietly: bool = False) -> int:
        """``hpc-holstein COMMAND ARGUMENTS``, saying nothing but its progress if ``quietly``; returns its exit code."""
        args = parser().parse_args([command.__name__.rpartition(".")[2], *map(str, arguments)])
        session = replace(self.session, quiet=True) if quietly else self.session
        code: int | None = command.execute(args, session)
        return code or os.EX_OK


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a round."""
    width = {key: len(title) + 2 for key, (title, _) in _COLUMNS.items()}
    lines = ["".join(f"{title:>{width[key]}}" for key, (title, _) in _COLUMNS.items())]
    for row in rows:
        cells = {key: "-" if row[key] is None else format(row[key], style) for key, (_, style) in _COLUMNS.items()}
        lines.append("".join(f"{cell:>{width[key]}}" for key, cell in cells.items()))
    return "\n".join(lines)


def _is_trained(folder: Path) -> bool:
    """On the root: whether a training was done to its end; the files of one that was ended while it wrote them are removed.

    Such a one has left its state, which is removed last: nothing else is ours to remove.
    """
    outputs = [folder / name for name in ("model.safetensors", "metrics.json", "loss.png")]
    unfinished = (folder / ".training.pt").exists()
    for path in outputs if unfinished else ():
        path.unlink(missing_ok=True)
    return not unfinished and all(path.exists() for path in outputs)


def _row_in(path: Path) -> dict[str, Any] | None:
    """Row of a round in the table, on the root; None if it did not end, or its file is damaged: then it is found once more."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return row if all(isinstance(row[name], int | float | None) for name in _COLUMNS) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _validation_mse(folder: Path) -> float:
    """Validation error of a finished training, on the root."""
    path = folder / "metrics.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["validation"]["all"]["mse"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}): remove it and its folder, to train again") from None


def _decisive(text: str) -> dict[str, Any]:
    keys = deciding_keys(text)
    return {key: value for key, value in keys.items() if key not in _FREE and not key.startswith("trust.")}
