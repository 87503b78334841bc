"""What planning costs, of two versions of the library: python benchmarks/planning.py --before TREE [--models ...]

Each cell prunes one network with the default SNP in processes of their own, the code of the working tree TREE and
that of this one by turns, on one thread. `seconds_*` are CPU seconds of the process (`time.process_time`, the least of
the turns), which other work on the machine changes less than the time on the wall. `peak_gb_*` is the largest resident
memory of the process up to the end of a phase. `quality_*` is the mean squared difference of the pruned network's
outputs from the dense one's on fresh inputs, as a share of their power (for SmolLM2 the ratio of perplexities): the
smaller, the better. `width` is that of a decoder's block; of smollm2 the number of its first layers that are there.

Networks: a decoder of two blocks in the form of Llama with random weights (`llama`, by width), a pitch detector in the
form of CREPE tiny with random weights, kernels of 512 and 64 taps (`crepe`), a sentence encoder (`minilm`), and
SmolLM2-135M (`smollm2`), 64 windows of 512 tokens, 65 % of the parameters of its layers kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from table import Table
from torch import Tensor, nn

TABLE = Table(
    Path("results/planning.csv"),
    ("model", "width", "phase"),
    ("model", "width", "phase", "seconds_before", "seconds_after", "peak_gb_before", "peak_gb_after",
     "quality_before", "quality_after", "commit", "cpu", "threads", "command"),
)  # fmt: skip
PHASES = ("statistics", "ranking", "recovery")


@dataclass(frozen=True)
class Problem:
    """What is pruned: a network, calibration batches, fresh ones, and the share of the MACs or parameters kept."""

    model: nn.Module
    batches: list[Any]
    fresh: list[Any]
    budget: dict[str, float]


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight
        return made


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.size = width // heads
        self.times = heads // shared
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, shared * self.size, bias=False)
        self.v = nn.Linear(width, shared * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = k.repeat_interleave(self.times, 1), v.repeat_interleave(self.times, 1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        made: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return made


class Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return made


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.attention = Norm(width), Attention(width, width // 64, width // 128)
        self.between, self.mlp = Norm(width), Gated(width, 8 * width // 3 // 64 * 64)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        made: Tensor = x + self.mlp(self.between(x))
        return made


def structured(width: int, samples: int, seed: int) -> Tensor:
    """Return rows whose second moments fall off as those of a trained network do, and which follow one another."""
    basis = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1)))[0]
    noise = torch.randn(samples, 128, width, generator=torch.Generator().manual_seed(seed))
    for i in range(1, noise.shape[1]):
        noise[:, i] = 0.6 * noise[:, i - 1] + 0.8 * noise[:, i]
    scale = (1 + torch.arange(width)) ** -0.6
    made: Tensor = noise * (scale / scale.square().mean().sqrt()) @ basis
    return made


def llama(width: int) -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(Block(width), Block(width)).eval()
    batches = list(structured(width, 64, 2).split(8))
    return Problem(model, batches, list(structured(width, 8, 3).split(8)), {"params": 0.7})


class Crepe(nn.Module):
    """CREPE tiny: six convolutions over 1,024 samples of sound, then 360 pitches."""

    def __init__(self) -> None:
        super().__init__()
        sizes, taps = (1, 128, 16, 16, 16, 32, 64), (512, 64, 64, 64, 64, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.ZeroPad1d((254, 254) if k == 512 else (31, 32)),
                nn.Conv1d(a, b, k, stride=4 if k == 512 else 1), nn.ReLU(), nn.BatchNorm1d(b), nn.MaxPool1d(2),
            )
            for a, b, k in zip(sizes, sizes[1:], taps, strict=False)
        )  # fmt: skip
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        made: Tensor = self.classifier(x.transpose(1, 2).flatten(1))
        return made.sigmoid()


def sounds(count: int, seed: int) -> Tensor:
    """Return notes with harmonics in noise, (count, 1, 1024)."""
    g = torch.Generator().manual_seed(seed)
    time_ = torch.arange(1024) / 16_000
    pitch = 50 * 2 ** (5 * torch.rand(count, 1, 1, generator=g))
    phase = 2 * math.pi * torch.rand(count, 8, 1, generator=g)
    loud = torch.rand(count, 8, 1, generator=g) / torch.arange(1, 9).view(8, 1)
    tones = loud * torch.sin(2 * math.pi * pitch * torch.arange(1, 9).view(8, 1) * time_ + phase)
    return tones.sum(1, keepdim=True) + 0.05 * torch.randn(count, 1, 1024, generator=g)


def crepe(width: int) -> Problem:
    torch.manual_seed(0)
    model = Crepe()
    data = sounds(256, 2)
    with torch.no_grad():  # so that the BatchNorms know what comes
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 1.0
        model(data)
    return Problem(model.eval(), list(data.split(32)), list(sounds(64, 3).split(32)), {"macs": 0.5})


def minilm(width: int) -> Problem:
    from minilm import calibration, network
    from verses import kjv, web

    tokenizer, model = network()
    texts = [[v[key] for key in sorted(v)] for v in (kjv(), web())]
    batches = calibration(tokenizer, texts[0][:4000], 512)
    return Problem(model, batches, calibration(tokenizer, texts[1][20_000:21_000], 64), {"macs": 0.7})


def smollm2(width: int) -> Problem:
    from decoder import TESTED, network, spread, windows
    from verses import kjv, web

    tokenizer, model = network()
    model.model.layers = model.model.layers[:width]
    model.config.num_hidden_layers = width
    without = range(TESTED - 1000, TESTED + 2000)
    batches = [{"input_ids": w} for w in spread(tokenizer, kjv(), 64, without).split(8)]
    fresh = [{"input_ids": w} for w in windows(tokenizer, web(), 8, TESTED).split(1)]
    blocks, everything = (sum(p.numel() for p in part.parameters()) for part in (model.model.layers, model))
    return Problem(model, batches, fresh, {"params": 1 - 0.35 * blocks / everything})


NETWORKS = {"llama": llama, "crepe": crepe, "minilm": minilm, "smollm2": smollm2}


def called(model: Any, batch: Any) -> Tensor:
    found = model(**batch) if isinstance(batch, dict) else model(batch)
    return found if isinstance(found, Tensor) else found[0]


@torch.inference_mode()
def quality(problem: Problem, smaller: Any, perplexities: bool) -> float:
    """Return the error on fresh inputs as a share of the dense network's power, or the ratio of perplexities."""
    error = power = 0.0
    losses = [0.0, 0.0]
    for batch in problem.fresh:
        dense, found = called(problem.model, batch), called(smaller, batch)
        error += float((dense - found).double().square().sum())
        power += float((dense - dense.mean(0)).double().square().sum())
        if perplexities:
            for i, y in enumerate((dense, found)):
                losses[i] += float(nn.functional.cross_entropy(y[0, :-1], batch["input_ids"][0, 1:]))
    return math.exp((losses[1] - losses[0]) / len(problem.fresh)) if perplexities else error / power


