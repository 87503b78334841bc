"""Try an installed secateur: python -I tools/smoke.py FOLDER (kernels|dense)

It must be the one in FOLDER, with its package data; with compiled kernels of every instruction set, or with none and
a reason. A bundled network is pruned, saved, loaded, and run by `runtime.compile`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import secateur as sc
from secateur.data import demo_data
from secateur.ground.errors import KernelError
from secateur.measure import batches, top1
from secateur.runtime import INSTRUCTION_SETS, find_library
from secateur.zoo import pretrained

NETWORK = "resnet20-fashion"


def main(folder: str, expected: str) -> None:
    """Fail at the first thing that is not as it should be."""
    assert Path(sc.__file__).is_relative_to(folder), f"secateur comes from {sc.__file__}"
    torch.set_num_threads(1)
    data, dense = demo_data(), pretrained(NETWORK)
    test_x, test_y = data.normalise(data.test_x[:500]), data.test_y[:500]
    result = sc.prune(
        dense,
        test_x[:8],
        method=sc.SNP(),
        budget=sc.Budget(macs=0.5),
        calibration=data.normalise(data.calibration_x).split(100),
        progress=False,
    )
    with tempfile.TemporaryDirectory() as place:
        loaded = sc.load(result.save(Path(place) / "half"), lambda: pretrained(NETWORK))
        compiled = sc.runtime.compile(half_zero(dense), test_x[:8], folder=Path(place))
    scores = [top1(model, batches(test_x, test_y, 100)) for model in (dense, result.model, loaded)]
    assert scores[0] > 0.85, f"the bundled network has an accuracy of {scores[0]:.2f}"
    assert scores[1] == scores[2] > scores[0] - 0.1, f"accuracies: {scores}"
    with torch.inference_mode():
        gap = float((compiled(test_x[:8]) - half_zero(dense)(test_x[:8])).abs().max())
    assert gap < 1e-3, f"compiled, it differs by {gap:.1e}"
    found = find_library(os.environ.get("SECATEUR_KERNELS"))
    assert (found.library is not None) == (expected == "kernels"), found.reason or "there are kernels"
    if found.library is None:
        assert "C++ compiler" in found.reason
        print(f"ok, dense: {found.reason}")
        return
    print(
        f"ok, kernels: {', '.join(filter(runs, INSTRUCTION_SETS))}; chosen: {found.library.instruction_set}"
    )


def half_zero(model: nn.Module) -> nn.Module:
    """Return a copy in which every other block of eight filters is zero."""
    import copy

    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.unflatten(0, (-1, 8))[::2, :, ::2] = 0
    return model


def runs(name: str) -> bool:
    """Tell whether this processor can run an instruction set; that it is there is certain for the portable one."""
    try:
        return find_library(name).library is not None
    except KernelError:
        return False


if __name__ == "__main__":
    main(*sys.argv[1:])
