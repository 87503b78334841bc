"""Whole families on the stand-in device, in float32 and bfloat16: prune, save, load, one step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from any_model import ANY
from families import FAMILIES
from standin import device
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import secateur as sc
from secateur.ground.devices import moved
from secateur.ground.inputs import Inputs

NAMES = {"bert", "llama", "t5", "torchvision_vit", "torchvision_swin"}
FAMILY_NAMES = {"denoiser", "high_resolution", "conformer", "graph", "masked_autoencoder"}
Draw = Callable[[int, int], Any]
MODELS: dict[str, tuple[Callable[[], nn.Module], Draw]] = {
    m.name: (m.model, m.batch) for m in ANY if m.name in NAMES
} | {f.name: (f.model, f.inputs) for f in FAMILIES if f.name in FAMILY_NAMES}


def _as(value: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, value)


def _floats(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor) and x.is_floating_point()]


@pytest.fixture(autouse=True)
def tied() -> Iterator[None]:
    """Let modules that move to another kind of device keep tensors tied, as they do when they move to a GPU."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_family_there(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    there = device()
    make, draw = MODELS[name]
    model = make().to(there, dtype)
    batches = [_as(draw(4, seed), dtype) for seed in range(3)]
    result = sc.prune(
        model, batches[0], method=sc.SNP(), budget=sc.Budget(params=0.9), calibration=batches, progress=False
    )
    assert {(p.device, p.dtype) for p in result.model.parameters()} == {(there, dtype)}
    given = Inputs.of(moved(_as(draw(4, 7), dtype), there))
    with torch.inference_mode():
        expected = _floats(given(result.model))
    result.save(tmp_path / "small")
    with torch.inference_mode():
        found = _floats(given(sc.load(tmp_path / "small", lambda: make().to(dtype), device=there)))
    torch.testing.assert_close(found, expected)
    weights = [p for p in result.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in weights]
    sum((x.float() ** 2).mean() for x in _floats(given(result.model))).backward()
    torch.optim.SGD(weights, lr=0.1).step()
    assert any(not torch.equal(a, b) for a, b in zip(before, weights, strict=True))
