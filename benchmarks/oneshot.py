"""One-shot pruning without training, measured: python benchmarks/oneshot.py [--models ...] [--budgets ...]

Every cell prunes a zoo network with 1,000 unlabelled training images and appends rows to results/oneshot.csv;
cells that are there already are skipped. One run gives two rows: without recovery and with it. `--finetune` adds
the accuracy after the last of 15 epochs of fine-tuning to the cells that the table shows it for.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from table import Table
from torch import nn
from training import finetune

import secateur as sc
from secateur.data import ImageData, calibration, load_images
from secateur.measure import batches, environment, top1
from secateur.methods import Method
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
    recovery: str

    def build(self, seed: int) -> Method:
        """Return the method, for a seed."""
        match self.method, self.variant:
            case "snp", "default":
                return sc.SNP()
            case "snp", "paper":
                return sc.SNP.paper()
            case "magnitude", p:
                return sc.Magnitude(p=int(p.removeprefix("l")), recovery=sc.OnePass())
            case _:
                return sc.Random(seed=seed, recovery=sc.OnePass())


CONTENDERS = (
    Contender("snp", "default", "sequential"),
    Contender("snp", "paper", "one-pass"),
    Contender("magnitude", "l1", "one-pass"),
    Contender("magnitude", "l2", "one-pass"),
    Contender("random", "uniform", "one-pass"),
)
FINETUNED = {("snp", "default"), ("snp", "paper"), ("magnitude", "l1")}


def run_cell(
    contender: Contender, name: str, data: ImageData, budget: float, seed: int, dense: float
) -> None:
    """Prune once and append the row without and the row with recovery."""
    keys = {"model": name, "method": contender.method, "variant": contender.variant, "budget": str(budget),
            "seed": str(seed), "n_calibration": str(IMAGES)}  # fmt: skip
    wanted = [r for r in ("none", contender.recovery) if _key(keys, r) not in TABLE.present()]
    if not wanted:
        return
    test = data.normalise(data.test_x)

    def accuracy(model: nn.Module) -> float:
        quick = copy.deepcopy(model).to(memory_format=torch.channels_last)
        return dense if model is original else top1(quick, batches(test, data.test_y, 100))

    original = pretrained(name)
    images = calibration(data, IMAGES, seed)
    start = time.perf_counter()
    result = sc.prune(
        original, test[:16], method=contender.build(seed), budget=sc.Budget(macs=budget),
        calibration=images.split(100), evaluate=accuracy, seed=seed,
    )  # fmt: skip
    report, env = result.report, environment()
    assert report.accuracy is not None
    ratios = report.ratios()
    row = keys | {
        "dataset": data.name, "acc_dense": dense, "seconds": time.perf_counter() - start,
        "macs_ratio": ratios["macs"], "params_ratio": ratios["params"], "latency_ratio": ratios["latency"],
        "bytes_ratio": ratios["bytes"], "acc_pruned": report.accuracy.pruned,
        "commit": env.commit, "torch": env.torch, "cpu": env.cpu, "threads": torch.get_num_threads(),
        "command": f"python benchmarks/oneshot.py --models {name} --budgets {budget} --seeds {seed}",
    }  # fmt: skip
    if "none" in wanted:
        TABLE.append(row | {"recovery": "none"})
    if contender.recovery in wanted:
        TABLE.append(row | {"recovery": contender.recovery, "acc_recovered": report.accuracy.recovered})
    print(f"{name} {contender.method} {contender.variant} macs {budget} seed {seed}: dense {dense:.4f}, pruned "
          f"{report.accuracy.pruned:.4f}, recovered {report.accuracy.recovered:.4f} "
          f"({', '.join(f'{k} {v:.1f} s' for k, v in report.seconds.items())})", flush=True)  # fmt: skip


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
    ratios, env = result.report.ratios(), environment()
    TABLE.append(keys | {
        "dataset": data.name, "recovery": recovery, "acc_dense": dense, "acc_recovered": before,
        "acc_finetuned": after, "seconds": time.perf_counter() - start, "macs_ratio": ratios["macs"],
        "params_ratio": ratios["params"], "latency_ratio": ratios["latency"], "bytes_ratio": ratios["bytes"],
        "commit": env.commit, "torch": env.torch, "cpu": env.cpu, "threads": torch.get_num_threads(),
        "command": f"python benchmarks/oneshot.py --finetune --models {name}",
    })  # fmt: skip
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
                for contender in CONTENDERS:
                    run_cell(contender, name, data, budget, seed, dense)


if __name__ == "__main__":
    main()
