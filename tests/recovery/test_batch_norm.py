"""BatchNorm re-estimation: what the pruned network's statistics are, kept only where that helps."""

import torch
from models import SMALL
from torch import Tensor, nn

from secateur.graph import trace
from secateur.recovery.batch_norm import re_estimated
from secateur.statistics import Calibration, state_tensors


def net() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    return model, 3 + 2 * torch.randn(24, 2, 5, 5)


def test_statistics_are_those_of_the_data_that_are_not_held_out() -> None:
    model, x = net()
    with torch.no_grad():
        pre = model[0](x)
        model[1].running_mean.copy_(pre.mean((0, 2, 3)))
        model[1].running_var.copy_(pre.var((0, 2, 3)))
    program = trace(model, x[:2])
    tensors = state_tensors(program.program)
    broken = tensors | {"1.running_mean": torch.full((4,), 9.0), "1.running_var": torch.full((4,), 30.0)}
    calibration = Calibration(x.split(8), program.program)
    repaired = re_estimated(program, broken, calibration)
    fitted = pre[~torch.cat([held for _, held in calibration.held_out()])]
    assert 0 < len(fitted) < 24
    torch.testing.assert_close(repaired["1.running_mean"], fitted.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(repaired["1.running_var"], fitted.var((0, 2, 3)), atol=1e-3, rtol=1e-3)
    assert all(repaired[name] is broken[name] for name in broken if "running" not in name)


def test_what_is_right_already_stays() -> None:
    case = next(case for case in SMALL if case.name == "residual")
    x = case.inputs(16)
    graph = trace(case.model(), x[:2])
    tensors = state_tensors(graph.program)  # nothing was pruned: outputs are the dense network's
    unchanged = re_estimated(graph, tensors, Calibration(x.split(8), graph.program))
    assert all(unchanged[name] is tensors[name] for name in tensors)


def test_without_batch_norm_there_is_nothing_to_do() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    graph = trace(model, torch.zeros(2, 3))
    tensors = state_tensors(graph.program)
    assert (
        re_estimated(graph, tensors, Calibration([], graph.program)) == tensors
    )  # the data are not even read
