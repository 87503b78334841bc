import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse import blocked
from torch import nn

from secateur import runtime
from secateur.runtime.memory import SMALL, Memory


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3 * SMALL), st.booleans()), max_size=40))
def test_what_is_read_is_not_written(steps: list[tuple[int, int, bool]]) -> None:
    """Each tensor keeps its values as long as it, or a view of it, is there."""
    memory = Memory()
    held: dict[int, tuple[torch.Tensor, float]] = {}
    for i, (slot, size, view) in enumerate(steps):
        held.pop(slot, None)
        x = memory.empty((size,)).fill_(i)
        held[slot] = (x[size // 2 :] if view else x, float(i))
        assert all(bool((t == value).all()) for t, value in held.values())


def test_pieces_are_as_many_as_are_used_at_once() -> None:
    memory = Memory()
    for size in (2 * SMALL, 4 * SMALL, 3 * SMALL):
        x, y = memory.empty((size,)), memory.empty((2, size))
        del x, y
    assert sorted(p.memory.size for p in memory._pieces) == [4 * SMALL, 8 * SMALL]


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()
    for layer in (model[0], model[2]):
        weight = layer.weight.data
        weight.copy_(
            blocked(*weight.flatten(1).shape, 8, 0.7, torch.Generator().manual_seed(0)).reshape(weight.shape)
        )
    return model


def test_results_of_earlier_calls_stay(tmp_path: Path) -> None:
    model = network()
    fast = runtime.compile(model, torch.randn(2, 3, 24, 24), folder=tmp_path)
    inputs = [
        torch.randn(1 + i % 3, 3, 24, 24, generator=torch.Generator().manual_seed(i)) for i in range(12)
    ]
    with torch.inference_mode():
        expected = [model(x) for x in inputs]
    with ThreadPoolExecutor(3) as threads:  # each result is kept while others are computed
        found = list(threads.map(fast, inputs))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_their_own(copied: object) -> None:
    memory = Memory()
    x = memory.empty((2 * SMALL,))
    other = copied(memory)  # type: ignore[operator]
    assert isinstance(other, Memory)
    assert other.empty((2 * SMALL,)).data_ptr() != x.data_ptr()
