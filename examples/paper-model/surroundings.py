"""Write the surroundings of training sites on the card of a model whose training data is no longer there.

    hpc-holstein label --random 100 --quenches 12 --per-quench 10 --path-force atomic --force neural --seed 1 --output states.h5
    python examples/paper-model/surroundings.py states.h5 MODEL.safetensors

The states are of the kinds that the model was trained on, made anew: the random ones are a part of those of ``make.sh``, and
the quenches start from the same coordinates, driven by the atomic limit.  A fifth of the quenches and of the random states is
held out and tells what part of unfamiliar sites is usual.  Weights and everything else on the card stay as they are.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from hpc_holstein.domain.halo import CartesianDomain
from hpc_holstein.domain.transport import SerialTransport
from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import describe, load_model, save_model
from hpc_holstein.network.surroundings import surroundings_of
from hpc_holstein.training import dataset
from hpc_holstein.training._fields import FieldData, split


def main(states: Path, model: Path) -> None:
    """Replace the model file by one with the same weights."""
    snapshots = dataset.read(states, require_labels=True)
    module, card = load_model(model)
    sets, g = split(snapshots, validation=0.2, test=0.0, seed=0), card.parameters["g"]
    training, held_out = (
        FieldData(snapshots.select(sets[name]), module, g, torch.float64, torch.device("cpu")).inputs[..., None]
        for name in ("training", "validation")
    )
    found = surroundings_of(training, held_out, g, CartesianDomain(square.build(snapshots.extent), SerialTransport()))
    along = snapshots.quench != -1
    plan = snapshots.attributes
    quenches = f"{int(along.sum())} states along {plan['quench.count']} quenches ({plan['quench.path']} forces)"
    random = f"{int((~along).sum())} random ones, seed {plan['random.seed']}"
    found["states"] = f"{quenches} and {random}, like those of the training, which are not kept"
    save_model(model, module, replace(card, surroundings=found), overwrite=True)
    print(describe(replace(card, surroundings=found)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
