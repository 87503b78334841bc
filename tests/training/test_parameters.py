from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.ground.errors import UnknownNameError
from secateur.training.parameters import choose


def network() -> nn.Module:
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 3),
            "block": nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)),
            "head": nn.Linear(3, 5, bias=False),
        }
    )
    model["head"].weight = model["embed"].weight
    return model


@pytest.mark.parametrize(
    ("only", "exclude", "names"),
    [
        ((), (), ["embed.weight", "block.0.weight", "block.0.bias", "block.1.weight", "block.1.bias"]),
        (("block",), (), ["block.0.weight", "block.0.bias", "block.1.weight", "block.1.bias"]),
        (("*.weight",), (nn.LayerNorm,), ["embed.weight", "block.0.weight"]),
        ((nn.Linear,), (), ["embed.weight", "block.0.weight", "block.0.bias"]),  # the head is the embedding
        ((), ("head.weight", "*.bias"), ["block.0.weight", "block.1.weight"]),
    ],
)
def test_patterns(only: tuple[str, ...], exclude: tuple[str, ...], names: list[str]) -> None:
    assert list(choose(network(), only, exclude)) == names
    assert list(choose(torch.compile(network()), only, exclude)) == names


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match=r"'blok'.*Did you mean 'block'"):
        choose(network(), ("blok",))
    with pytest.raises(UnknownNameError, match="'Conv2d'"):
        choose(network(), exclude=(nn.Conv2d,))
