"""Which models go through: python benchmarks/coverage.py [--only GLOB ...]

Every model of benchmarks/coverage_models.py gets random values everywhere, is traced, pruned to 70 % of its MACs by
filter norms, residual streams included, compared with the masked model (law 1) on inputs that were not traced, saved,
and loaded onto a fresh one (law 2). Multiply-accumulates, dense and pruned, are counted from the trace and by torch's
own counter in a run of one sample (law 10). Each runs in a process of its own with limits on time and memory. Rows are
appended to results/coverage.csv; those that are there are skipped: delete a row to try its model again.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import multiprocessing
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from coverage_models import MODELS, Entry
from table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import secateur as sc
from secateur.artefact import load, save
from secateur.graph import Graph, Kept, trace
from secateur.ground.errors import BudgetError
from secateur.ground.inputs import Inputs
from secateur.ground.modes import evaluating
from secateur.measure.count import macs_of_a_run
from secateur.methods import OfUnits
from secateur.selection import Constraints, remaining, select, smallest
from secateur.statistics import Statistics, state_tensors
from secateur.surgery.candidates import Candidates, candidates
from secateur.surgery.cutting import cut

TABLE = Table(
    Path("results/coverage.csv"),
    ("source", "model"),
    ("source", "model", "status", "prunable_share", "macs_ratio", "groups", "frozen", "reasons", "max_difference",
     "seconds", "macs_agree"),
)  # fmt: skip
SHARE = 0.7
SECONDS = 400
BYTES = 12 << 30


def randomise(model: nn.Module) -> None:
    """Give every parameter and statistic a value that is not trivial, else masked = shrunk may hold for no reason."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for name, value in module.named_buffers(recurse=False):
                if name == "running_var":
                    value.uniform_(0.5, 1.5, generator=rng)
                elif name == "running_mean":
                    value.normal_(0, 0.2, generator=rng)
        for parameter in model.parameters():
            if parameter.ndim <= 1 or parameter.squeeze().ndim <= 1:
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.2)
            elif parameter.abs().max() < 1e-3:
                parameter.normal_(0, 0.05, generator=rng)


def prunable_share(graph: Graph, chosen: Candidates) -> float:
    """Return the share of the MACs that is spent in layers of which the candidates own a part."""
    owned = {s.parameter for group in chosen.groups for s in group.slices}
    macs = graph.macs()
    return sum(macs[layer.node] for layer in graph.layers if layer.weight in owned) / sum(macs.values())


def reasons(graph: Graph, chosen: Candidates) -> str:
    """Return why dimensions stay, most frequent first: of frozen parameters, then of whole groups."""
    frozen = Counter(f"{f.reason} [{f.op}]" if f.op else f.reason for f in graph.frozen)
    whole = Counter(reason.split(" (/")[0][:160] for reason in chosen.refused.values())
    parts = [f"{n} x {text}" for text, n in frozen.most_common()]
    return "; ".join(parts + [f"{n} groups: {text}" for text, n in whole.most_common()])


def first_sample(graph: Graph) -> Inputs:
    """Return the first sample of the example; all of it where the model takes no other batch size."""
    args, kwargs = graph.program.exported.example_inputs
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    dims = graph.program.batch_dims if graph.program.dynamic else (None,) * len(leaves)
    alone = [x if d is None else x.narrow(d, 0, 1) for x, d in zip(leaves, dims, strict=True)]
    return Inputs(*pytree.tree_unflatten(alone, spec))


def macs_agree(graph: Graph, models: Mapping[str, tuple[nn.Module, Kept]]) -> str:
    """Say whether what the trace counts for each model is what torch's kernels do in a run of one sample."""
    found, one = [], first_sample(graph)
    for name, (model, kept) in models.items():
        traced, run = graph.total_macs(kept), macs_of_a_run(model, one, graph.program.held)
        if traced != run:
            found.append(f"{name}: {traced} traced, {run} run")
    return "; ".join(found) or "yes"


