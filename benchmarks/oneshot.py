"""One-shot pruning without training, measured: python benchmarks/oneshot.py [--models ...] [--budgets ...]

Every cell prunes a zoo network with 1,000 training images, unlabelled but where the variant says "labels", and appends
rows to results/oneshot.csv; cells that are there already are skipped. One run gives two rows: without recovery and with
it (Torch-Pruning repairs nothing: one row). The default has a third, "label-free", after gradient steps on the same
images: no longer without training. `--methods` chooses contenders. `--finetune` adds the accuracy after the last of 15
epochs of fine-tuning to the cells that the table shows it for.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from table import Table
from torch import Tensor, nn
from training import finetune

import secateur as sc
from secateur.case import Evaluate
from secateur.data import ImageData, calibration, load_images
from secateur.data.images import calibration_index
from secateur.measure import batches, compare_latency, size, top1
from secateur.methods import Method
from secateur.recovery import Joint
from secateur.selection import Uniform
from secateur.zoo import pretrained

MODELS = {"resnet20-cifar10": "cifar10", "vgg16bn-quarter-cifar10": "cifar10"}
BUDGETS = (0.7, 0.5, 0.35)
SEEDS = (0, 1, 2)
IMAGES = 1_000
KEYS = ("model", "method", "variant", "recovery", "budget", "seed", "n_calibration")
TABLE = Table(
    Path("results/oneshot.csv"),
    KEYS,
    ("model", "dataset", "method", "variant", "recovery", "budget", "seed", "n_calibration", "macs_ratio",
     "params_ratio", "latency_ratio", "bytes_ratio", "acc_dense", "acc_pruned", "acc_recovered", "acc_finetuned",
     "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    """A method of the table, by the names under which its rows stand."""

    method: str
    variant: str
    recovery: str  # "none" where there is none to compare with
    label_free: bool = False  # rows after gradient steps without labels as well: no longer "without training"

    def build(self, seed: int) -> Method:
        """Return the method, for a seed."""
        match self.method, self.variant:
            case "snp", "default" | "streams":
                return sc.SNP()
            case "snp", "joint":
                return sc.SNP(recovery=sc.Sequential(joint=Joint()))
            case "snp", "paper":
                return sc.SNP.paper()
            case "magnitude", p:
                return sc.Magnitude(p=int(p.removeprefix("l")), recovery=sc.OnePass())
            case "batch-norm-scale", _:
                return sc.BatchNormScale(recovery=sc.OnePass())
            case "taylor", "no labels":
                return sc.Taylor(recovery=sc.OnePass())
            case "taylor", "labels":
                return sc.Taylor(nn.functional.cross_entropy, recovery=sc.OnePass())
            case "taylor", _:
                return sc.Taylor(nn.functional.cross_entropy, allocation=Uniform(), recovery=sc.OnePass())
            case _:
                return sc.Random(seed=seed, recovery=sc.OnePass())


CONTENDERS = (
    Contender("snp", "joint", "sequential"),
    Contender("snp", "default", "sequential", label_free=True),
    Contender("snp", "streams", "sequential"),
    Contender("snp", "paper", "one-pass"),
    Contender("magnitude", "l1", "one-pass"),
    Contender("magnitude", "l2", "one-pass"),
    Contender("batch-norm-scale", "uniform", "one-pass"),
    Contender("taylor", "labels", "one-pass"),
    Contender("taylor", "labels, uniform", "one-pass"),
    Contender("taylor", "no labels", "one-pass"),
    Contender("random", "uniform", "one-pass"),
    Contender("torch-pruning", "group-magnitude", "none"),
    Contender("torch-pruning", "group-magnitude, global", "none"),
    Contender("torch-pruning", "group-taylor, labels", "none"),
    Contender("torch-pruning", "group-taylor, labels, global", "none"),
)
FINETUNED = {("snp", "default"), ("snp", "paper"), ("magnitude", "l1")}


@dataclass(frozen=True)
class Outcome:
    """What a contender made of a network."""

    ratios: Mapping[str, float | None]  # of MACs, parameters, bytes and latency, against the dense network
    pruned: float  # accuracy before recovery
    recovered: float | None = None
    distilled: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # by phase


def with_secateur(
    contender: Contender,
    model: nn.Module,
    data: ImageData,
    budget: float,
    seed: int,
    accuracy: Evaluate,
    distill: sc.Distill | None,
) -> Outcome:
    images, labels = labelled(data, seed)
    result = sc.prune(
        model,
        data.normalise(data.test_x[:16]),
        method=contender.build(seed),
        budget=sc.Budget(macs=budget),
        calibration=list(zip(images.split(100), labels.split(100), strict=True)),
        evaluate=accuracy,
        seed=seed,
        limits=sc.Limits(streams=contender.variant == "streams"),
        distill=distill,
    )
    report = result.report
    assert report.scores is not None
    assert report.scores.pruned is not None
    scores = report.scores
    return Outcome(report.ratios(), report.scores.pruned, scores.recovered, scores.distilled, report.seconds)


def with_torch_pruning(
    criterion: str, model: nn.Module, data: ImageData, budget: float, seed: int, accuracy: Evaluate
) -> Outcome:
    from torch_pruning_contender import torch_pruned  # an extra of the benchmarks alone

    example = data.normalise(data.test_x[:16])
    start = time.perf_counter()
    pruned = torch_pruned(criterion, model, example, *labelled(data, seed), budget)
    seconds = {"pruning": time.perf_counter() - start}
    before, after = size(model, (example,)), size(pruned, (example,))
    ratios = {unit: getattr(after, unit) / getattr(before, unit) for unit in ("macs", "params", "bytes")}
    latency = compare_latency(model, pruned, (example,)).ratio
    return Outcome(ratios | {"latency": latency}, accuracy(pruned), seconds=seconds)


def labelled(data: ImageData, seed: int) -> tuple[Tensor, Tensor]:
    """Return the calibration images of a seed with their labels, which only some criteria look at."""
    index = calibration_index(len(data.train_x), IMAGES, seed)
    return data.normalise(data.train_x[index]), data.train_y[index]


def run_cell(
    contender: Contender, name: str, data: ImageData, budget: float, seed: int, dense: float
) -> None:
    """Prune once and append the row without recovery, the row with it and, if there is one, the label-free row."""
    keys = {"model": name, "method": contender.method, "variant": contender.variant, "budget": str(budget),
            "seed": str(seed), "n_calibration": str(IMAGES)}  # fmt: skip
    further = f"{contender.recovery}+label-free"
    recoveries = dict.fromkeys(("none", contender.recovery, *([further] if contender.label_free else ())))
    wanted = [r for r in recoveries if _key(keys, r) not in TABLE.present()]
    if not wanted:
        return
    test = data.normalise(data.test_x)

    def accuracy(model: nn.Module) -> float:
        quick = copy.deepcopy(model).to(memory_format=torch.channels_last)
        return dense if model is original else top1(quick, batches(test, data.test_y, 100))

    original = pretrained(name)
    start = time.perf_counter()
    if contender.method == "torch-pruning":
        found = with_torch_pruning(contender.variant, original, data, budget, seed, accuracy)
    else:
        distill = sc.Distill() if further in wanted else None
        found = with_secateur(contender, original, data, budget, seed, accuracy, distill)
    accuracies = {contender.recovery: found.recovered, further: found.distilled, "none": None}
    row = keys | {
        "dataset": data.name, "acc_dense": dense, "seconds": time.perf_counter() - start,
        "macs_ratio": found.ratios["macs"], "params_ratio": found.ratios["params"],
        "latency_ratio": found.ratios["latency"], "bytes_ratio": found.ratios["bytes"], "acc_pruned": found.pruned,
    } | TABLE.provenance(
        f"python benchmarks/oneshot.py --models {name} --budgets {budget} --seeds {seed}"
    )  # fmt: skip
    for recovery in wanted:
        TABLE.append(row | {"recovery": recovery, "acc_recovered": accuracies[recovery]})
    recovered = "".join(f", {name} {value:.4f}" for name, value in accuracies.items() if value is not None)
    print(f"{name} {contender.method} {contender.variant} macs {budget} seed {seed}: dense {dense:.4f}, pruned "
          f"{found.pruned:.4f}{recovered} ({', '.join(f'{k} {v:.1f} s' for k, v in found.seconds.items())})",
          flush=True)  # fmt: skip


def run_finetuning(contender: Contender, recover: bool, name: str, data: ImageData, dense: float) -> None:
    """Prune at half the MACs with seed 0, fine-tune for 15 epochs and append a row."""
    keys = {"model": name, "method": contender.method, "variant": contender.variant, "budget": "0.5", "seed": "0",
            "n_calibration": str(IMAGES)}  # fmt: skip
    recovery = (contender.recovery if recover else "none") + "+finetuned"
    if _key(keys, recovery) in TABLE.present():
        return
    original = pretrained(name)
    method = contender.build(0) if recover else sc.Magnitude(p=1)
    test = data.normalise(data.test_x)
    images = calibration(data, IMAGES, 0)
    start = time.perf_counter()
    result = sc.prune(
        original, test[:16], method=method, budget=sc.Budget(macs=0.5), calibration=images.split(100)
    )
    before = top1(result.model, batches(test, data.test_y, 100))
    checkpoint = Path(f"runs/finetune/{name}-{contender.variant}-{recovery}.ckpt")
    tuned = finetune(result.model, data, epochs=15, seed=0, checkpoint=checkpoint)
    after = top1(tuned, batches(test, data.test_y, 100))
    ratios = result.report.ratios()
    TABLE.append(keys | {
        "dataset": data.name, "recovery": recovery, "acc_dense": dense, "acc_recovered": before,
        "acc_finetuned": after, "seconds": time.perf_counter() - start, "macs_ratio": ratios["macs"],
        "params_ratio": ratios["params"], "latency_ratio": ratios["latency"], "bytes_ratio": ratios["bytes"],
    } | TABLE.provenance(f"python benchmarks/oneshot.py --finetune --models {name}"))  # fmt: skip
    print(
        f"{name} {contender.method} {contender.variant} {recovery}: {before:.4f} -> {after:.4f}", flush=True
    )


def _key(keys: dict[str, str], recovery: str) -> tuple[str, ...]:
    return tuple((keys | {"recovery": recovery})[k] for k in KEYS)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    methods = list(dict.fromkeys(c.method for c in CONTENDERS))
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--finetune", action="store_true", help="only the fine-tuned cells")
    options = parser.parse_args(list(arguments) if arguments is not None else sys.argv[1:])
    for name in options.models:
        data = load_images(MODELS[name])
        dense = top1(pretrained(name), batches(data.normalise(data.test_x), data.test_y, 100))
        if options.finetune:
            for contender in CONTENDERS:
                if (contender.method, contender.variant) in FINETUNED:
                    run_finetuning(contender, True, name, data, dense)
                    if contender.method == "magnitude":
                        run_finetuning(contender, False, name, data, dense)
            continue
        for seed in options.seeds:
            for budget in options.budgets:
                for contender in (c for c in CONTENDERS if c.method in options.methods):
                    run_cell(contender, name, data, budget, seed, dense)


if __name__ == "__main__":
    main()
