"""Copies of models that hold tensors with a history, and what is said of those that hold what cannot be copied."""

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

from secateur.ground.copies import copied, copyable
from secateur.ground.errors import SurgeryError


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.seen: dict[str, list[Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        self.seen["features"] = [y]
        return self.b(y)


def masked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "make",
    [Remembering, masked, lambda: nn.Sequential(weight_norm(nn.Linear(4, 2)))],
    ids=["own", "prune", "norm"],
)
def test_tensors_with_a_history_are_copied_as_values(make: object) -> None:
    model, x = make(), torch.randn(3, 4)
    model(x).sum().backward()
    copyable(model)
    twin = copied(model)
    assert torch.equal(twin(x), model(x))
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())
    if isinstance(model, Remembering):
        kept = copied(model).seen["features"][0]
        assert not kept.requires_grad
        assert torch.equal(kept, model.seen["features"][0])
        assert model.seen["features"][0].requires_grad


def test_what_stands_in_for_something_is_taken_over() -> None:
    model = nn.Linear(2, 2)
    assert copied(model, {id(model.weight): model.weight}).weight is model.weight


def test_an_attribute_that_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[1].lock = threading.Lock()
    for use in (copied, copyable):
        with pytest.raises(SurgeryError, match=r"the attribute 1\.lock \(a lock\) cannot be copied.*Remedy"):
            use(model)
