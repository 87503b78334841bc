"""Activity of connections against one convolution per kernel in float64."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import SMALL
from torch import Tensor, nn

from secateur.graph import trace
from secateur.ground.errors import CalibrationError
from secateur.statistics import state_tensors
from secateur.statistics.activity import Activity, Contributor, Norm, activity, kernel_norms

PLAIN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def measured(model: nn.Module, batches: list[Tensor], **options: Any) -> Activity:
    graph = trace(model, batches[0])
    return activity(graph, graph.layers, state_tensors(graph.program), batches, **options)


def kernel_by_kernel(conv: nn.Module, x: Tensor, norm: Norm) -> Tensor:
    """Return what each kernel of a convolution carries: one convolution with |K| on |x| for each of them."""
    x, weight = x.abs(), conv.weight.detach().abs()
    transposed = isinstance(conv, nn.modules.conv._ConvTransposeNd)
    options: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    if transposed:
        options["output_padding"] = conv.output_padding
    apply = (TRANSPOSED if transposed else PLAIN)[x.ndim - 2]
    c, m = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    found = torch.zeros(conv.out_channels, c, dtype=x.dtype)
    for j in range(conv.out_channels):
        group = j // m
        for i in range(c):
            kernel = weight[group * c + i, j % m] if transposed else weight[j, i]
            of = x[:, group * c + i : group * c + i + 1]
            maps = apply(of, kernel[None, None], **options)  # type: ignore[operator]
            if norm is Norm.MEAN_OF_NORMS:
                found[j, i] = maps.flatten(1).norm(dim=1).mean()
            elif norm is Norm.NORM_OF_MEAN:
                found[j, i] = maps.mean(0).norm()
            else:
                found[j, i] = maps.mean(0).sum()
    return found


def weight_by_weight(conv: nn.Module, x: Tensor, norm: Norm) -> Tensor:
    """Return what each weight of a convolution carries, as the only one of its kernel."""
    dense = conv.weight.detach().clone()
    found = []
    for tap in range(dense[0, 0].numel()):
        only = torch.zeros_like(dense).flatten(2)
        only[..., tap] = dense.flatten(2)[..., tap]
        with torch.no_grad():
            conv.weight.copy_(only.view_as(dense))
        found.append(kernel_by_kernel(conv, x, norm))
    with torch.no_grad():
        conv.weight.copy_(dense)
    return torch.stack(found, 2).flatten(1)


@given(
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.sampled_from(list(Norm)),
    st.sampled_from(list(Contributor)),
    st.sampled_from([1, 3000, 1 << 24]),
)
def test_convolutions_of_any_form(
    rank: int,
    transposed: bool,
    tap: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    norm: Norm,
    contributor: Contributor,
    workspace: int,
) -> None:
    torch.manual_seed(tap + 10 * stride)
    name = f"Conv{'Transpose' if transposed else ''}{rank}d"
    padding = min(padding, dilation * (tap - 1))
    conv = getattr(nn, name)(
        2 * groups, 3 * groups, tap, stride=stride, padding=padding, dilation=dilation, groups=groups
    ).double()
    x = torch.randn(5, 2 * groups, *(7, 6, 5)[:rank], dtype=torch.float64)
    found = measured(conv, [x[:2], x[2:]], norm=norm, workspace=workspace, contributor=contributor)
    (contributions,) = found.contributions.values()
    oracle = kernel_by_kernel if contributor is Contributor.KERNEL else weight_by_weight
    torch.testing.assert_close(contributions.inputs, oracle(conv, x, norm))
    size = math.prod(conv(x).shape[2:])
    factor = size if norm is Norm.SUM_OF_MEAN else math.sqrt(size)
    assert contributions.bias is not None
    torch.testing.assert_close(contributions.bias, conv.bias.detach().abs() * factor)
    assert found.samples == 5


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 40), st.integers(1, 9))
def test_both_ways_to_a_norm_agree(c: int, m: int, n: int, positions: int, taps: int) -> None:
    """Many positions go by the autocorrelation, few by the maps themselves."""
    torch.manual_seed(0)
    read = torch.rand(c, n, taps, positions, dtype=torch.float64)
    kernels = torch.rand(c, m, taps, dtype=torch.float64)
    expected = torch.einsum("cntp,cmt->cnmp", read, kernels).norm(dim=3).sum(1)
    torch.testing.assert_close(kernel_norms(read, kernels), expected)


@pytest.mark.parametrize("name", ["perceptron", "lenet5", "resnet20", "grouped", "depthwise", "mixer"])
def test_every_layer_of_a_network(name: str) -> None:
    case = next(case for case in SMALL if case.name == name)
    model, x = case.model().double(), case.inputs(6).double()
    seen: dict[str, tuple[nn.Module, Tensor]] = {}

    def record(path: str) -> Any:
        return lambda module, args: seen.update({path: (module, args[0].detach().clone())})

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(record(path))
    graph = trace(model, x[:2])
    found = activity(graph, graph.layers, state_tensors(graph.program), [x[:4], x[4:]])
    model(x)
    for layer in graph.layers:
        module, given_x = seen[layer.module]
        if isinstance(module, nn.Linear):
            mean = given_x.abs().reshape(-1, given_x.shape[-1]).mean(0)
            expected = torch.stack([mean * row for row in module.weight.detach().abs()])
        else:
            expected = kernel_by_kernel(module, given_x, Norm.MEAN_OF_NORMS)
        torch.testing.assert_close(found.contributions[layer.node].inputs, expected)


def test_shares_of_a_residual_sum() -> None:
    case = next(case for case in SMALL if case.name == "resnet20")
    model, x = case.model().double(), case.inputs(6).double()
    found = measured(model, [x])
    graph = trace(model, x)
    block = model.layer2[0]  # a projection beside the branch
    values: dict[str, Tensor] = {}
    block.bn2.register_forward_hook(lambda m, a, y: values.update(branch=y.detach()))
    block.shortcut.register_forward_hook(lambda m, a, y: values.update(shortcut=y.detach()))
    model(x)
    branch, shortcut = (values[k].abs().mean(0).flatten(1).norm(dim=1) for k in ("branch", "shortcut"))
    node = {layer.module: layer.node for layer in graph.layers}
    torch.testing.assert_close(found.shares[node["layer2.0.conv2"]], branch / (branch + shortcut))
    torch.testing.assert_close(found.shares[node["layer2.0.shortcut.0"]], shortcut / (branch + shortcut))
    assert node["layer2.0.conv1"] not in found.shares


def test_tokens_are_rows() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 5, 3, dtype=torch.float64)
    (found,) = measured(model, [x]).contributions.values()
    torch.testing.assert_close(found.inputs, model.weight.detach().abs() * x.abs().mean((0, 1)))


def test_float32_is_close_to_float64() -> None:
    case = next(case for case in SMALL if case.name == "vgg16_bn")
    x = case.inputs(8)
    single, double = measured(case.model(), [x]), measured(case.model().double(), [x.double()])
    for node, expected in double.contributions.items():
        torch.testing.assert_close(single.contributions[node].inputs, expected.inputs, rtol=1e-4, atol=1e-6)


def test_bad_data_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    with pytest.raises(CalibrationError, match="empty"):
        measured_on_nothing(model)
    with pytest.raises(CalibrationError, match="1 reads are not finite"):
        measured(model, [torch.ones(3, 2)])


def measured_on_nothing(model: nn.Module) -> None:
    graph = trace(model, torch.ones(2, 2))
    activity(graph, graph.layers, state_tensors(graph.program), [])
