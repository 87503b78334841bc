"""What pruning costs beside a plain forward pass: python benchmarks/cost.py [--model resnet50] [--images 256] ...

Every cell prunes a torchvision network with random weights in a process of its own, step by step, and appends the
seconds of each step to results/cost.csv; those that are there are skipped. `forward` is the plain model over the same
images in the same batches, the median of runs before, between and after the steps. `ratio` is that of statistics and
solving (ranking, selection, recovery) to it. The machine has to be quiet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.graph import trace
from secateur.measure import keep_memory, macs
from secateur.methods import OfUnits
from secateur.selection import select
from secateur.statistics import collect
from secateur.surgery import apply, make_plan, mask, verify
from secateur.surgery.candidates import candidates

METHODS: dict[str, OfUnits] = {
    "one pass": sc.SNP.paper(),
    "default order, one pass": sc.SNP(recovery=sc.OnePass()),
    "default": sc.SNP(),
}
KEYS = ("model", "size", "images", "batch", "threads", "method", "streams")
STEPS = ("trace", "statistics", "ranking", "surgery", "verification", "recovery")
TABLE = Table(
    Path("results/cost.csv"),
    KEYS,
    (*KEYS, "budget", "macs_ratio", "forward", *STEPS, "ratio", "forward_peak_mb", "peak_mb", "commit", "torch", "cpu",
     "command"),
)  # fmt: skip


def network(name: str) -> nn.Module:
    """Return an untrained network whose activations have the spread of a trained one: time alone counts here."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
    return model.eval()


def peak() -> float:
    """Return the largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, size: int, images: int, batch: int, method: str, streams: bool, threads: int,
            budget: float) -> dict[str, float]:  # fmt: skip
    """Prune step by step; return seconds, memory and what was kept. Runs in a process of its own."""
    keep_memory()
    torch.set_num_threads(threads)
    seconds = dict.fromkeys(STEPS, 0.0)

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[step] += time.perf_counter() - start

    model, how = network(name), METHODS[method]
    data = list(torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0)).split(batch))
    forwards = [forward(model, data)]
    forward_peak = peak()
    with timed("trace"):
        graph = trace(model, data[0])
        chosen = candidates(model, graph, streams=streams)
    with timed("statistics"):
        found = collect(graph, chosen.groups, data, patches=how.needs.patches, loss=how.needs.loss)
    forwards.append(forward(model, data))
    with timed("ranking"):
        ranked = [how.rank(graph, group, found) for group in chosen.groups]
        kept = select(graph, ranked, sc.Budget(macs=budget), how.allocation)
    with timed("surgery"):
        smaller = apply(model, make_plan(model, graph, kept))
    with timed("verification"):
        verify(mask(model, graph, kept), smaller, graph, kept, (data[0][:8],))
    assert how.recovery is not None
    with timed("recovery"):
        how.recovery(graph, kept, found, data, 0)
    forwards.append(forward(model, data))
    plain = statistics.median(forwards)
    solving = seconds["statistics"] + seconds["ranking"] + seconds["recovery"]
    return {
        "forward": plain, **seconds, "ratio": solving / plain, "forward_peak_mb": forward_peak, "peak_mb": peak(),
        "macs_ratio": macs(smaller, (data[0][:1],)) / macs(model, (data[0][:1],)),
    }  # fmt: skip


def forward(model: nn.Module, data: list[Tensor]) -> float:
    """Return the seconds of one plain pass, maps channels last as the statistics have them."""
    model = model.to(memory_format=torch.channels_last)
    start = time.perf_counter()
    with torch.inference_mode():
        for x in data:
            model(x.to(memory_format=torch.channels_last))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="pixels along each side")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    o = parser.parse_args()
    for method in o.methods:
        for streams in (False, True):
            keys = (o.model, o.size, o.images, o.batch, o.threads, method, streams)
            if tuple(map(str, keys)) in TABLE.present():
                continue
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                row = fresh.submit(
                    measure, o.model, o.size, o.images, o.batch, method, streams, o.threads, o.budget
                ).result()
            TABLE.append(dict(zip(KEYS, keys, strict=True)) | row | {
                "budget": o.budget,
            } | TABLE.provenance(
                f"python benchmarks/cost.py --model {o.model} --images {o.images} --methods '{method}'"
            ))  # fmt: skip
            print(
                f"{method}, streams {streams}: {row['ratio']:.2f} of {row['forward']:.1f} s forward; {row}",
                flush=True,
            )


if __name__ == "__main__":
    main()
