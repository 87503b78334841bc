"""A decoder of a billion parameters, pruned on a CPU in bounded memory: python benchmarks/large_decoder.py

The configuration of TinyLlama-1.1B (22 layers, 32 query heads over 4 key/value heads, gated MLP of 5,632 neurons) with
random weights: time and memory are those of the trained one, accuracies mean nothing. Heads and MLP neurons go to a
share of all parameters, without training; moments of the layers are summed part by part (`memory` of `collect`). A row
of results/large_decoder.csv says how long each phase took and the largest resident memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch
from table import Table

import secateur as sc
from secateur.measure import parameters

TABLE = Table(
    Path("results/large_decoder.csv"),
    ("layers", "method", "budget", "windows", "length"),
    ("model", "layers", "method", "budget", "windows", "length", "parameters", "weights_gb", "params_ratio",
     "latency_ratio", "max_difference", "seconds_statistics_and_ranking", "seconds_recovery", "seconds_surgery",
     "seconds", "peak_memory_gb", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip
WORDS = 32_000


def network(layers: int) -> Any:
    """Return the decoder with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config: Any = LlamaConfig(
        vocab_size=WORDS, hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    config.use_cache = False
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--budget", type=float, default=0.8)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    key = (
        str(options.layers),
        "snp, one pass",
        str(options.budget),
        str(options.windows),
        str(options.length),
    )
    if key in TABLE.present():
        return
    model = network(options.layers)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, WORDS, (options.windows, options.length), generator=rng)
    method = sc.SNP(patches=False, recovery=sc.OnePass((1e-2, 1e-1, 1.0), centred=True))
    start = time.perf_counter()
    result = sc.prune(
        model, {"input_ids": tokens[:1]}, method=method, budget=sc.Budget(params=options.budget),
        calibration=[{"input_ids": window} for window in tokens.split(2)],
    )  # fmt: skip
    seconds, report = time.perf_counter() - start, result.report
    print(report)
    count = parameters(model)
    phases = report.seconds
    TABLE.append({
        "model": "llama-1.1b configuration", **dict(zip(TABLE.keys, key, strict=True)), "parameters": count,
        "weights_gb": 4 * count / 1e9, "params_ratio": report.ratios()["params"],
        "latency_ratio": report.ratios()["latency"], "max_difference": report.max_masked_difference,
        "seconds_statistics_and_ranking": phases["statistics"] + phases["selection"],
        "seconds_recovery": phases["recovery"], "seconds_surgery": phases["surgery"], "seconds": seconds,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    } | TABLE.provenance("python benchmarks/large_decoder.py"))  # fmt: skip


if __name__ == "__main__":
    main()
