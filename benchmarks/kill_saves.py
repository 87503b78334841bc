"""Kill what saves, at random moments: python benchmarks/kill_saves.py [--rounds 100] [--seed 0]

A child process saves an artefact, packs it, and trains with a checkpoint after each step, one of them again and again;
it is killed (SIGKILL) at a random moment. What is then read must be the whole of an older or of the newer one, and the
next save must leave nothing beside it. Prints a line for each kind and fails where that was not so.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import secateur as sc
from secateur.artefact import read, save
from secateur.ground.files import interrupted
from secateur.surgery import fingerprint
from secateur.surgery.plan import Plan
from secateur.training import checkpoint

NAME = "target"


def network(number: int) -> nn.Module:
    """A network whose every value is its number."""
    net = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 8)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(number)
    return net


def save_one(folder: Path, number: int) -> None:
    net = network(number)
    save(folder / NAME, net, Plan({}, (), fingerprint(net)), {"number": number}, {"number": number})


def pack_one(folder: Path, number: int) -> None:
    sc.pack(network(number), folder / NAME)


def checkpoint_one(folder: Path, number: int) -> None:
    checkpoint.write(folder / NAME, {"model": dict(network(number).state_dict())}, {"number": number})


def saved(folder: Path) -> tuple[dict[str, Tensor], set[object]]:
    found = read(folder / NAME)
    return dict(found.tensors), {found.recipe["number"], found.report["number"]}


def packed(folder: Path) -> tuple[dict[str, Tensor], set[object]]:
    return dict(sc.unpack(folder / NAME)), set()


def checkpointed(folder: Path) -> tuple[dict[str, Tensor], set[object]]:
    tensors, data = checkpoint.read(folder / NAME)
    return tensors, {data["number"]}


KINDS: dict[
    str, tuple[Callable[[Path, int], None], Callable[[Path], tuple[dict[str, Tensor], set[object]]]]
] = {
    "save": (save_one, saved),
    "pack": (pack_one, packed),
    "checkpoint": (checkpoint_one, checkpointed),
}


def for_ever(kind: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for number in range(1, 1 << 20):
        KINDS[kind][0](folder, number)


def one_round(kind: str, folder: Path, delay: float) -> tuple[str, bool]:
    """Kill one child; return what is wrong, or nothing, and whether it was in the middle of something."""
    write, look = KINDS[kind]
    write(folder, 0)
    child = multiprocessing.get_context("fork").Process(target=for_ever, args=(kind, folder))
    child.start()
    time.sleep(delay)
    child.kill()
    child.join()
    wrong = []
    middle = os.listdir(folder) != [NAME]
    tensors, numbers = look(folder)
    values = {float(value) for tensor in tensors.values() for value in tensor.unique()} | numbers
    if len(tensors) != 4 or len(values) != 1:
        wrong.append(f"a mixture of {sorted(map(str, values))}")
    write(folder, -1)
    if os.listdir(folder) != [NAME] or interrupted(folder / NAME):
        wrong.append(f"left behind: {sorted(os.listdir(folder))}")
    return "; ".join(wrong), middle


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(options.seed)
    failures = 0
    for kind in KINDS:
        middles = bad = 0
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                wrong, middle = one_round(kind, Path(folder), rng.uniform(0, 0.1))
            middles += middle
            bad += bool(wrong)
            if wrong:
                print(f"{kind}: {wrong}", file=sys.stderr)
        failures += bad
        print(f"{kind}: {options.rounds} kills, {middles} in the middle of writing, {bad} wrong")
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
