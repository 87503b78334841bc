"""How many calibration images are enough: python benchmarks/calibration_size.py [--model ...] [--seeds 0]

Prunes to half of the MACs with 64 to 4,096 unlabelled training images, of which each number contains the smaller ones,
and appends the accuracy on the test images to results/calibration_size.csv; cells that are there are skipped.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from oneshot import MODELS
from table import Table

import secateur as sc
from secateur.data import calibration, load_images
from secateur.measure import batches, top1
from secateur.zoo import pretrained

SIZES = (64, 128, 256, 512, 1000, 2048, 4096)
METHODS = {"default": sc.SNP(), "one pass": sc.SNP(recovery=sc.OnePass()), "paper": sc.SNP.paper()}
TABLE = Table(
    Path("results/calibration_size.csv"),
    ("model", "variant", "budget", "seed", "n_calibration"),
    ("model", "variant", "budget", "seed", "n_calibration", "macs_ratio", "acc_dense", "acc_pruned", "acc_recovered",
     "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet20-cifar10")
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    data, original = load_images(MODELS[options.model]), pretrained(options.model)
    test = data.normalise(data.test_x)

    def accuracy(model: torch.nn.Module) -> float:
        return top1(
            copy.deepcopy(model).to(memory_format=torch.channels_last), batches(test, data.test_y, 100)
        )

    dense = accuracy(original)
    cells = [(seed, n, v) for seed in options.seeds for n in options.sizes for v in METHODS]
    for seed, n, variant in cells:
        if (options.model, variant, str(options.budget), str(seed), str(n)) in TABLE.present():
            continue
        start = time.perf_counter()
        result = sc.prune(
            original, test[:16], method=METHODS[variant], budget=sc.Budget(macs=options.budget), seed=seed,
            calibration=calibration(data, n, seed).split(100),
            evaluate=lambda model: dense if model is original else accuracy(model),
        )  # fmt: skip
        scores = result.report.scores
        assert scores is not None
        TABLE.append({
            "model": options.model, "variant": variant, "budget": options.budget, "seed": seed, "n_calibration": n,
            "macs_ratio": result.report.ratios()["macs"], "acc_dense": dense, "acc_pruned": scores.pruned,
            "acc_recovered": scores.recovered, "seconds": time.perf_counter() - start,
        } | TABLE.provenance(
            f"python benchmarks/calibration_size.py --model {options.model} --budget {options.budget} --seeds {seed}"
        ))  # fmt: skip
        print(f"{n} images, {variant}, seed {seed}: {scores.recovered:.4f}", flush=True)


if __name__ == "__main__":
    main()