def call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    with evaluating(model), torch.inference_mode():
        leaves = pytree.tree_leaves(model(*args, **kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def examine(entry: Entry) -> dict[str, object]:
    """Take one model through the line and return its row without the time."""
    torch.manual_seed(0)
    model = entry.make().eval()
    randomise(model)
    inputs = [entry.inputs(batch, torch.Generator().manual_seed(batch)) for batch in (2, 3)]
    (args, kwargs), (others, named) = (((), i) if isinstance(i, dict) else (i, {}) for i in inputs)
    graph = trace(model, *args, **kwargs)
    if not graph.program.dynamic:
        others, named = args, kwargs
    chosen = candidates(model, graph, streams=True)
    method: OfUnits = sc.Magnitude()
    nothing = Statistics(0, {}, {}, state_tensors(graph.program))
    ranked = [method.rank(graph, group, nothing) for group in chosen.groups]
    row: dict[str, object] = {
        "prunable_share": prunable_share(graph, chosen),
        "groups": len(graph.groups),
        "frozen": len(graph.frozen),
    }

    def pick(candidates: Candidates) -> Any:
        left = remaining(ranked, candidates.groups)
        try:
            return select(graph, left, sc.Budget(macs=SHARE), method.allocation)
        except BudgetError:
            return smallest(left, Constraints())

    made = cut(model, graph, chosen, pick, Inputs(others, named))
    row["macs_ratio"] = graph.total_macs(made.kept) / graph.total_macs()
    row["max_difference"] = made.verification.relative
    row["macs_agree"] = macs_agree(graph, {"dense": (model, {}), "pruned": (made.model, made.kept)})
    row["reasons"] = reasons(graph, made.candidates)
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder) / "model", made.model, made.plan, {"model": entry.name}, {})
        torch.manual_seed(1)
        loaded = load(path, entry.make)
    with torch.no_grad():
        pairs = [call(m, others, named) for m in (made.model, loaded, model)]
    for smaller, again, dense in zip(*pairs, strict=True):
        if not torch.equal(smaller, again):
            raise AssertionError("saved is not loaded: the outputs differ")
        assert smaller.shape == dense.shape
    changed = max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, _, b in zip(*pairs, strict=True)
    )
    if changed < 1e-3 and made.kept:
        raise AssertionError(
            f"the pruned model differs from the dense one by {changed:.1e} only: nothing is shown"
        )
    # It still trains.
    trained = copy.deepcopy(made.model).train()
    outputs = [
        o for o in pytree.tree_leaves(trained(*others, **named)) if isinstance(o, Tensor) and o.requires_grad
    ]
    sum(o.square().mean() for o in outputs).backward()  # type: ignore[union-attr]
    return {**row, "status": "ok"}


def child(entry: Entry, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        pipe.send(examine(entry))
    except BaseException as error:  # whatever a stranger's model raises is the result
        traceback.print_exc()
        pipe.send({"status": f"{type(error).__name__}: {str(error)[:500]}"})


def run(entry: Entry) -> dict[str, object]:
    """Examine a model in a forked process, which has the libraries loaded already."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(entry, sender))
    start = time.perf_counter()
    process.start()
    sender.close()
    row: dict[str, object] = {"status": f"took longer than {SECONDS} s"}
    if receiver.poll(SECONDS):
        try:
            row = receiver.recv()
        except EOFError:
            process.join()
            row = {"status": f"the process ended with exit code {process.exitcode}"}
    process.kill()
    process.join()
    seconds = round(time.perf_counter() - start, 1)
    return {"source": entry.source, "model": entry.name, **row, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], help="globs over source:model")
    parser.add_argument("--out", type=Path, default=TABLE.path)
    options = parser.parse_args()
    table = Table(options.out, TABLE.keys, TABLE.columns)
    wanted = [e for e in MODELS if any(fnmatch.fnmatch(f"{e.source}:{e.name}", g) for g in options.only)]
    if any(e.source != "transformers" for e in wanted):
        import timm  # noqa: F401  (before the processes are forked)
        import torchvision  # noqa: F401
    if any(e.source == "transformers" for e in wanted):
        import transformers  # noqa: F401
    for entry in wanted:
        if (entry.source, entry.name) not in table.present():
            row = run(entry)
            table.append(row)
            print(
                entry.source, entry.name, row["status"], row.get("macs_ratio", ""), row["seconds"], flush=True
            )


if __name__ == "__main__":
    main()
