"""The calls of the README with their types, for a type checker alone: what an editor shows to those who write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_type

from torch import Tensor, nn

import secateur as sc


def halve(model: nn.Module, build: Callable[[], nn.Module], images: Tensor) -> nn.Module:
    result = sc.prune(
        model,
        images[:2],
        method=sc.SNP(),
        budget=sc.Budget(macs=0.5),
        calibration=images.split(50),
        limits=sc.Limits(exclude=("layer1.*",)),
        target=sc.target.OnnxRuntime(),
    )
    assert_type(result, sc.Result)
    print(result.report, result.report.ratios()["macs"])
    result.save("half")
    return sc.load("half", build)


def go_on(
    model: nn.Module, images: Tensor, train_loader: Iterable[tuple[Tensor, Tensor]], loss: nn.CrossEntropyLoss
) -> sc.Result:
    result = sc.prune(
        model,
        images[:2],
        method=sc.SNP(),
        budget=sc.Budget(macs=0.5),
        calibration=images.split(50),
        distill=sc.Distill(steps=50),
    )
    tuned = sc.finetune(result.model, train_loader, epochs=15, teacher=model)
    result = result.updated(tuned)
    result = sc.prune(
        result, images[:2], method=sc.SNP(), budget=sc.Budget(macs=0.4), calibration=images.split(50)
    )
    training = sc.Training(train_loader, loss, epochs=60)
    return sc.prune(model, images[:2], method=sc.NNRelief(), training=training)


def ship(result: sc.Result, images: Tensor) -> None:
    print(sc.trace(result.model, images[:2]))
    sc.pack("half", "half.sec", quantise=sc.Quantise(8))
    sc.export.to_onnx(result.model, images[:8], "half.onnx")
    fast = sc.runtime.compile(result.model, images[:8])
    fast(images)
