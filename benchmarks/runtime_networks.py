"""Whole networks, block-sparse against the best dense engine: python benchmarks/runtime_networks.py [--networks ...]

Each row times a network with a random mask of zero blocks, compiled by `secateur.runtime.compile`, against whichever of
PyTorch (contiguous, channels_last), inductor with freezing, ONNX Runtime and OpenVINO is fastest on the dense network,
in turns. All layers are cut but the first convolution and a classifier's last layer; convolutions of groups stay whole.
`speedup` is the median of the ratios of neighbouring runs with its quartiles, `aa_control` the dense engine against
itself in the same turns, `int8_ms` ONNX Runtime on the dense network in int8 (static, per channel), timed in turns with
the fastest. Each compiled network is compared with the masked dense one: within 1e-4 of the largest output. Weights of
the large networks are random, and balanced random masks say nothing about accuracy. Pictures have 224 x 224 pixels
(32 x 32 for the zoo's networks), texts 128 tokens. Rows are appended to results/runtime_networks.csv; those that are
there are skipped. The machine has to be quiet.
"""

from __future__ import annotations

import argparse
import copy
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from dense_engines import Call, dense_engines, int8_engine
from pairs import best, paired
from runtime_layers import masked
from table import Table
from torch import Tensor, nn

from secateur import runtime
from secateur.blocks import Block
from secateur.blocks.blockable import SKIPPED, Skip, blockable
from secateur.zoo import pretrained

KEYS = ("network", "block", "sparsity", "batch", "threads")
TABLE = Table(
    Path("results/runtime_networks.csv"),
    KEYS,
    (*KEYS, "best_dense_engine", "best_dense_ms", "sparse_ms", "speedup", "speedup_low", "speedup_high", "int8_ms",
     "aa_control", "commit", "cpu"),
)  # fmt: skip
BATCHES = (1, 16)
TOLERANCE = 1e-4
TOKENS, VOCABULARY = 128, 30522
CELLS = (("8x1", 0.8, 1), ("8x1", 0.7, 1), ("8x1", 0.9, 1), ("4x4", 0.8, 1), ("8x1", 0.8, 2))
"""Block, sparsity and threads."""


class Encoder(nn.Module):
    """A BERT encoder from token numbers to vectors, without a mask: all texts are equally long."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=12,
            intermediate_size=4 * width,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        bert = BertModel(config, add_pooling_layer=False)
        self.embeddings, self.layers = bert.embeddings, bert.encoder.layer

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map (batch, tokens) int64 to (batch, tokens, width)."""
        x: Tensor = self.embeddings(input_ids=input_ids)
        for layer in self.layers:
            x = layer(x)
            x = x if isinstance(x, Tensor) else x[0]
        return x


def pictures(size: int) -> Callable[[int], Tensor]:
    """Return what makes a batch of random pictures."""
    return lambda batch: torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def tokens(batch: int) -> Tensor:
    """Return a batch of random token numbers."""
    return torch.randint(VOCABULARY, (batch, TOKENS), generator=torch.Generator().manual_seed(0))


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.get_model(name)
    return model


