"""What connections are best scored by: python benchmarks/connection_scores.py [--seeds 0 1]

ResNet-20 on CIFAR-10, four short rounds of pruning and 50 steps of 32 images down to a twentieth of the parameters.
After each the held-out training images are counted: the table is what the defaults of NN-relief were chosen by, and no
test image was seen. Finished runs are appended to results/connection_scores.csv and those that are there are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from cifar_connections import Augmented
from table import Table
from torch import Tensor

from secateur.data import HELD_OUT, ImageData, calibration, load_images
from secateur.measure import batches
from secateur.methods import Allocation, NNRelief
from secateur.statistics import Contributor
from secateur.training import Training, Validation, train
from secateur.training.schedules import Cosine
from secateur.zoo import pretrained

KEYS = ("model", "variant", "seed", "share")
TABLE = Table(
    Path("results/connection_scores.csv"), KEYS, (*KEYS, "acc_held_out", "seconds", "commit", "command")
)
MODEL, SHARE, ROUNDS, STEPS, BATCH = "resnet20-cifar10", 0.05, 4, 50, 32
KERNELS = NNRelief(contributor=Contributor.KERNEL)
PAPER = replace(NNRelief.paper(), alpha_linear=0.99, empty_layers=True)
VARIANTS = {
    **{f"weights, exponent {e:g}": NNRelief(exponent=e) for e in (0.0, 0.25, 0.5, 1.0)},
    **{f"kernels, exponent {e:g}": replace(KERNELS, exponent=e) for e in (0.0, 0.25, 0.5, 1.0)},
    "paper": PAPER,
    "paper, residual sums left alone": replace(PAPER, residual=False),
    "weights, neuron by neuron": NNRelief(allocation=Allocation.NEURON, exponent=1.0, empty_layers=True),
}


@dataclass(frozen=True)
class Short:
    """The first few batches of an epoch."""

    data: ImageData

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(Augmented(self.data, BATCH), STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    options = parser.parse_args()
    data = load_images("cifar10")
    held = list(batches(data.normalise(data.train_x[-HELD_OUT:]), data.train_y[-HELD_OUT:], 250))
    shares = [SHARE ** (k / ROUNDS) for k in range(1, ROUNDS + 1)]
    for seed in options.seeds:
        for variant in options.variants:
            if (MODEL, variant, str(seed), f"{SHARE:.3g}") in TABLE.present():
                continue
            given = Training(
                Short(data), iterations=ROUNDS, schedule=Cosine(), bf16=True, validation=Validation(held),
                optimizer=partial(torch.optim.SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4),
            )  # fmt: skip
            found = train(
                pretrained(MODEL).to(memory_format=torch.channels_last), VARIANTS[variant], given, share=SHARE,
                seed=seed, calibration=calibration(data, 500, seed).split(100),
            )  # fmt: skip
            after = [row for row in found.rows if row.epoch]
            for share, row in zip(shares, after, strict=True):
                TABLE.append({
                    "model": MODEL, "variant": variant, "seed": seed, "share": f"{share:.3g}",
                    "acc_held_out": row.metric, "seconds": row.seconds,
                } | TABLE.provenance(f"python benchmarks/connection_scores.py --seeds {seed}"))  # fmt: skip
            print(f"{variant}, seed {seed}:", *(f"{row.metric:.4f}" for row in after), flush=True)


if __name__ == "__main__":
    main()
