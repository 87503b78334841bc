"""Which weights are cut into blocks, and what is said of the others."""

import pytest
import torch
from torch import nn

from secateur.blocks import Block
from secateur.blocks.blockable import SKIPPED, Place, blockable
from secateur.ground.errors import StructureError, UnknownNameError
from secateur.zoo.models import resnet20


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.attention = nn.MultiheadAttention(16, 2)
        self.up = nn.ConvTranspose2d(16, 8, 2, groups=2)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.small = nn.Linear(16, 2)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.table.weight


def test_first_convolution_and_head_stay_whole_by_default() -> None:
    found = blockable(resnet20(), Block(8, 1))
    assert dict(found.skipped) == {"conv1.weight": "the first convolution", "fc.weight": "the head"}
    assert len(found.partitions) == 20
    whole = blockable(resnet20(), Block(8, 1), skip=())
    assert set(whole.partitions) - set(found.partitions) == {"conv1.weight", "fc.weight"}


def test_every_kind_of_layer() -> None:
    found = blockable(Mixed(), Block(4, 1), skip=())
    grids = {name: p.grid for name, p in found.partitions.items()}
    assert grids == {
        "table.weight": (1, 4, 50, 1),  # dimensions x tokens; shared with the head, hence once
        "attention.in_proj_weight": (1, 12, 16, 1),
        "attention.out_proj.weight": (1, 4, 16, 1),
        "up.weight": (2, 1, 8, 4),
        "depthwise.weight": (1, 4, 1, 9),
    }
    assert found.skipped == {"small.weight": "smaller than a block of 4x1"}
    assert "table.weight" in blockable(Mixed(), Block(4, 1)).skipped


def test_layers_may_be_skipped_or_have_blocks_of_their_own() -> None:
    found = blockable(
        resnet20(),
        Block(8, 1),
        (*SKIPPED, "layer2.*", nn.Linear),
        {"layer3.0.*": Block(4, 4), "layer3": Block(4, 1)},
    )
    assert found.skipped["layer2.0.conv1.weight"] == "skip names layer2.*"
    assert str(found.partitions["layer3.0.conv1.weight"].block) == "4x1"  # the later of two
    assert str(found.partitions["layer1.0.conv1.weight"].block) == "8x1"
    assert Place.HEAD in SKIPPED


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'layer2'"):
        blockable(resnet20(), Block(8, 1), ("layr2",))
    with pytest.raises(UnknownNameError, match="blocks"):
        blockable(resnet20(), Block(8, 1), (), {"nothing": Block(1, 1)})
    with pytest.raises(StructureError, match=r"layer1.0.conv1: .*larger than the matrix"):
        blockable(resnet20(), Block(8, 1), (), {"layer1.0.conv1": Block(32, 1)})
    with pytest.raises(StructureError, match="No weight"):
        blockable(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), Block(8, 1))


def test_computed_weights_are_left_out() -> None:
    net = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 8), nn.Linear(8, 8)
    )
    assert list(blockable(net, Block(4, 1)).partitions) == ["1.weight"]
