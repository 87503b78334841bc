"""The demonstration: a bundled network at half of its work, by four methods, measured here and now."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from secateur import SNP, Budget, Magnitude, load, prune
from secateur.data import demo_data
from secateur.measure import batches, top1
from secateur.report import Report
from secateur.zoo import pretrained

__all__ = ["NETWORK", "Figures", "demo"]

NETWORK = "resnet20-fashion"
BATCH = 64  # of the images that are timed


@dataclass(frozen=True)
class Figures:
    """What the demo found: accuracies as fractions, ratios pruned / dense."""

    acc_dense: float
    acc_magnitude: float  # L1 filter norms, nothing repaired
    acc_no_recovery: float  # the selection of SNP, nothing repaired
    acc_paper: float  # SNP as published
    acc_snp: float  # SNP with its defaults
    macs_ratio: float
    params_ratio: float
    latency_ratio: float
    bytes_ratio: float
    max_masked_difference: float
    reload_equal: bool  # the saved and reloaded network gives the same outputs, bit by bit
    seconds: float


def demo(
    output: Path | None = None, say: Callable[[str], None] = lambda message: None
) -> tuple[Figures, Report]:
    """Prune the bundled network to half of its MACs by each method, save the best, and load it again.

    The artefact stays in `output`, or is thrown away. `say` is told what happens next.

    Raises:
        SecateurError: the bundled weights are missing, or pruning fails.
    """
    begin = time.perf_counter()
    data, dense = demo_data(), pretrained(NETWORK)
    test_x = data.normalise(data.test_x)
    calibration = data.normalise(data.calibration_x).split(100)
    example, few, half = test_x[:BATCH], test_x[:8], Budget(macs=0.5)  # few: baselines are not timed here

    def accuracy(model: nn.Module) -> float:
        # A copy: in this memory layout convolutions run faster on CPUs.
        quick = copy.deepcopy(model).to(memory_format=torch.channels_last)
        return top1(quick, batches(test_x, data.test_y, 100))

    say("Magnitude: dropping the filters with the smallest L1 norms ...")
    magnitude = prune(
        dense,
        few,
        method=Magnitude(p=1),
        budget=half,
        calibration=calibration,
        progress=False,
    )
    acc_magnitude = accuracy(magnitude.model)
    say("SNP as published: one pass, channel moments ...")
    paper = prune(dense, few, method=SNP.paper(), budget=half, calibration=calibration, progress=False)
    acc_paper = accuracy(paper.model)
    say("SNP: choosing and repairing layer by layer ...")
    snp = prune(
        dense, example, method=SNP(), budget=half, calibration=calibration, evaluate=accuracy, progress=False
    )
    snp = replace(snp, report=replace(snp.report, model=NETWORK))
    with ExitStack() as stack:
        if output is None:
            output = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "artefact"
        say(f"Saving to {output} and loading it again ...")
        snp.save(output)
        again = load(output, lambda: pretrained(NETWORK))
    with torch.inference_mode():
        equal = torch.equal(again.eval()(example), snp.model.eval()(example))
    report = snp.report
    ratios = report.ratios()
    assert report.scores is not None  # `evaluate` was given
    assert report.scores.pruned is not None
    assert report.scores.recovered is not None
    figures = Figures(
        acc_dense=report.scores.dense,
        acc_magnitude=acc_magnitude,
        acc_no_recovery=report.scores.pruned,
        acc_paper=acc_paper,
        acc_snp=report.scores.recovered,
        macs_ratio=ratios["macs"] or 0.0,
        params_ratio=ratios["params"] or 0.0,
        latency_ratio=ratios["latency"] or 0.0,
        bytes_ratio=ratios["bytes"] or 0.0,
        max_masked_difference=report.max_masked_difference,
        reload_equal=equal,
        seconds=time.perf_counter() - begin,
    )
    return figures, report
