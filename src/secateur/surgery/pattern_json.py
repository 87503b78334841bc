"""The JSON form of a block pattern; its states are packed, four to a byte, as base64 text."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import torch

from secateur.blocks import Block, BlockPattern, Partition, Reshape
from secateur.ground.checked import MAX_DIMS, integer, keys, listed, short
from secateur.ground.errors import ArtefactError, StructureError

__all__ = ["pattern_from_json", "pattern_to_json"]

MAX_BLOCKS = 2**28  # 64 MiB of plan.json hold fewer


def pattern_to_json(pattern: BlockPattern) -> dict[str, Any]:
    """Return a pattern as dictionaries, lists, strings, integers and a flag."""
    partition, block = pattern.partition, pattern.partition.block
    states = pattern.states.cpu().numpy().astype(np.uint8).ravel()
    padded = np.concatenate([states, np.zeros(-len(states) % 4, np.uint8)]).reshape(-1, 4)
    packed = padded[:, 0] | padded[:, 1] << 2 | padded[:, 2] << 4 | padded[:, 3] << 6
    return {
        "block": [block.rows, block.columns, block.taps],
        "reshape": block.reshape.value,
        "shape": list(partition.shape),
        "groups": partition.groups,
        "inputs_first": partition.inputs_first,
        "states": base64.b64encode(packed.tobytes()).decode(),
    }


def pattern_from_json(data: object, where: str) -> BlockPattern:
    """Return the pattern that `pattern_to_json` wrote.

    Raises:
        ArtefactError: an entry is missing, unknown, of the wrong kind or out of range.
    """
    entry = keys(data, where, "block", "reshape", "shape", "groups", "inputs_first", "states")
    block = listed(entry["block"], f"{where}.block", lambda n, at: integer(n, at, 1))
    shape = listed(entry["shape"], f"{where}.shape", lambda n, at: integer(n, at, 1))
    if len(block) != 3 or not 2 <= len(shape) <= MAX_DIMS:
        raise ArtefactError(f"{where} has a block or a shape with the wrong number of sizes")
    reshapes = {reshape.value: reshape for reshape in Reshape}
    if not isinstance(entry["reshape"], str) or entry["reshape"] not in reshapes:
        raise ArtefactError(f"{where}.reshape is {short(entry['reshape'])}; known are {', '.join(reshapes)}")
    if not isinstance(entry["inputs_first"], bool):
        raise ArtefactError(f"{where}.inputs_first must be true or false")
    groups = integer(entry["groups"], f"{where}.groups", 1)
    try:
        partition = Partition(
            Block(*block, reshape=reshapes[entry["reshape"]]), shape, groups, entry["inputs_first"]
        )
        return BlockPattern(partition, _states(entry["states"], partition, f"{where}.states"))
    except StructureError as error:
        raise ArtefactError(f"{where}: {error}") from None


def _states(data: object, partition: Partition, where: str) -> torch.Tensor:
    # Before anything of that size is made: a short text may declare a huge grid.
    wanted = -(-partition.count // 4)
    if not isinstance(data, str) or partition.count > MAX_BLOCKS or len(data) != 4 * -(-wanted // 3):
        raise ArtefactError(f"{where} does not hold the {partition.count} states of the grid")
    try:
        packed = np.frombuffer(base64.b64decode(data, validate=True), np.uint8)
    except (ValueError, binascii.Error):
        raise ArtefactError(f"{where} is not base64 text") from None
    if len(packed) != wanted:
        raise ArtefactError(f"{where} does not hold the {partition.count} states of the grid")
    states = np.stack([packed >> shift & 3 for shift in (0, 2, 4, 6)], 1).ravel()
    if states[partition.count :].any():
        raise ArtefactError(f"{where} holds more states than the grid has blocks")
    return torch.from_numpy(states[: partition.count].astype(np.int8)).view(partition.grid)
