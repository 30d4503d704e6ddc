"""Whether ``hpc-holstein learn`` lowers the force error, against as many labels chosen without it.

    python benchmarks/learn_loop.py FOLDER RECORD.json --test TEST.h5 [--seeds 1 2] [--quick]

One begins with 40 random snapshots of 40x40 and a network trained on them.  From there, in each round,

learn      explores, collects what the committee does not agree on, labels it and trains, from the weights of the round before
control    the same number of labels, drawn at random from states even in time along as many quenches as ``learn`` explored,
           five of each at least, driven by the control's network of the round before; trained as ``learn`` trains
no data    the snapshots of the beginning for as many more steps of the optimiser

All labels are exact.  After each round ``hpc-holstein validate`` tests each network as a force provider on TEST.h5, exact
states whose seeds nothing here uses (see ``accuracy.py``).  Every command is one that a user types; what FOLDER holds is not
made again.
``--quick``: small lattices and short trainings, to see that all works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from force_rate import machine  # beside this file

from hpc_holstein.training import dataset

REGIMES = {"hot": "0:200", "coarsening": "200:800", "ordered": "800:"}
"""Steps of the protocol of the published figures."""
BY_STEP = ("--regimes", ",".join(f"{name}={steps}" for name, steps in REGIMES.items()))
ARMS = ("learn", "control", "no data")
FULL: dict[str, Any] = {"lattice": "40x40", "random": 40, "steps": 2000, "epochs": 100, "runs": 5, "most": 10, "distance": 60}
QUICK: dict[str, Any] = {"lattice": "10x10", "random": 6, "steps": 60, "epochs": 2, "runs": 2, "most": 2, "distance": 20}
SETTINGS = """preset = "paper-2601.04104"

[dynamics]
steps = {steps}
seed = {seed}000

[force]
kind = "neural"
model = "start/model.safetensors"

[training]
batch = 2
epochs = {epochs}
seed = {seed}
test = 0.0

[trust]
max_deviation = {limit}
action = "collect"
collect_at_most = {most}
collect_distance = {distance}

