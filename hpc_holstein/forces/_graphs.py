"""Network evaluations as CUDA graphs: recorded once for each shape, then one launch in place of one for each operation."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpc_holstein.errors import ConfigError

Outputs = Callable[[Any, Tensor], tuple[Tensor, ...]]
"""From a network and a ghosted field to what it predicts."""

_WARM_UP = 3  # evaluations before the recording, in which libraries choose their algorithms and take their workspace


class Recording(NamedTuple):
    """Tensors of the input and of the outputs, and a function that computes these from that."""

    field: Tensor
    replay: Callable[[], None]
    outputs: tuple[Tensor, ...]


Record = Callable[[Outputs, Any, Tensor], Recording]


def record_graph(function: Outputs, network: Any, field: Tensor) -> Recording:
    """A CUDA graph of ``function(network, field)``, in memory of its own that it keeps."""
    seen = field.clone()
    stream = torch.cuda.Stream(field.device)
    stream.wait_stream(torch.cuda.current_stream(field.device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            function(network, seen)
    torch.cuda.current_stream(field.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(network, seen)
    return Recording(seen, graph.replay, outputs)


class Replayed:
    """Calls of ``function(network, field)`` through recordings, one for each function, network, shape and dtype.

    The outputs are overwritten by the next call: copy what is to stay.  The weights, ``g`` and ``kT`` of a network must not
    change after its first call.
    """

    def __init__(self, record: Record = record_graph) -> None:
        self._record = record
        self._recordings: dict[Hashable, Recording] = {}

    def __call__(self, function: Outputs, network: torch.nn.Module, field: Tensor) -> tuple[Tensor, ...]:
        """The outputs for ``field``."""
        key = (function, network, field.shape, field.dtype, field.device)
        if key not in self._recordings:
            self._recordings[key] = self._record(function, network, field)
        recording = self._recordings[key]
        recording.field.copy_(field)
        recording.replay()
        return recording.outputs


def require_graphs(network: torch.nn.Module, device: torch.device) -> None:
    """Raise ConfigError where evaluations of ``network`` on ``device`` cannot be recorded."""
    if device.type != "cuda":
        raise ConfigError(
            f"force.cuda_graphs = true on the device {device}, where there are no CUDA graphs: set it to false or run on a GPU"
        )
    if network.predicts != "density" or getattr(network, "takes_kT", False):
        raise ConfigError(
            "force.cuda_graphs = true is for networks of one kT that predict the density, and this one is not of that kind: "
            "set it to false"
        )
