"""Layers on symmetry-adapted features: products sorted by irrep, and activations that commute with the group.

Features are one tensor ``[copies, d, sites]`` per irrep, in the order of the irreps: sites last, so that all is vectorised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpc_holstein.symmetry.clebsch_gordan import clebsch_gordan
from hpc_holstein.symmetry.irreps import Irrep

Features = list[Tensor]

_ROUND_OFF = 1000.0  # units of machine precision below which a feature that symmetry forbids is not told from zero


class ConstantsModule(nn.Module):
    """A module whose constants keep full precision: a change of dtype casts them from float64, not from what they were."""

    def __init__(self) -> None:
        super().__init__()
        self._exact: dict[str, Tensor] = {}

    def register_constant(self, name: str, value: NDArray[np.float64]) -> None:
        """Register ``value`` as a buffer ``name`` that is moved with the module and not saved."""
        self._exact[name] = torch.tensor(value, dtype=torch.float64)
        self.register_buffer(name, self._exact[name].to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            self.get_buffer(name).copy_(value)
        return self


class ProductLinear(ConstantsModule):
    """Linear map within every irrep, of the features and of all their pairwise products.

        z^c_o = sum_i w_oi x^c_i + sum_(a,b) sum_(i,j) w_oij sum_kl C^(ab->c)_kl x^a_ik x^b_jl

    with ``C`` the Clebsch-Gordan tensors; a pair of features is counted once, and a feature is not multiplied with itself.
    ``weights[c]`` is ``[copies_out, features]``: the columns are the features of irrep ``c``, then the products, by ``(a, b)``
    with ``a <= b`` and ``(i, j)`` in lexicographic order (``i < j`` within one irrep), as if they were concatenated.
    The products are contracted as they are formed, never stored: three times less memory traffic.
    """

    def __init__(self, irreps: Sequence[Irrep], copies_in: Sequence[int], copies_out: Sequence[int]) -> None:
        super().__init__()
        self.copies_in, self.copies_out = tuple(copies_in), tuple(copies_out)
        self.paths: dict[tuple[int, int], list[tuple[int, int, str]]] = {}  # (a, b) -> (c, first column, buffer of C)
        columns = list(self.copies_in)
        for a in range(len(irreps)):
            for b in range(a, len(irreps)):
                self._add_paths(irreps, a, b, columns)
        self.columns = tuple(columns)
        self.weights = nn.ParameterList(
            torch.randn(out, features) / math.sqrt(features) for out, features in zip(self.copies_out, columns, strict=True)
        )

    def _add_paths(self, irreps: Sequence[Irrep], a: int, b: int, columns: list[int]) -> None:
        for c in range(len(irreps)):
            if self._pairs(a, b) == 0 or self.copies_out[c] == 0:
                continue
            for copy, tensor in enumerate(clebsch_gordan(irreps[a], irreps[b], irreps[c])):
                name = f"coupling_{a}_{b}_{c}_{copy}"
                self.register_constant(name, tensor)
                self.paths.setdefault((a, b), []).append((c, columns[c], name))
                columns[c] += self._pairs(a, b)

    def _pairs(self, a: int, b: int) -> int:
        n, m = self.copies_in[a], self.copies_in[b]
        return n * (n - 1) // 2 if a == b else n * m

    def multiply_adds(self, dimensions: Sequence[int]) -> int:
        """Multiplications of weights with features, per site, for irreps of the given dimensions."""
        return sum(w.numel() * d for w, d in zip(self.weights, dimensions, strict=True))

    def bilinear_forms(self) -> dict[tuple[int, int], Tensor]:
        """The weights of the products as matrices ``[copies_out of all targets * n_b, n_a]``, once per evaluation."""
        forms = {}
        for (a, b), targets in self.paths.items():
            n, m = self.copies_in[a], self.copies_in[b]
            blocks = []
            for c, start, _ in targets:
                block = self.weights[c][:, start : start + self._pairs(a, b)]
                if a == b:
                    i, j = torch.triu_indices(n, n, offset=1, device=block.device)
                    block = block.new_zeros(len(block), n * n).index_copy(1, i * n + j, block)
                blocks.append(block.reshape(-1, n, m).transpose(1, 2))
            forms[a, b] = torch.cat(blocks).reshape(-1, n)
        return forms

    def forward(self, features: Features, forms: dict[tuple[int, int], Tensor]) -> Features:
        """Apply the map; ``forms`` are those of :meth:`bilinear_forms`."""
        outputs = [_mix(w[:, : len(x)], x) for w, x in zip(self.weights, features, strict=True)]
        for (a, b), targets in self.paths.items():
            left, right = features[a], features[b]
            half = _mix(forms[a, b], left).view(-1, *right.shape[:1], *left.shape[1:])  # [out, n_b, d_a, sites]
            halves = half.split([self.copies_out[c] for c, _, _ in targets])
            for (c, _, name), part in zip(targets, halves, strict=True):
                coupled = (self.get_buffer(name)[..., None] * right[:, None, :, None]).sum(dim=2)  # [n_b, d_a, d_c, sites]
                partners = [(part * coupled[:, :, m]).sum(dim=(1, 2)) for m in range(coupled.shape[2])]
                outputs[c] = outputs[c] + torch.stack(partners, dim=1)
        return outputs


def _mix(weight: Tensor, feature: Tensor) -> Tensor:
    """Linear combinations of copies, ``[out, n]`` on ``[n, d, sites]``."""
    return (weight @ feature.flatten(1)).view(-1, *feature.shape[1:])


class SigmoidNorm(nn.Module):
    """The published activation ``y -> y/|y| sigmoid(|y| + b)``, one ``b`` per copy; ``|y|`` is the norm over the partners.

    On irreps of dimension 1 it is ``sign(y) sigmoid(|y| + b)``.  The published form is 0/0 for a vanishing doublet, and it
    makes +-1 of the round-off of any feature that symmetry forbids (all but two in a perfectly ordered state).  Here a
    feature with ``|y|`` below 1000 units of machine precision is zero and stays zero; elsewhere the function is the
    published one.
    """

    def __init__(self, copies: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.ParameterList(torch.zeros(n) for n in copies)

    def forward(self, features: Features) -> Features:
        """Apply to every feature."""
        return [self._activate(y, b) for y, b in zip(features, self.bias, strict=True)]

    @staticmethod
    def _activate(y: Tensor, bias: Tensor) -> Tensor:
        squared = y.square().sum(dim=1, keepdim=True)
        vanishes = squared < (_ROUND_OFF * torch.finfo(y.dtype).eps) ** 2
        norm = torch.where(vanishes, 1.0, squared).sqrt()  # never 0, so the gradient is finite too
        return torch.where(vanishes, 0.0, y / norm * torch.sigmoid(norm + bias[:, None, None]))