@dataclass(frozen=True)
class Network:
    """How to make a network and its inputs, and which layers stay whole."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    skip: tuple[Skip, ...] = SKIPPED


NETWORKS = {
    "resnet20-cifar10": Network(lambda: pretrained("resnet20-cifar10"), pictures(32)),
    "vgg16bn-quarter-cifar10": Network(lambda: pretrained("vgg16bn-quarter-cifar10"), pictures(32)),
    "minilm-l6": Network(lambda: Encoder(6, 384), tokens, (nn.Embedding,)),
    "resnet50": Network(lambda: torchvision_model("resnet50"), pictures(224)),
    "bert-base": Network(lambda: Encoder(12, 768), tokens, (nn.Embedding,)),
    "vgg16": Network(lambda: torchvision_model("vgg16"), pictures(224)),
}


def block_sparse(model: nn.Module, skip: tuple[Skip, ...], block: str, sparsity: float) -> nn.Module:
    """Return a copy of a network with random blocks of its layers zeroed."""
    sparse = copy.deepcopy(model)
    for name in blockable(sparse, Block.parse(block), skip).partitions:
        layer = sparse.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        if getattr(layer, "groups", 1) == 1:
            masked(layer, block, sparsity)
    return sparse


def wanted(
    names: list[str] | None, present: set[tuple[str, ...]]
) -> Iterator[tuple[str, str, float, int, int]]:
    """Yield the missing cells, those that share dense engines behind each other."""
    for name in NETWORKS:
        for threads in (1, 2):
            for batch in BATCHES:
                for block, sparsity, on in CELLS:
                    key = (name, block, str(sparsity), str(batch), str(threads))
                    if on == threads and key not in present and (not names or name in names):
                        yield name, block, sparsity, batch, threads


def int8_time(model: nn.Module, x: Tensor, threads: int, dense: Call) -> float | None:
    """Return the milliseconds of ONNX Runtime in int8, timed in turns with the dense engine; None if it fails."""
    try:
        with torch.no_grad():
            int8 = int8_engine(model, {"x": x}, threads)
        with torch.inference_mode():
            return paired(dense, int8).sparse * 1e3
    except Exception as error:  # the quantiser does not take every network; the cell stays empty
        print(f"no int8: {error}", flush=True)
        return None


def run_group(
    name: str, batch: int, threads: int, cells: list[tuple[str, float]], table: Table, until: float
) -> None:
    """Append the rows of a network for one batch and number of threads, as long as there is time."""
    network, origin = NETWORKS[name], table.provenance("python benchmarks/runtime_networks.py")
    origin["cpu"] = f"{origin['cpu']} {runtime.kernels().instruction_set}"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, x = network.make().eval().requires_grad_(False), network.inputs(batch)
    with torch.no_grad():
        engines = dense_engines(model, {"x": x}, threads)
    with torch.inference_mode():
        winner = best(engines)
    dense = engines.pop(winner)
    engines.clear()  # the memory of the others is not needed any more
    gc.collect()
    int8_ms = int8_time(model, x, threads, dense)
    for block, sparsity in cells:
        gc.collect()  # graphs refer to themselves, and each holds a network
        sparse = block_sparse(model, network.skip, block, sparsity)
        with tempfile.TemporaryDirectory() as folder:  # choices from times that are taken now
            fast = runtime.compile(sparse, x, folder=Path(folder))
        with torch.inference_mode():
            expected = sparse(x)
            error = float((fast(x) - expected).abs().max() / expected.abs().max())
            if not error <= TOLERANCE:
                raise ValueError(f"{name} {block} {sparsity}: the compiled network differs by {error:.1e}")
            found = paired(dense, lambda fast=fast: fast(x))  # type: ignore[misc]
        table.append({
            "network": name, "block": block, "sparsity": sparsity, "batch": batch, "threads": threads,
            "best_dense_engine": winner, "best_dense_ms": found.dense * 1e3, "sparse_ms": found.sparse * 1e3,
            "speedup": found.speedup, "speedup_low": found.low, "speedup_high": found.high, "int8_ms": int8_ms,
            "aa_control": found.control,
        } | origin)  # fmt: skip
        print(
            f"{name} batch {batch} threads {threads} {block} {sparsity:.0%}: {found.speedup:.2f} x {winner} "
            f"({found.low:.2f} to {found.high:.2f}; control {found.control:.2f}); {found.dense * 1e3:.2f} ms dense, "
            f"{found.sparse * 1e3:.2f} sparse, {'no' if int8_ms is None else f'{int8_ms:.2f}'} int8",
            flush=True,
        )
        if time.monotonic() > until:  # after the row: what the dense engines took is not lost
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), help="default: all")
    parser.add_argument("--threads", type=int, choices=(1, 2), help="only rows of so many threads")
    parser.add_argument(
        "--minutes", type=float, default=9, help="stop at a row's end after so long; run it again"
    )
    parser.add_argument("--output", type=Path, default=TABLE.path)
    options = parser.parse_args()
    table = Table(options.output, TABLE.keys, TABLE.columns)
    until = time.monotonic() + 60 * options.minutes
    missing = list(wanted(options.networks, table.present()))
    for (name, batch, threads), group in groupby(missing, key=lambda c: (c[0], c[3], c[4])):
        if time.monotonic() < until and options.threads in (None, threads):
            run_group(name, batch, threads, [(block, s) for _, block, s, _, _ in group], table, until)


if __name__ == "__main__":
    main()
