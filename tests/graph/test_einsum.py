"""Equations of einsum are spelled out as torch reads them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.graph.einsum import spelled_out


@given(batch=st.lists(st.integers(2, 4), max_size=3), missing=st.integers(0, 3), explicit=st.booleans())
def test_ellipses_are_aligned_at_the_end(batch: list[int], missing: int, explicit: bool) -> None:
    a, b = torch.rand(*batch, 5, 6), torch.rand(*batch[missing:], 6, 7)
    equation = "...ij,...jk" + ("->...ki" if explicit else "")
    terms, result = spelled_out(equation, [a.ndim, b.ndim])
    torch.testing.assert_close(
        torch.einsum(f"{','.join(terms)}->{result}", a, b), torch.einsum(equation, a, b)
    )


@pytest.mark.parametrize("equation", ["ij,jk", "ba,cb", "i,i", "aB,Bc", "ij, jk -> ki", "...", "i...->...i"])
def test_results_are_those_of_torch(equation: str) -> None:
    inputs = equation.partition("->")[0].replace(" ", "").split(",")
    operands = [torch.rand([4] * (len(term) if "..." not in term else 3)) for term in inputs]
    terms, result = spelled_out(equation, [x.ndim for x in operands])
    torch.testing.assert_close(
        torch.einsum(f"{','.join(terms)}->{result}", *operands), torch.einsum(equation, *operands)
    )
