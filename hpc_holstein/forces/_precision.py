"""In which arithmetic a network is evaluated, whatever the precision of the state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hpc_holstein.forces.neural import Precision


def dtype_of(precision: Precision, state: torch.dtype) -> torch.dtype:
    """Type of weights, field and outputs."""
    return state if precision == "state" else torch.float32


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """The units that convolutions and products run on.

    ``tf32``: on CUDA, products of 10 bits of mantissa, sums in float32; elsewhere it is float32.  ``bfloat16``: products of 7
    bits, activations stored so too; what is no convolution or product stays in float32.  Otherwise IEEE arithmetic: PyTorch
    by itself would take TF32 for float32 convolutions on CUDA.
    """
    tf32 = precision == "tf32"
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
