"""Storage and multiplications, against the definition counted block by block."""

import math

import pytest
import torch

from secateur.blocks import KEEP, UNIFY, ZERO, Block, BlockPattern, Cost, Partition, Reshape, cost


def pattern(partition: Partition, seed: int) -> BlockPattern:
    rng = torch.Generator().manual_seed(seed)
    return BlockPattern(partition, torch.randint(0, 3, partition.grid, generator=rng).to(torch.int8))


@pytest.mark.parametrize(
    "partition",
    [
        Partition(Block(4, 1), (10, 6)),
        Partition(Block(4, 4), (10, 6, 3, 3)),
        Partition(Block(2, 3, 2), (5, 7, 3)),
        Partition(Block(8, 4, reshape=Reshape.INPUTS), (9, 3, 3, 3)),
    ],
    ids=str,
)
def test_block_by_block(partition: Partition) -> None:
    found = pattern(partition, 0)
    rows, columns, taps = partition.extents()
    bits = multiplications = 0
    for (_, i, j, k), state in zip(
        torch.ones(partition.grid).nonzero().tolist(), found.states.flatten().tolist()
    ):
        a, b = int(rows[i]), int(columns[j]) * int(taps[k])
        bits += 2 + {KEEP: 32 * a * b, UNIFY: 32 + a * b, ZERO: 0}[state]
        multiplications += {KEEP: a * b, UNIFY: min(a, b), ZERO: 0}[state]
    counted = cost(found)
    assert (counted.bits, counted.multiplications) == (bits, multiplications)
    shares = [found.share(s) for s in (KEEP, ZERO, UNIFY)]
    entropy = -sum(p * math.log2(p) for p in shares)
    assert counted.coded_bits == pytest.approx(bits - 2 * partition.count + entropy * partition.count)


def test_sixteen_weights_of_one_magnitude_take_a_tenth() -> None:
    partition = Partition(Block(4, 4), (64, 64))
    whole = BlockPattern(partition, torch.full(partition.grid, UNIFY, dtype=torch.int8))
    assert Cost.dense(64 * 64).bits / cost(whole).bits == pytest.approx(512 / 50)
    assert cost(whole).coded_bits == pytest.approx(64 * 64 / 16 * 48)
    assert cost(whole).multiplications == 64 * 64 // 4


def test_depthwise_rows_read_inputs_of_their_own() -> None:
    partition = Partition(Block(8, 1), (32, 1, 3, 3), groups=32)
    whole = BlockPattern(partition, torch.full(partition.grid, UNIFY, dtype=torch.int8))
    assert cost(whole).multiplications == Cost.dense(32 * 9).multiplications
    assert Cost.total([cost(whole), cost(whole).times(3)]).multiplications == 4 * 32 * 9
