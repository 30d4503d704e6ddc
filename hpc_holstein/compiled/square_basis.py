"""The symmetry of the square lattice as its own compiled network uses it: its elements, its stencils and weights in its irreps.

A layer between regular representations of the point group G (order 8) is, for the taps ``b`` of its stencil,

    y_g(x) = sum_b sum_h c_b[g^-1 h] v_b[h],    v_b[h] = f_h(x + M_h b),

a convolution over G for each ``b``, which the irreps D of G make block-diagonal:

    Y = sum_b V_b C_b,    V_b = sum_h v_b[h] D(h),    C_b = sum_k c_b[k] D(k)^T,    y_g = 1/8 sum_D d_D tr(D(g)^T Y),

four numbers and a 2x2 matrix: 12 multiplications instead of 64, and V takes 20 additions.  Source: Fourier transforms on finite
groups, Diaconis and Rockmore, doi:10.1090/S0894-0347-1990-1030655-4.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

Element = tuple[bool, int, int]
Offset = tuple[int, int]

ELEMENTS: tuple[Element, ...] = tuple((swap, a, b) for swap, a, b in product((False, True), (1, -1), (1, -1)))
"""``(swap, a, b)``: ``(y, x) -> (a y, b x)``, or ``(a x, b y)`` with ``swap``."""


def moved(element: Element, offset: Offset) -> Offset:
    """``M_h b``."""
    swap, a, b = element
    first, second = offset[::-1] if swap else offset
    return a * first, b * second


def matrix_of(element: Element) -> NDArray[np.int64]:
    """``M_h``, which is also D of the two-dimensional irrep."""
    swap, a, b = element
    return np.array([[0, a], [b, 0]] if swap else [[a, 0], [0, b]], dtype=np.int64)


def characters(element: Element) -> NDArray[np.int64]:
    """D of the one-dimensional irreps: 1, then -1 with ``swap``; both times ``a b``."""
    swap, a, b = element
    by_class = -1 if swap else 1
    return np.array([1, by_class, a * b, by_class * a * b], dtype=np.int64)


def is_square_group(matrices: NDArray[np.int64]) -> bool:
    """True if these are the elements, in whatever order."""
    return sorted(m.tolist() for m in matrices) == sorted(matrix_of(element).tolist() for element in ELEMENTS)


def taps(radius: int, lifting: bool) -> list[Offset]:
    """Offsets ``b`` of a layer; for a lifting one, whose input has no elements, the first of each orbit."""
    edge = range(-radius, radius + 1)
    box = list(product(edge, edge))
    return [b for b in box if b == min(moved(element, b) for element in ELEMENTS)] if lifting else box


def packed(kernel: NDArray[np.float64], matrices: NDArray[np.int64], lifting: bool, together: int) -> NDArray[np.float64]:
    """Weights of one layer, ``[blocks of copies, inputs, taps, 8, together]``, from its dense kernel.

    ``kernel [8 copies, channels, 2 radius + 1, 2 radius + 1]`` with channels ``(copy, element)`` in the order of ``matrices``;
    for a lifting layer the channels it reads are the inputs.  Of each copy come C of the one-dimensional irreps, then the
    matrix by rows, with ``d_D / 8``.
    """
    order = [int(np.flatnonzero((matrices == matrix_of(element)).all(axis=(1, 2)))[0]) for element in ELEMENTS]
    radius, elements = kernel.shape[2] // 2, 1 if lifting else len(ELEMENTS)
    inputs, offsets = kernel.shape[1] // elements, taps(kernel.shape[2] // 2, lifting)
    dense = kernel.reshape(-1, len(ELEMENTS), inputs, elements, *kernel.shape[2:])[:, order[0]]
    found = np.zeros((len(dense), inputs, len(offsets), 8))
    for tap, b in enumerate(offsets):
        images = {moved(element, b): (h, element) for h, element in zip(order, ELEMENTS, strict=True)}
        pairs = list(images.values()) if lifting else list(zip(order, ELEMENTS, strict=True))
        for h, element in pairs:  # of elements that move b to one place, V is the same, and one stands for all
            y, x = moved(element, b)
            c = dense[:, :, 0 if lifting else h, y + radius, x + radius]
            basis = np.array([*characters(element), *(2 * matrix_of(element).T.ravel())]) / len(ELEMENTS)
            found[:, :, tap] += c[..., None] * basis
    return found.reshape(-1, together, *found.shape[1:]).transpose(0, 2, 3, 4, 1)
