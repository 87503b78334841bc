"""SNP on a GPU, phase by phase: python benchmarks/gpu.py [--device cuda] [--models ...] (make gpu).

The networks have random weights: time and memory do not depend on what they hold. Phases are those of the report;
"forward" is one pass of the dense network over the same samples, "latency, dense" and "latency, pruned" one batch.
`cpu_seconds` holds the processor's time for the same phase, for networks that it gets through in a minute. Rows are
appended to results/gpu.csv; those that are there are skipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from table import Table
from torch import Tensor, nn

import secateur as sc
from secateur.ground.devices import moved
from secateur.measure import compare_latency, environment

KEYS = ("device", "model", "dtype", "method", "phase")
TABLE = Table(
    Path("results/gpu.csv"),
    KEYS,
    (*KEYS, "samples", "seconds", "cpu_seconds", "peak_gb", "commit", "torch", "command"),
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """A network and its calibration batches."""

    model: Callable[[], nn.Module]
    batches: Callable[[torch.dtype], list[Tensor]]
    dtypes: tuple[str, ...]
    on_processor: bool = False  # is its time on the processor wanted, too?


def _pictures(size: int) -> Callable[[torch.dtype], list[Tensor]]:
    def batches(dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(32, 3, size, size, generator=generator).to(dtype) for _ in range(8)]

    return batches


def _tokens(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 32000, (4, 512), generator=generator) for _ in range(32)]


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50

    model: nn.Module = resnet50()
    return model


def _vit() -> nn.Module:
    from torchvision.models import vit_b_16

    model: nn.Module = vit_b_16()
    return model


def _llama() -> nn.Module:
    """Return a decoder of 1.1 billion parameters, of TinyLlama's sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=32000, max_position_embeddings=2048, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _small() -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18()
    return model


WORKS: Mapping[str, Work] = {
    "resnet18": Work(_small, _pictures(224), ("float32", "bfloat16"), on_processor=True),
    "resnet50": Work(_resnet50, _pictures(224), ("float32", "bfloat16")),
    "vit_b_16": Work(_vit, _pictures(224), ("float32", "bfloat16")),
    "llama-1.1b": Work(_llama, _tokens, ("bfloat16",)),
}


def phases(work: Work, dtype: torch.dtype, device: torch.device) -> dict[str, dict[str, float]]:
    """Return seconds and peak memory by phase."""
    torch.manual_seed(0)
    model = work.model().eval().to(device, dtype)
    batches = work.batches(dtype)

    def forward() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(moved(batch, device))
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    forward()
    start = time.perf_counter()
    forward()
    found = {"forward": {"seconds": time.perf_counter() - start}}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = time.perf_counter()
    options: dict[str, Any] = {"method": sc.SNP(), "budget": sc.Budget(macs=0.5), "calibration": batches}
    result = sc.prune(model, batches[0][:2], **options)
    found |= {name: {"seconds": seconds} for name, seconds in result.report.seconds.items()}
    found["all"] = {"seconds": time.perf_counter() - clock}
    if device.type == "cuda":
        found["all"]["peak_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
    compared = compare_latency(model, result.model, batches[0])
    found["latency, dense"] = {"seconds": compared.dense.median_ms / 1000}
    found["latency, pruned"] = {"seconds": compared.pruned.median_ms / 1000}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=WORKS, default=list(WORKS))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here: run it where torch.cuda.is_available().")
    name = environment().accelerator if device.type != "cpu" else environment().cpu
    for model in options.models:
        work = WORKS[model]
        for dtype in work.dtypes:
            if (name, model, dtype, "SNP", "all") in TABLE.present():
                continue
            here = phases(work, DTYPES[dtype], device)
            also = work.on_processor and dtype == "float32" and device.type != "cpu"
            there = phases(work, DTYPES[dtype], torch.device("cpu")) if also else {}
            command = f"python benchmarks/gpu.py --device {options.device} --models {model}"
            samples = sum(len(b) for b in work.batches(DTYPES[dtype]))
            for phase, figures in here.items():
                row = {"device": name, "model": model, "dtype": dtype, "method": "SNP", "phase": phase}
                cpu = there.get(phase, {}).get("seconds")
                TABLE.append(
                    row | figures | {"samples": samples, "cpu_seconds": cpu} | TABLE.provenance(command)
                )
            print(f"{model}, {dtype}: {here['all']['seconds']:.1f} s", flush=True)


if __name__ == "__main__":
    main()
