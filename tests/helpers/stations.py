"""What a stranger does with a pruned network, station by station: each says "yes", "refused: why" or "no: why".

A station is held against the dense network: what that cannot do either is "refused". So is what the library says
beforehand, as a typed error.
"""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stranger_networks import STRANGERS, Stranger
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.ground.errors import SecateurError

__all__ = ["STATIONS", "Pruned", "as_expected", "go_through", "loaded_in_a_fresh_process", "pruned", "said"]

BATCH = 3
CLOSE = 1e-4


@dataclass(frozen=True, eq=False)
class Pruned:
    """A stranger's network, dense and pruned."""

    stranger: Stranger
    dense: nn.Module
    result: sc.Result


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors with fractions among what a network returns."""
    found = pytree.tree_leaves(model(*inputs))
    return [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@cache
def pruned(stranger: Stranger) -> Pruned:
    """Prune a network as the documents say, once.

    Raises:
        SecateurError: it is refused.
    """
    dense = stranger.model()
    result = sc.prune(
        dense,
        stranger.inputs(2),
        method=sc.SNP(),
        budget=sc.Budget(macs=stranger.macs),
        calibration=[stranger.inputs(16, seed=s) for s in range(4)],
        progress=False,
    )
    ratio = result.report.after.macs / result.report.before.macs
    assert ratio <= stranger.macs, f"{ratio:.2f} of the MACs are left"
    with torch.no_grad():
        inputs = stranger.inputs(BATCH, seed=9)
        pairs = list(zip(outputs(dense, inputs), outputs(result.model, inputs), strict=True))
    assert all(a.shape == b.shape for a, b in pairs), "outputs have other shapes"
    assert any(not torch.equal(a, b) for a, b in pairs), "nothing was changed"
    return Pruned(stranger, dense, result)


# ------------------------------------------------------------------------------------------------------- the stations


def pickles(model: nn.Module, stranger: Stranger) -> None:
    """What comes back from a pickle, and a deep copy, compute the same."""
    inputs = stranger.inputs(BATCH, seed=9)
    with torch.no_grad():
        expected = outputs(model, inputs)
        for back in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert all(map(torch.equal, outputs(back, inputs), expected)), "it computes something else"


def loss_of(model: nn.Module, stranger: Stranger, inputs: tuple[Any, ...]) -> Tensor:
    loss = torch.stack([o.square().mean() for o in outputs(model, inputs)]).sum()
    if stranger.auxiliary:
        loss = loss + getattr(model, stranger.auxiliary)
    return loss


def trains(model: nn.Module, stranger: Stranger) -> None:
    """Steps of a plain optimiser make the loss smaller, and all parameters that had a gradient move."""
    training, inputs = copy.deepcopy(model).train(), stranger.inputs(4, seed=3)
    moving = {name: p for name, p in training.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in moving.items()}
    optimizer = torch.optim.SGD(moving.values(), 1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(training, stranger, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moving.values(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    graded = [n for n, p in moving.items() if p.grad is not None and bool(p.grad.abs().max() > 1e-4)]
    still = [n for n in graded if torch.equal(moving[n], before[n])]
    assert graded, "no parameter has a gradient"
    assert not still, f"{still} stay where they were"
    assert losses[-1] < losses[0], f"the loss goes from {losses[0]:.4g} to {losses[-1]:.4g}"


def adaptable(module: nn.Module) -> bool:
    """Tell whether peft's adapter takes a layer: it wants the rank to be a multiple of groups, and forgets dilation."""
    if type(module) is nn.Linear:
        return True
    return type(module) in (nn.Conv1d, nn.Conv2d) and module.groups == max(module.dilation) == 1


def adapters(model: nn.Module, stranger: Stranger) -> None:
    """Peft's low-rank adapters beside all layers that it takes: each gets a gradient."""
    from peft import LoraConfig, get_peft_model

    names = [name for name, module in model.named_modules() if adaptable(module)]
    config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    adapted = get_peft_model(copy.deepcopy(model), config).train()
    loss_of(adapted.get_base_model(), stranger, stranger.inputs(4, seed=3)).backward()
    lora = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    assert len(lora) == 2 * len(names), "there are not as many adapters as layers"
    without = [name for name, p in lora.items() if p.grad is None or not bool(p.grad.any())]
    assert not without, f"{without[0]} and {len(without) - 1} more have no gradient"


