"""Clebsch-Gordan tensors of real irreps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpc_holstein.symmetry.irreps import Irrep, orthonormal_copies


def clebsch_gordan(a: Irrep, b: Irrep, c: Irrep) -> NDArray[np.float64]:
    """Coefficients of ``c`` in the product of ``a`` and ``b``: ``C[copies, d_a, d_b, d_c]``, with no copies where it does not.

    If ``x`` and ``y`` transform as ``a`` and ``b`` then ``z_l = sum_jk C_jkl x_j y_k`` transforms as ``c``:

        sum_j'k' D_a(g)_jj' D_b(g)_kk' C_j'k'l = sum_l' C_jkl' D_c(g)_l'l        for every element g
        sum_jk C^m_jkl C^m'_jkl' = delta_mm' delta_ll'

    Over all ``c`` and copies the tensors are a complete orthonormal basis of the product.  Phase: the overlap of the first
    partner with the first product state ``x_j y_k`` that is not orthogonal to the copy is positive.  An irrep of complex type
    has further intertwiners, which are these followed by a matrix that commutes with ``c``.
    """
    product = np.einsum("gij,gkl->gikjl", a.matrices, b.matrices)
    states = a.dimension * b.dimension
    product = product.reshape(-1, states, states)
    order = len(product)
    copies = round(float((a.character * b.character) @ c.character) / order / c.commutant_dimension)
    projected = (np.einsum("gn,gj->nj", product[:, :, state], c.matrices[:, :, 0]) / order for state in range(states))
    return orthonormal_copies(projected, copies).reshape(copies, a.dimension, b.dimension, c.dimension)
