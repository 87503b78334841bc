from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from secateur.training import Constant, Cosine, MultiStep, OneCycle, Schedule

EPOCHS, LENGTH = 6, 5


def torch_rates(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(EPOCHS * LENGTH):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def rates(schedule: Schedule) -> list[float]:
    return [schedule(step / LENGTH, EPOCHS) for step in range(EPOCHS * LENGTH)]


def test_as_torch() -> None:
    total = EPOCHS * LENGTH
    assert rates(Constant()) == [1.0] * total
    assert rates(Cosine()) == pytest.approx(torch_rates(lambda o: CosineAnnealingLR(o, total)))
    assert rates(MultiStep((2, 4), 0.5)) == pytest.approx(
        torch_rates(lambda o: MultiStepLR(o, [2 * LENGTH, 4 * LENGTH], 0.5))
    )
    # torch's last step is at its end, ours one before it: the same curve over one step more.
    one = torch_rates(lambda o: OneCycleLR(o, 1.0, total + 1, cycle_momentum=False))
    ours = [OneCycle(rise=(0.3 * (total + 1) - 1) / total)(s / LENGTH, EPOCHS) for s in range(total)]
    assert ours == pytest.approx(one, abs=1e-6)


def test_warm_up_rises_from_nothing_to_the_whole() -> None:
    found = [Cosine(warmup=2, end=0.1)(epoch, 6) for epoch in (0, 1, 2, 4, 6)]
    assert found == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    assert Cosine(warmup=9)(3, 6) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cosine(-1),
        lambda: Cosine(end=2),
        lambda: MultiStep(()),
        lambda: MultiStep((0,)),
        lambda: MultiStep((1,), 1.0),
        lambda: OneCycle(rise=1),
        lambda: OneCycle(start=0.5),
    ],
)
def test_out_of_range(make: Any) -> None:
    with pytest.raises(ValueError, match=r"lie|above|number|at least"):
        make()