[learn]
data = "data.h5"
rounds = {rounds}
runs = {runs}
members = 2
labeller = "exact"
"""


class Study:
    """The commands of one seed, in their folder."""

    def __init__(self, folder: Path, size: dict[str, Any], seed: int, rounds: int, limit: float, test: Path) -> None:
        self.folder, self.size, self.seed, self.rounds, self.test = folder, size, seed, rounds, test.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = SETTINGS.format(**size, seed=seed, rounds=rounds, limit=limit)
        (folder / "learn.toml").write_text(self.settings)

    def all(self) -> dict[str, Any]:
        """Every round of every arm, tested."""
        start = "start/model.safetensors"
        self.call("label", "--random", self.size["random"], "--lattice", self.size["lattice"], to="data.h5")
        self.call("train", "data.h5", "learn.toml", to="start")
        self.call("learn", "learn.toml", to="learn")
        models, extra = dict.fromkeys(ARMS, start), []
        found: dict[str, Any] = {
            "seed": self.seed,
            "settings": self.settings,
            "start": self.errors("start", start),
            "rounds": [],
        }
        for number in range(1, self.rounds + 1):
            told = self.folder / f"learn/round-{number}/round.json"
            if not told.exists() or not (row := json.loads(told.read_text()))["collected"]:
                break
            extra.append(self.control_data(number, row["collected"], models["control"]))
            models["learn"] = f"learn/round-{number}/model-0/model.safetensors"
            models["control"] = self.train(f"control/round-{number}", models["control"], extra)
            epochs = round(self.size["epochs"] * row["snapshots"] / self.size["random"])
            models["no data"] = self.train(f"no-data/round-{number}", models["no data"], [], "--epochs", epochs)
            errors = {arm: self.errors(f"{arm.replace(' ', '-')}-{number}", models[arm]) for arm in ARMS}
            told_by_learn = {key: row[key] for key in ("round", "collected", "snapshots", "committee_rms", "outside_fraction")}
            found["rounds"].append({**told_by_learn, "steps_collected": self.steps(number), "test": errors})
        return found

    def train(self, folder: str, start: str, more: list[str], *options: object) -> str:
        """The network of ``folder``, on the data of the beginning and ``more``."""
        self.call("train", "data.h5", *more, "learn.toml", *options, "--from", start, to=folder)
        return f"{folder}/model.safetensors"

    def control_data(self, number: int, wanted: int, driver: str) -> str:
        """Labelled states of quenches, as many as ``learn`` collected."""
        drawn, chosen = f"quenches-{number}.h5", self.folder / f"control-{number}.h5"
        each, seed = max(5, math.ceil(wanted / self.size["runs"])), 100 * self.seed + number
        many = "--quenches", self.size["runs"], "--per-quench", each, "--quench-steps", self.size["steps"], "--even"
        lattice = "--lattice", self.size["lattice"], "--path-force", driver
        self.call("label", *many, *lattice, "--seed", seed, to=drawn)
        if not chosen.exists():
            states = dataset.read(self.folder / drawn, require_labels=True)
            some = np.sort(np.random.default_rng(seed).permutation(len(states))[:wanted])
            dataset.write(chosen, replace(states.select(some), attributes=states.attributes))
        return chosen.name

    def steps(self, number: int) -> list[int]:
        """At which steps ``learn`` collected."""
        files = sorted((self.folder / f"learn/round-{number}").glob("run-*/labelled.h5"))
        return sorted(int(step) for file in files for step in dataset.read(file).step)

    def errors(self, name: str, model: str) -> dict[str, dict[str, float]]:
        """Test errors of a network, by regime."""
        self.call("validate", "--input", self.test, "--force", model, "--reference", "labels", *BY_STEP, to=f"test/{name}")
        found = json.loads((self.folder / "test" / name / "validation.json").read_text())
        wanted = ("mse", "r2", "max_error")
        return {regime: {key: found[regime][key] for key in wanted} for regime in ("all", *REGIMES) if regime in found}

    def call(self, command: str, *arguments: object, to: str) -> None:
        """``hpc-holstein COMMAND ARGUMENTS --output TO``, unless that is there."""
        output = self.folder / to
        done = {"train": output / "metrics.json", "validate": output / "validation.json", "learn": output / "learn.json"}
        if done.get(command, output).exists():
            return
        line = [sys.executable, "-m", "hpc_holstein", command, *map(str, arguments), "--output", to]
        with (self.folder / "log.txt").open("a") as log:
            subprocess.run(line, cwd=self.folder, stdout=log, stderr=log, check=True)


def report(study: dict[str, Any]) -> None:
    """A line a round."""
    print(f"seed {study['seed']}, start: {_told(study['start'])}")
    for row in study["rounds"]:
        for arm in ARMS:
            print(f"round {row['round']}, {row['snapshots']} snapshots, {arm:8s} {_told(row['test'][arm])}")


def _told(errors: dict[str, dict[str, float]]) -> str:
    return "  ".join(f"{regime} {row['mse']:.2e}" for regime, row in errors.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of everything that is made")
    parser.add_argument("record", type=Path, help="JSON record to write")
    parser.add_argument("--test", type=Path, required=True, help="labelled states of other quenches")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=0.03, help="trust.max_deviation [t_nn/a]")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.record.exists():
        parser.error(f"{arguments.record} exists: remove it or choose another file")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    size, limit = (QUICK, 1e-6) if arguments.quick else (FULL, arguments.limit)
    record: dict[str, Any] = {"benchmark": "learn_loop", "machine": machine(), "size": size, "studies": []}
    for seed in arguments.seeds:
        study = Study(arguments.folder / f"seed-{seed}", size, seed, arguments.rounds, limit, arguments.test)
        record["studies"].append(study.all())
        report(record["studies"][-1])
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
