"""Sites per second of the default network against what it replaces, on one core in one process, float32.

    python benchmarks/speed_ratios.py RECORD.json

enn         the packaged network as runs evaluate it: compiled code, one call for 200x200 sites, the published lattice
window      the same on a window of 64x64
pytorch     the same network on the window by PyTorch alone, as on other devices and for shapes without compiled code
published   a Python loop over sites gathers the 45 neighbours and projects them on the irreps, then E-FNN forms all pair
            products, stores them and multiplies with the weights: the published pipeline as it is described
naive       the same network on features by one convolution: vectorised, with stored products
efnn        the E-FNN of this package, whose products are never stored
regular     the group convolutions of ``enn`` (same stencils, copies and read-out) as one dense kernel between regular
            representations of the whole group of 16 elements, a plain ``conv2d`` with the expanded kernel, as ``escnn`` exports
library     flop/s of one convolution of 128 to 128 channels with 3x3 taps, channels last: the best that the library does
bfloat16    ``pytorch`` with weights and features in bfloat16, fields and read-out in float32, and what it changes

escnn       a network of ``escnn`` with the same channels and stencils (8 copies of the regular representation of D4, since its
            gspaces have no particle-hole exchange; with ReLU), exported to plain PyTorch; left out where it is not installed

All that PyTorch does is on windows of 64x64 sites with their halo, where its activations fit the cache, the published pipeline
on a snapshot of 40x40.  Flop/s of ``enn`` are those of its dense kernels, which all others multiply with; compiled code
multiplies in the basis of the irreps, and what it does there is ``enn_multiply_adds_done``.  Times are the best of many, in
turn, in processor time, so that other work on the machine does not decide; the weights are those of the packaged model, or
untrained, which costs the same.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from _baselines import NaiveEFNN, RegularNetwork, gathered, multiply_adds  # beside this file
from force_rate import machine
from torch import Tensor
from torch.nn import functional as F

from hpc_holstein.lattice import square
from hpc_holstein.network.checkpoint import load_model
from hpc_holstein.network.models import efnn
from hpc_holstein.network.packaged import default_model_path

_LATTICE, _WINDOW, _SNAPSHOT = 200, 64, 40
_CHANNELS = 128
TARGETS = {"published": 300.0, "naive": 100.0, "regular": 2.0, "library": 0.6}


def ours(lattice: Any) -> tuple[Any, Tensor]:
    """The packaged model and a hot field with its halo."""
    module, _ = load_model(default_model_path(), lattice)
    edge = _LATTICE + 2 * int(module.reach)
    return module.float().eval(), 5.27 * torch.randn(1, edge, edge, generator=torch.Generator().manual_seed(0))


def cases(repeats: int) -> tuple[dict[str, Callable[[], object]], dict[str, float], dict[str, Any]]:
    """What is timed, the sites of one call, and what the calls are of."""
    lattice = square.build((_LATTICE, _LATTICE))
    module, whole = ours(lattice)
    edge = _WINDOW + 2 * int(module.reach)
    field = whole[:, :edge, :edge].contiguous()
    torch.manual_seed(0)
    published, fused = NaiveEFNN(lattice), efnn.build(efnn.Options(), lattice).eval()
    around = field[:, 1:-1, 1:-1].contiguous()  # their reach is 3
    for network in (published.network, fused):
        network.calibrate(around)
    periodic = field[0, :_SNAPSHOT, :_SNAPSHOT].double().numpy()
    regular = RegularNetwork(module)
    image = torch.randn(1, _CHANNELS, 66, 66).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(_CHANNELS, _CHANNELS, 3, 3).contiguous(memory_format=torch.channels_last)
    cells = range(_SNAPSHOT)
    calls: dict[str, Callable[[], object]] = {
        "enn": lambda: module(whole),
        "window": lambda: module(field),
        "pytorch": lambda: by_pytorch(module, field),
        "published": lambda: published.on(gathered(periodic, cells, cells, published.basis)),
        "naive": lambda: published(around),
        "efnn": lambda: fused(around),
        "regular": lambda: regular(field),
        "library": lambda: F.conv2d(image, kernel),
        "bfloat16": lambda: in_bfloat16(module, field),
    }
    steerable = exported()
    if steerable is not None:
        channels = torch.randn(1, len(module.options.scales), *field.shape[1:])
        calls["escnn"] = lambda: steerable(channels)
    sites = dict.fromkeys(calls, float(_WINDOW**2)) | {"published": float(_SNAPSHOT**2), "enn": float(_LATTICE**2)}
    exact = by_pytorch(module, field)
    change = in_bfloat16(module, field) - exact
    facts = {
        "enn_multiply_adds": multiply_adds(module),
        "enn_multiply_adds_done": multiplied(module),
        "enn_max_difference": float((module(field) - exact).abs().max()),
        "regular_multiply_adds": regular.multiply_adds,
        "regular_max_difference": float((regular(field) - exact).abs().max()),
        "naive_max_difference": float((published(around) - published.network(around)).abs().max()),
        "bfloat16_density_rms_change": float(change.square().mean().sqrt()),
        "bfloat16_force_mse_change": float((module.g * change).square().mean()),
        "library_flop": 2.0 * _CHANNELS**2 * 9 * _WINDOW**2,
        "repeats": repeats,
    }
    return calls, sites, facts


def exported() -> Any:
    """The network of ``escnn``, without tanh of the input and without Fermi functions; None where it is not installed."""
    try:
        from escnn import gspaces
        from escnn import nn as steerable
    except ImportError:
        return None
    space = gspaces.flipRot2dOnR2(4)
    regular = steerable.FieldType(space, 8 * [space.regular_repr])
    fields = [steerable.FieldType(space, 6 * [space.trivial_repr]), regular, regular, regular, regular]
    layers: list[Any] = []
    for given, wanted, size in zip(fields[:-1], fields[1:], (5, 3, 3, 1), strict=True):
        layers.append(steerable.R2Conv(given, wanted, kernel_size=size, frequencies_cutoff=lambda r: 3 * r))
        layers.append(steerable.ReLU(wanted))
    layers.append(steerable.R2Conv(regular, steerable.FieldType(space, 16 * [space.trivial_repr]), kernel_size=1))
    return steerable.SequentialModule(*layers).eval().export()


def by_pytorch(module: Any, field: Tensor) -> Tensor:
    """``enn`` without compiled code."""
    weight, occupation = module._levels(field, module.kT)
    return (weight * occupation).sum(dim=-1) / weight.sum(dim=-1)


def multiplied(module: Any) -> int:
    """Multiplications of weights with features that compiled code does for a site: 12 a tap where dense kernels need 64."""
    copies, (lifting, *others) = module.options.copies, module.options.radii
    numbers, matrices = 1 + 2 + 2 + 2 + 2 + 4, 3 + 3 + 4 + 4 + 4  # that do not vanish, of the orbits of a stencil of radius 2
    assert lifting == 2
    lift = len(module.options.scales) * copies * (numbers + 2 * matrices)
    convolutions = sum(2 * copies**2 * 12 * (2 * radius + 1) ** 2 for radius in others)
    return lift + convolutions + 2 * copies * module.options.levels


def in_bfloat16(module: Any, field: Tensor) -> Tensor:
    """``enn`` with its convolutions in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return module(field).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="JSON record to write")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.record.exists():
        parser.error(f"{arguments.record} exists: remove it or choose another file")
    torch.set_num_threads(1)
    with torch.no_grad():
        calls, sites, facts = cases(arguments.repeats)
    with torch.inference_mode():
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(arguments.repeats):
            for name, call in calls.items():
                start = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - start)
    rates = {name: sites[name] / seconds for name, seconds in best.items()}
    library = facts["library_flop"] / best["library"]
    flops = 2 * facts["enn_multiply_adds"] * rates["enn"]
    others = ("window", "pytorch", "published", "naive", "efnn", "regular", "escnn")
    ratios = {name: rates["enn"] / rates[name] for name in others if name in rates}
    ratios |= {
        "library": flops / library,
        "library, done": flops / library * facts["enn_multiply_adds_done"] / facts["enn_multiply_adds"],
        "bfloat16": rates["bfloat16"] / rates["pytorch"],
        "naive over efnn": rates["efnn"] / rates["naive"],
    }
    record = {
        "benchmark": "speed_ratios",
        "machine": machine(),
        "threads": 1,
        "dtype": "float32",
        "window": _WINDOW,
        "lattice": _LATTICE,
        **facts,
    }
    record |= {"sites_per_s": {k: v for k, v in rates.items() if k != "library"}, "library_flop_per_s": library}
    if "escnn" in rates:
        record["machine"]["versions"]["escnn"] = version("escnn")
    record |= {"enn_flop_per_s": flops, "ratios": ratios, "targets": TARGETS}
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    for name, rate in record["sites_per_s"].items():
        ratio = f"  enn is {ratios[name]:8.2f} times as fast" if name in ratios and name != "bfloat16" else ""
        print(f"{name:10s} {rate:10.3e} sites/s{ratio}")
    share, done = 100 * ratios["library"], 100 * ratios["library, done"]
    print(f"one large convolution {library:.2e} flop/s, enn {flops:.2e}: {share:.0f} %; of what it does {done:.0f} %")
    print(f"bfloat16: {ratios['bfloat16']:.2f} times pytorch, force MSE changed by {facts['bfloat16_force_mse_change']:.1e}")


if __name__ == "__main__":
    main()
