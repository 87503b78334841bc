import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.ground.errors import DataError
from secateur.measure import agreement, batches, top1


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_top1_does_not_depend_on_the_batch_size(n: int, size: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 4, generator=g), torch.randint(0, 4, (n,), generator=g)
    expected = (x.argmax(1) == y).double().mean().item()
    assert top1(nn.Identity(), batches(x, y, size)) == pytest.approx(expected)


def test_agreement_compares_classes_in_evaluation_mode() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    flip = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        flip.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.4]]))
    noisy = nn.Sequential(nn.Dropout(0.99), flip)
    assert agreement(noisy, nn.Identity(), [x]) == 0.75
    assert noisy.training


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        top1(nn.Identity(), [])
    with pytest.raises(DataError, match=r"\(N, classes\).*\(2, 3, 4\)"):
        agreement(nn.Identity(), nn.Identity(), [torch.zeros(2, 3, 4)])
