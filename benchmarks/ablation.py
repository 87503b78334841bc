"""What each part of the default is worth: python benchmarks/ablation.py [--model resnet20-cifar10] [--budget 0.5]

Accuracy on the 5,000 held-out *training* images, never on the test set: this is where options are chosen. Rows are
appended to results/ablation.csv; those that are there are skipped.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path

import torch
from oneshot import IMAGES, MODELS
from table import Table

import secateur as sc
from secateur.data import calibration, held_out, load_images
from secateur.measure import batches, top1
from secateur.methods import ZCA, Pivot
from secateur.selection import Threshold, Uniform
from secateur.zoo import pretrained

DEFAULT = sc.SNP()
REPAIR = sc.Sequential()
VARIANTS = {
    "default": DEFAULT,
    "from the masked network": replace(DEFAULT, recovery=replace(REPAIR, warm=False)),
    "wishes below zero count": replace(DEFAULT, recovery=replace(REPAIR, rectified=False)),
    "producers not refitted": replace(DEFAULT, recovery=replace(REPAIR, producers=False)),
    "branch's own output as target": replace(DEFAULT, recovery=replace(REPAIR, residual=False)),
    "channel moments": replace(DEFAULT, recovery=replace(REPAIR, patches=False)),
    "no BatchNorm re-estimation": replace(DEFAULT, recovery=replace(REPAIR, batch_norm=False)),
    "eight sweeps, batches do not wait": replace(DEFAULT, recovery=replace(REPAIR, waiting=0)),
    "one pass": replace(DEFAULT, recovery=sc.OnePass()),
    "one pass, ridge held out": replace(DEFAULT, recovery=sc.OnePass(REPAIR.ridges)),
    "order: channel moments": replace(DEFAULT, patches=False),
    "order: pivot": replace(DEFAULT, order=Pivot()),
    "order: zca": replace(DEFAULT, order=ZCA()),
    "uniform ratios": replace(DEFAULT, allocation=Uniform()),
    "one threshold": replace(DEFAULT, allocation=Threshold()),
    "paper": sc.SNP.paper(),
}
TABLE = Table(
    Path("results/ablation.csv"),
    ("model", "variant", "budget", "seed"),
    ("model", "variant", "budget", "seed", "n_calibration", "macs_ratio", "acc_dense", "acc_pruned", "acc_recovered",
     "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet20-cifar10")
    parser.add_argument("--budget", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data, original = load_images(MODELS[options.model]), pretrained(options.model)
    x, y = held_out(data)

    def accuracy(model: torch.nn.Module) -> float:
        return top1(copy.deepcopy(model).to(memory_format=torch.channels_last), batches(x, y, 100))

    dense = accuracy(original)
    images = calibration(data, IMAGES, options.seed)
    for variant, method in VARIANTS.items():
        if (options.model, variant, str(options.budget), str(options.seed)) in TABLE.present():
            continue
        start = time.perf_counter()
        result = sc.prune(
            original, x[:16], method=method, budget=sc.Budget(macs=options.budget), calibration=images.split(100),
            evaluate=lambda model: dense if model is original else accuracy(model), seed=options.seed,
        )  # fmt: skip
        scores = result.report.scores
        assert scores is not None
        TABLE.append({
            "model": options.model, "variant": variant, "budget": options.budget, "seed": options.seed,
            "n_calibration": IMAGES, "macs_ratio": result.report.ratios()["macs"], "acc_dense": dense,
            "acc_pruned": scores.pruned, "acc_recovered": scores.recovered, "seconds": time.perf_counter() - start,
        } | TABLE.provenance(
            f"python benchmarks/ablation.py --model {options.model} --budget {options.budget}"
        ))  # fmt: skip
        print(f"{variant}: {scores.recovered:.4f}", flush=True)


if __name__ == "__main__":
    main()
