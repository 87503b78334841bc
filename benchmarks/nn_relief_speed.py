"""How much faster all kernels are scored at once than one by one: python benchmarks/nn_relief_speed.py [--samples 1000]

VGG-16-BN at full width on CIFAR-10 images. The fast way is timed whole, the network's forward pass included. The loop
(one convolution and one norm per kernel over all samples, the input already there) is timed on some kernels of every
layer, drawn at random, and extrapolated layer by layer to all of them. Both must give the same scores on the kernels
that were timed. Appends a row to results/nn_relief_speed.csv, unless it is there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from table import Table
from torch import Tensor, nn

from secateur.data import calibration, load_images
from secateur.graph import trace
from secateur.statistics import state_tensors
from secateur.statistics.activity import activity
from secateur.zoo.models import vgg16_bn

TABLE = Table(
    Path("results/nn_relief_speed.csv"), ("model", "samples"),
    ("model", "samples", "kernels", "seconds", "loop_seconds_extrapolated", "loop_kernels_timed", "ratio",
     "largest_relative_difference", "threads", "cpu", "torch", "commit", "command"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--kernels", type=int, default=20, help="of each layer that the loop is timed on")
    options = parser.parse_args()
    if ("vgg16_bn", str(options.samples)) in TABLE.present():
        return
    torch.manual_seed(0)
    model = vgg16_bn().eval()
    images = calibration(load_images("cifar10"), options.samples).split(100)
    graph = trace(model, images[0])
    layers = [layer for layer in graph.layers if layer.taps]
    tensors = state_tensors(graph.program)
    activity(graph, layers, tensors, images[:1])  # warm
    start = time.perf_counter()
    found = activity(graph, layers, tensors, images)
    seconds = time.perf_counter() - start

    chosen = {
        layer.module: [torch.randint(n, (options.kernels,)) for n in (layer.out_channels, layer.width)]
        for layer in layers
    }
    read: dict[str, list[Tensor]] = {layer.module: [] for layer in layers}

    def keep(path: str) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            read[path].append(args[0][:, chosen[path][1]].abs())

        model.get_submodule(path).register_forward_pre_hook(hook)

    for layer in layers:
        keep(layer.module)
    with torch.inference_mode():
        for batch in images:
            model(batch)
    loop, kernels, difference = 0.0, 0, 0.0
    for layer in layers:
        x, weight = torch.cat(read.pop(layer.module)), tensors[layer.weight].abs()
        pairs = list(zip(*(c.tolist() for c in chosen[layer.module]), strict=True))
        scores = []
        start = time.perf_counter()
        for position, (j, i) in enumerate(pairs):
            maps = F.conv2d(
                x[:, position : position + 1], weight[j, i][None, None], None, layer.stride, layer.padding
            )
            scores.append(maps.flatten(1).norm(dim=1).mean())
        each = (time.perf_counter() - start) / len(pairs)
        number = layer.out_channels * layer.width
        loop, kernels = loop + each * number, kernels + number
        expected = found.contributions[layer.node].inputs[tuple(chosen[layer.module])]
        difference = max(difference, float((torch.stack(scores) / expected - 1).abs().max()))
    TABLE.append({
        "model": "vgg16_bn", "samples": options.samples, "kernels": kernels, "seconds": seconds,
        "loop_seconds_extrapolated": loop, "loop_kernels_timed": options.kernels * len(layers), "ratio": loop / seconds,
        "largest_relative_difference": difference,
    } | TABLE.provenance(f"python benchmarks/nn_relief_speed.py --samples {options.samples}"))  # fmt: skip
    print(
        f"{kernels} kernels in {seconds:.1f} s; one by one {loop:.0f} s: {loop / seconds:.0f} times as long"
    )


if __name__ == "__main__":
    main()
