"""Rounding with feedback: what a rounded weight changes of its output is taken up by the weights still to be rounded.

For second moments ``H = E[x x^T]`` of what a layer reads, row ``w`` is rounded one column after the other. With the
upper Cholesky factor ``U`` of ``H^-1`` (``H^-1 = U^T U``) the error ``e = (w_k - q_k) / U_kk`` of column ``k`` moves
the columns behind it by ``-e U_k``, where the output's mean squared error is least, given all that is rounded (optimal
brain surgeon; GPTQ, arXiv 2210.17323). The error that is left is the sum of all ``e^2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["inverse_factor", "rounded"]

DAMPING = 0.01  # of the mean diagonal of H, added to it
BLOCK = 64  # columns whose feedback to those behind is one matrix product


def inverse_factor(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """Return ``U``, upper triangular with ``(H + damping * mean(diag H) I)^-1 = U^T U``, for moments (g, d, d).

    Where rounding made ``H`` indefinite, damping is raised tenfold until it is not; all in float64.

    >>> inverse_factor(4 * torch.eye(2).double()[None], 0.0).diagonal(dim1=1, dim2=2)
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    eye = torch.eye(moments.shape[-1], dtype=torch.float64)
    unit = moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float64).tiny)
    for _attempt in range(12):
        damped = moments + (damping * unit)[:, None, None] * eye
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not bool(failed.any()):
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
            if not bool(failed.any()):
                return upper
        damping = max(10 * damping, 1e-8)
    return (1 / unit.sqrt())[:, None, None] * eye


def rounded(weight: Tensor, upper: Tensor, scales: Tensor, most: int) -> Tensor:
    """Return integers from -most to most for weights (g, m, d), float64, so that ``integers * scales`` replaces them.

    `upper` (g, d, d) is `inverse_factor` of the moments, and columns are rounded in its order; `scales` are (g, m, d).
    Where a constant is added that takes up the mean, the moments are central ones. Weights that are zero stay zero.
    """
    left, zero = weight.clone(), weight == 0
    integers = torch.zeros_like(weight)
    columns = weight.shape[2]
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        part = left[..., start:stop].clone()
        errors = torch.zeros_like(part)
        for j in range(stop - start):
            k = start + j
            q = (part[..., j] / scales[..., k]).round().clamp(-most, most)
            q = torch.where(zero[..., k], 0.0, q)
            integers[..., k] = q
            error = (part[..., j] - q * scales[..., k]) / upper[:, None, k, k]
            part[..., j + 1 :] -= error[..., None] * upper[:, None, k, k + 1 : stop]
            errors[..., j] = error
        left[..., stop:] -= errors @ upper[:, start:stop, stop:]
    return integers
