"""Reports for tests: one with everything, and one whose every name is an attack."""

from __future__ import annotations

import math
from dataclasses import replace

from secateur.measure import Comparison, Environment, Latency, Size
from secateur.measure.metric import Metric, MetricFormat
from secateur.report import (
    FrozenPart,
    LayerBlocks,
    LayerLevels,
    LossCurve,
    Quantisation,
    Report,
    Scores,
    Sparsity,
    Structured,
)

ATTACK = "<script>alert('pruned')</script>"


def full_report(groups: int = 30) -> Report:
    kept = {f"layer{n // 8}.{n % 8}.conv1": (8 + n % 9, 16 + n) for n in range(groups)}
    curves = {
        name: LossCurve(tuple(range(size + 1)), (*(math.exp(-9 * k / size) for k in range(size)), 0.0))
        for name, (_, size) in kept.items()
    }
    return Report(
        method="SNP",
        budget="50.0% of macs",
        before=Size(params=272_186, macs=31_021_952, bytes=1_106_024),
        after=Size(params=144_710, macs=15_456_416, bytes=594_768),
        max_masked_difference=4.8e-7,
        seconds={"trace": 2.4, "statistics": 22.2, "recovery": 77.5},
        environment=Environment("0.1.0", "0123456789ab", "3.11.7", "2.8.0", "Some CPU", 1),
        seed=3,
        latency=Comparison(
            Latency(292.5, 287.3, 314.3), Latency(250.9, 237.7, 277.2), 0.851, 0.815, 0.884, 30, 64, 1
        ),
        scores=Scores(dense=0.9376, pruned=0.1376, recovered=0.9322),
        kept=kept,
        model="zoo:resnet20-fashion",
        curves=curves,
        refused={
            "conv1": "a residual stream: layers that read it add to it",
            "fc": "fc is excluded",
            **{f"layer{n}": "its code repeats a size" for n in range(6)},
        },
        frozen=(
            FrozenPart("is an output of the model", ("fc.weight[0]", "fc.bias[0]"), ("model.py:12",)),
            FrozenPart("an operator that is not known", tuple(f"odd.{n}.weight[1]" for n in range(40)), ()),
        ),
        recipe={"method": {"type": "SNP"}, "budget": {"macs": 0.5}},
    )


def sparse_report() -> Report:
    """Of connection pruning: entries of each parameter, and the way there."""
    base = full_report(4)
    shares = [0.8**n for n in range(14)]
    return replace(
        base,
        method="NN-relief",
        budget="10.0% of weights",
        curves={},
        scores=Scores(dense=0.9376, finetuned=0.9301),
        after=replace(base.after, macs=29_800_000, params=260_000),
        sparsity=Sparsity(
            before=272_186,
            after=14_964,
            zip_before=1_020_441,
            zip_after=88_310,
            curve=tuple((share, 0.94 - 0.002 / share) for share in shares),
            layers={f"layer{n // 8}.{n % 8}.conv1.weight": (60 * n, 2304 + 16 * n) for n in range(30)},
        ),
    )


def blocks_report() -> Report:
    """Of micro-structures, scored by a metric of which less is better."""
    base = full_report(0)
    return replace(
        base,
        method="micro-structure 8x1",
        budget="shares of blocks",
        after=base.before,
        refused={},
        metric=Metric("perplexity", higher_is_better=False, format=MetricFormat.NUMBER),
        scores=Scores(dense=15.331, pruned=1230.4, recovered=17.68),
        structure=Structured(
            stored_bits=0.38,
            coded_bits=0.36,
            operations=0.42,
            layers={f"layers.{n}.mlp.weight": LayerBlocks("8x1", 288, 150 + n, 2 * n) for n in range(30)},
            skipped={"conv1.weight": "the first convolution", "fc.weight": "the head"},
        ),
    )


def levels_report() -> Report:
    """Of a quantised network; one layer has four bits in groups and reads floats."""
    layers = {
        "conv1": LayerLevels(8, 0, 0.0161410291, 123, 255, 0.000144),
        "fc": LayerLevels(4, 64, None, None, None, 0.0004),
    }
    skipped = {"head": "skip names it"}
    return replace(
        full_report(3), method="int8", quantisation=Quantisation(0.000196, 30_500, layers, skipped)
    )


def hostile_report() -> Report:
    """Every text is markup, and long; names have no place to break."""
    long = ATTACK + "x" * 300
    base = full_report(2)
    return replace(
        base,
        method=long,
        budget=long,
        model=long,
        seconds={long: 1.0},
        environment=Environment(long, long, long, long, long, 1),
        kept={long: (1, 16)},
        curves={long: LossCurve((0, 1, 16), (1.0, 0.5, 0.0))},
        refused={long: long},
        frozen=(FrozenPart(long, (long,) * 9, (long,) * 9),),
        metric=Metric(long),
        sparsity=Sparsity(16, 4, 100, 50, ((1.0, 0.5), (0.25, 0.4)), {long: (4, 16)}),
        structure=Structured(0.5, 0.4, 0.3, {long: LayerBlocks("8x1", 10, 5, 2)}, {long: long}),
        quantisation=Quantisation(0.1, 1, {long: LayerLevels(8, 0, 1.0, 0, 255, 0.1)}, {long: long}),
        recipe={long: [long, '"><img src=x onerror=alert(1)>', "</pre><script>alert(2)</script>"]},
    )