def other_size(model: nn.Module, stranger: Stranger) -> None:
    """It takes inputs of another size, and gives outputs of the shapes that the dense one gives."""
    inputs = stranger.inputs(BATCH, seed=9, other=True)
    with torch.no_grad():
        got, expected = outputs(model, inputs), outputs(stranger.model(), inputs)
    shapes = [[tuple(x.shape) for x in out] for out in (got, expected)]
    assert shapes[0] == shapes[1], f"shapes {shapes[0]}, the dense network's are {shapes[1]}"
    assert all(bool(x.isfinite().all()) for x in got)


def to_onnx(model: nn.Module, stranger: Stranger) -> None:
    """ONNX Runtime computes the same."""
    with TemporaryDirectory() as folder:
        written = sc.export.to_onnx(model, stranger.inputs(BATCH, seed=9), Path(folder) / "model.onnx")
    assert written.max_difference < CLOSE * 10, f"ONNX Runtime differs by {written.max_difference:.1e}"


STATIONS: Mapping[str, Callable[[nn.Module, Stranger], None]] = {
    "pickled": pickles,
    "trained": trains,
    "adapters": adapters,
    "other_size": other_size,
    "onnx": to_onnx,
}


def said(error: BaseException) -> str:
    """Write an error as one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def go_through(station: str, network: Pruned) -> str:
    """Return "yes", "refused: why" where the dense network cannot either, or "no: why"."""
    run, stranger = STATIONS[station], network.stranger
    if station == "other_size" and stranger.other is None:
        return "refused: the dense network takes one size"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(network.result.model, stranger)
        except Exception as error:  # whatever is raised is the result
            wrong = said(error)
        else:
            return "yes"
        try:
            run(network.dense, stranger)
        except Exception as error:
            return f"refused: the dense network neither ({said(error)})"
    return f"no: {wrong}"


def as_expected(station: str, stranger: Stranger, answer: str) -> bool:
    """Tell whether a station was passed, or refused for the reason that the stranger is known to have."""
    if station in stranger.refused:
        return answer.startswith("refused: the dense network") and stranger.refused[station] in answer
    return answer == "yes"


# --------------------------------------------------------------------------------------------------- a fresh process


def keep(network: Pruned, folder: Path) -> None:
    """Save an artefact, and beside it what the network computes."""
    network.result.save(folder / network.stranger.name)
    with torch.no_grad():
        expected = outputs(network.result.model, network.stranger.inputs(BATCH, seed=9))
    save_file(
        {str(i): x.contiguous() for i, x in enumerate(expected)}, folder / f"{network.stranger.name}.out"
    )


def loaded_in_a_fresh_process(networks: Iterable[Pruned]) -> dict[str, str]:
    """Save all networks and load them in one other process; say for each how it went."""
    with TemporaryDirectory() as scratch:
        folder, found = Path(scratch), {}
        for network in networks:
            try:
                keep(network, folder)
            except SecateurError as error:
                found[network.stranger.name] = f"no: {said(error)}"
        done = subprocess.run(
            [sys.executable, __file__, scratch], capture_output=True, text=True, check=False, timeout=300
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return {**json.loads(done.stdout.splitlines()[-1]), **found}


def load_all(folder: Path) -> dict[str, str]:
    """Load what `keep` saved, and compare it bit by bit."""
    torch.set_num_threads(1)
    found = {}
    for stranger in STRANGERS:
        if not (folder / f"{stranger.name}.out").exists():
            continue
        try:
            model = sc.load(folder / stranger.name, stranger.model)
            with torch.no_grad():
                got = outputs(model, stranger.inputs(BATCH, seed=9))
            expected = load_file(folder / f"{stranger.name}.out")
            same = all(torch.equal(x, expected[str(i)]) for i, x in enumerate(got))
            found[stranger.name] = "yes" if same and len(got) == len(expected) else "no: other outputs"
        except Exception as error:
            found[stranger.name] = f"no: {said(error)}"
    return found


if __name__ == "__main__":
    print(json.dumps(load_all(Path(sys.argv[1]))))
