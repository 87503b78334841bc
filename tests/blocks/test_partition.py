"""Weights are cut into blocks and put together again; where each weight goes is checked one by one."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.blocks import Block, Partition, Reshape
from secateur.ground.errors import StructureError


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    m, c = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    taps = draw(st.sampled_from([(), (3,), (2, 2), (1, 3)]))
    inputs_first = draw(st.booleans())
    reshape = draw(st.sampled_from(Reshape))
    first, second = (c, m) if inputs_first else (m, c)
    shape = (groups * first, second, *taps)
    _, rows, columns, depth = Partition(Block(1, 1, 1, reshape), shape, groups, inputs_first).sizes
    block = Block(
        draw(st.integers(1, rows)), draw(st.integers(1, columns)), draw(st.integers(1, depth)), reshape
    )
    return Partition(block, shape, groups, inputs_first)


def place(partition: Partition, index: tuple[int, ...]) -> tuple[int, ...]:
    """Return the block that one weight belongs to, step by step from the definition."""
    first, second, *at = index
    per_group = partition.shape[0] // partition.groups
    g, first = divmod(first, per_group)
    m, c = (second, first) if partition.inputs_first else (first, second)
    outputs = partition.shape[1] if partition.inputs_first else per_group
    inputs = per_group if partition.inputs_first else partition.shape[1]
    t = 0
    for size, i in zip(partition.shape[2:], at):
        t = t * size + i
    taps = math.prod(partition.shape[2:])
    if partition.groups > 1 and inputs == 1:
        g, m = 0, g * outputs + m
    block = partition.block
    if block.reshape is Reshape.INPUTS:
        return g, m // block.rows, (c * taps + t) // block.columns, 0
    if block.reshape is Reshape.OUTPUTS:
        return g, (m * taps + t) // block.rows, c // block.columns, 0
    return g, m // block.rows, c // block.columns, t // block.taps


@settings(max_examples=60, deadline=None)
@given(partitions())
def test_every_weight_is_in_the_block_that_the_definition_says(partition: Partition) -> None:
    numbers = torch.arange(partition.count).view(partition.grid)
    spread = partition.spread(numbers)
    assert spread.shape == partition.shape
    for index in itertools.product(*(range(n) for n in partition.shape)):
        assert int(spread[index]) == int(numbers[place(partition, index)])


@settings(max_examples=60, deadline=None)
@given(partitions())
def test_to_blocks_and_back(partition: Partition) -> None:
    weight = torch.randn(partition.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(partition.weight(partition.matrix(weight)), weight)
    blocks = partition.blocks(weight)
    assert torch.equal(partition.unblocked(blocks), weight)
    assert blocks.flatten(4).ne(0).sum(-1).tolist() == partition.entries().tolist()
    assert int(partition.entries().sum()) == weight.numel()


def test_sizes_of_known_layers() -> None:
    assert Partition(Block(8, 1), (64, 32, 3, 3)).grid == (1, 8, 32, 9)
    assert Partition(Block(4, 4, reshape=Reshape.INPUTS), (10, 3, 3, 3)).grid == (1, 3, 7, 1)
    assert Partition(Block(9, 2, reshape=Reshape.OUTPUTS), (10, 3, 3, 3)).grid == (1, 10, 2, 1)
    assert Partition(Block(8, 1), (32, 1, 3, 3), groups=32).grid == (1, 4, 1, 9)  # depthwise
    assert Partition(Block(8, 1), (32, 4, 3, 3), groups=2).grid == (2, 2, 4, 9)
    assert Partition(Block(8, 1), (1000, 64), inputs_first=True).grid == (1, 8, 1000, 1)  # an embedding


def test_a_block_larger_than_the_matrix_is_refused() -> None:
    for block in (Block(9, 1), Block(1, 5), Block(1, 1, 10)):
        with pytest.raises(StructureError, match="larger than the matrix of 8 x 4 x 9"):
            Partition(block, (8, 4, 3, 3))
    with pytest.raises(StructureError, match="larger"):  # blocks do not cross the groups
        Partition(Block(8, 1), (8, 4, 3, 3), groups=2)
    with pytest.raises(StructureError, match="no output x input matrix"):
        Partition(Block(1, 1), (8,))


def test_another_weight_is_refused() -> None:
    with pytest.raises(StructureError, match="does not fit"):
        Partition(Block(2, 1), (4, 2)).blocks(torch.zeros(2, 4))
