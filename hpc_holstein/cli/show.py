"""``hpc-holstein show``: a model, a data file or a run in words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpc_holstein.cli.session import Session
from hpc_holstein.config.builders import stated_physics
from hpc_holstein.config.schema import file_schema
from hpc_holstein.errors import DataError
from hpc_holstein.network.checkpoint import describe, read_card
from hpc_holstein.network.packaged import model_path, packaged
from hpc_holstein.network.served import valid_for
from hpc_holstein.storage.trajectory import is_trajectory, open_trajectory, trajectory_of
from hpc_holstein.training import dataset

_LONG = 100  # characters of an attribute that are shown on its line


def execute(args: argparse.Namespace, session: Session) -> None:
    """Say what is there; one rank does it."""

    def told() -> str:
        if args.schema:
            return json.dumps(file_schema(), indent=2)
        return models_in_words() if args.list else in_words(args.what)

    session.on_root(lambda: session.say(told()))


def models_in_words() -> str:
    """The models that come with the package, and for what each serves."""
    lines = []
    for name, path in packaged().items():
        card = read_card(path)
        mse = card.metrics.get("validation.all.mse")
        error = "" if mse is None else f", force MSE {mse:.2g} (t_nn/a)^2 on its validation set"
        hamiltonians = " and ".join(card.hamiltonians)
        lines += [f"{name}: {hamiltonians}, {card.lattice} lattice, {card.architecture}{error}", f"    {valid_for(card)}"]
    return "\n".join(lines)


def in_words(what: str) -> str:
    """The card of a model, or what an HDF5 file holds."""
    path = model_path(what)
    if path.is_dir():
        model = path / "model.safetensors"
        path = model if model.exists() else trajectory_of(path)
    if path.suffix == ".safetensors":
        return describe(read_card(path))
    if is_trajectory(path):
        return _trajectory(path)
    if not path.exists():
        raise DataError(
            f"{path} does not exist: give a model, a snapshot file, the folder of a run or training, or a name of `show --list`"
        )
    if path.suffix not in (".h5", ".hdf5"):
        raise DataError(
            f"{path} is neither a model (*.safetensors) nor an HDF5 file (*.h5): give one of them, or a name of `show --list`"
        )
    return _snapshots(path)


def _trajectory(path: Path) -> str:
    with open_trajectory(path) as trajectory:
        extent = "x".join(map(str, trajectory.extent))
        lines = [
            f"trajectory of {extent} cells: {len(trajectory)} snapshots, "
            f"steps {trajectory.steps[0]} to {trajectory.steps[-1]}, "
            f"t = {trajectory.times[0]:g} to {trajectory.times[-1]:g} hbar/t_nn",
        ]
        series = trajectory.series()
        if len(series["time"]):
            lines.append(f"last observables at t = {series['time'][-1]:g} hbar/t_nn:")
            lines += [f"  {name:<30} {row[-1]:.6g}" for name, row in series.items() if np.isfinite(row[-1]) and name != "time"]
        lines.append(f"physics: {stated_physics(trajectory.attributes).in_words()}")
        return "\n".join([*lines, *_attributes(trajectory.attributes)])


def _snapshots(path: Path) -> str:
    data = dataset.read(path)
    quenches = np.unique(data.quench[data.quench != -1])
    labels = f"forces by {data.label_attributes.get('provider', 'an unknown provider')}" if data.labelled else "not labelled"
    lines = [
        f"{len(data)} snapshots of {'x'.join(map(str, data.extent))} cells, {data.q.dtype}, {labels}",
        f"{int((data.quench == -1).sum())} random, {len(quenches)} quenches, steps {data.step.min()} to {data.step.max()}",
        f"data SHA-256 {data.data_hash}",
    ]
    states, marked = (stated_physics(said) for said in (data.attributes, data.label_attributes))
    lines.append(f"physics of the states: {states.in_words()}")
    if data.label_attributes:
        same = not states.differences(marked) and states.joined(marked) == states
        lines.append(f"physics of the labels: {'the same' if same else marked.in_words()}")
    return "\n".join([*lines, *_attributes(data.attributes)])


def _attributes(attributes: Mapping[str, Any]) -> list[str]:
    """One line each; texts of several lines (the configuration) below their name."""
    lines = []
    for name, value in attributes.items():
        text = str(value)
        if "\n" in text:
            lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
        else:
            lines.append(f"{name:<24} {text if len(text) <= _LONG else text[:_LONG] + ' ...'}")
    return lines