def measure(name: str, width: int) -> dict[str, float]:
    """Prune step by step with whichever library is imported; return CPU seconds, peaks and the error."""
    import secateur as sc
    from secateur.graph import trace
    from secateur.selection import select
    from secateur.statistics import collect
    from secateur.surgery import apply
    from secateur.surgery.candidates import candidates
    from secateur.surgery.values import repaired

    torch.set_num_threads(1)
    found: dict[str, float] = {}

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        start = time.process_time()
        yield
        found[f"seconds {phase}"] = time.process_time() - start
        found[f"peak {phase}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    problem, method = NETWORKS[name](width), sc.SNP(patches=name != "smollm2")
    first = problem.batches[0]
    model: Any = problem.model
    named = {k: v[:2] for k, v in first.items()} if isinstance(first, dict) else None
    graph = trace(model, first[:2]) if named is None else trace(model, **named)
    chosen = candidates(model, graph)
    with timed("statistics"):
        statistics = collect(graph, chosen.groups, problem.batches, patches=method.needs.patches)
    with timed("ranking"):
        ranked = [method.rank(graph, group, statistics) for group in chosen.groups]
        kept = select(graph, ranked, sc.Budget(**problem.budget), method.allocation)
    assert method.recovery is not None
    with timed("recovery"):
        tensors = method.recovery(graph, kept, statistics, problem.batches, 0)
    smaller = apply(model, repaired(model, graph, kept, tensors))
    return found | {"quality": quality(problem, smaller, name == "smollm2")}


def turn(tree: Path, name: str, width: int) -> dict[str, float]:
    """Measure with the library of a working tree, in a process of its own."""
    paths = [str(tree / "src"), str(Path(__file__).parent)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--measure", name, "--width", str(width)],
        env=env, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} {width}, {tree.name}: {result}", flush=True)
    return result


def compared(before: Path, name: str, width: int, turns: int) -> None:
    """Append the rows of one network."""
    trees = before, Path(__file__).resolve().parent.parent
    found = [[turn(tree, name, width) for tree in trees] for _ in range(turns)]
    for phase in PHASES:
        row: dict[str, object] = {"model": name, "width": width, "phase": phase}
        for i, when in enumerate(("before", "after")):
            row[f"seconds_{when}"] = min(pair[i][f"seconds {phase}"] for pair in found)
            row[f"peak_gb_{when}"] = max(pair[i][f"peak {phase}"] for pair in found)
            if phase == "recovery":
                row[f"quality_{when}"] = found[-1][i]["quality"]
        command = (
            f"python benchmarks/planning.py --before TREE --models {name} --width {width} --turns {turns}"
        )
        TABLE.append(row | TABLE.provenance(command) | {"threads": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path, help="a working tree with the library as it was")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--width", type=int, nargs="+", default=[0], help="of llama; the number of layers of smollm2"
    )
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--measure", choices=NETWORKS, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.measure:
        print(json.dumps(measure(o.measure, o.width[0])))
        return
    if o.before is None:
        parser.error("--before: give the folder of a working tree (git worktree add FOLDER COMMIT).")
    for name in o.models:
        for width in o.width if name in ("llama", "smollm2") else [0]:
            compared(o.before.resolve(), name, width, o.turns)


if __name__ == "__main__":
    main()
