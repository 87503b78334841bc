"""What a layer reads, against F.unfold and against the layer itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.graph import Layer
from secateur.statistics.patches import Rows, multiplicity, output_rows, read_rows, sample_rows
from secateur.statistics.weights import as_stored, outputs_first

EVERYWHERE = Rows(None)


def conv(
    weight: Tensor, space: tuple[int, ...], batch: int = 2, **options: int | str
) -> tuple[Layer, Tensor, Tensor]:
    """Return a convolution as a layer, an input of it and its output."""
    rank = len(space)
    groups = int(options.get("groups", 1))
    x = torch.randn(batch, weight.shape[1] * groups, *space, dtype=weight.dtype)
    y = (F.conv1d if rank == 1 else F.conv2d)(x, weight, None, **options)  # type: ignore[operator]
    padding = options.get("padding", 0)
    dilation = int(options.get("dilation", 1))
    each = [dilation * (k - 1) // 2 if padding == "same" else int(padding) for k in weight.shape[2:]]
    layer = Layer(
        node="conv",
        op=f"conv{rank}d",
        module="conv",
        weight="conv.weight",
        bias=None,
        value="x",
        shape=tuple(y.shape),
        stride=(int(options.get("stride", 1)),) * rank,
        padding=tuple(each),
        dilation=(dilation,) * rank,
        groups=groups,
        width=weight.shape[1],
        taps=tuple(weight.shape[2:]),
    )
    return layer, x, y


def linear(x: Tensor, outputs: int) -> Layer:
    shape = (*x.shape[:-1], outputs)
    return Layer("fc", "linear", "fc", "fc.weight", None, "x", shape, width=x.shape[-1])


@given(
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_rows_times_weight_are_the_output(
    rank: int, tap: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2 * groups, 2, *([tap] * rank), dtype=torch.float64)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    layer, x, y = conv(weight, (7, 6)[:rank], **options)
    rows = read_rows(layer, x, EVERYWHERE)
    assert rows.shape == (groups, 2 * math.prod(layer.positions), 2 * math.prod(layer.taps))
    made = rows @ weight.view(groups, 2, -1).mT
    torch.testing.assert_close(made, output_rows(layer, y, EVERYWHERE))


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2), (3, 1, 1)])
def test_rows_are_those_of_unfold(stride: int, padding: int, dilation: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, 3, 2)
    layer, x, _ = conv(weight, (8, 7), stride=stride, padding=padding, dilation=dilation)
    expected = F.unfold(x, (3, 2), dilation, padding, stride).mT.reshape(1, -1, 18)
    assert torch.equal(read_rows(layer, x, EVERYWHERE), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_an_even_kernel_that_keeps_the_size_has_one_more_zero_behind() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, 2, 4, dtype=torch.float64)
    layer, x, y = conv(weight, (5, 6), padding="same")
    made = read_rows(layer, x, EVERYWHERE) @ weight.view(1, 3, -1).mT
    torch.testing.assert_close(made, output_rows(layer, y, EVERYWHERE))


def test_chosen_positions_are_rows_of_all() -> None:
    torch.manual_seed(0)
    layer, x, y = conv(torch.randn(4, 2, 3, 3), (6, 6), padding=1, groups=2)
    rows = Rows.draw(36, 5, torch.Generator().manual_seed(0))
    assert rows.index is not None
    chosen = torch.cat([rows.index, 36 + rows.index])  # of the first sample, then of the second
    assert torch.equal(read_rows(layer, x, rows), read_rows(layer, x, EVERYWHERE)[:, chosen])
    assert torch.equal(output_rows(layer, y, rows), output_rows(layer, y, EVERYWHERE)[:, chosen])


def test_fewer_groups_than_the_layer_has() -> None:
    torch.manual_seed(0)
    layer, x, _ = conv(torch.randn(6, 2, 3, 3), (5, 5), groups=3)
    left = torch.tensor([0, 1, 4, 5])
    rows = read_rows(layer, x[:, left], EVERYWHERE, groups=2)
    assert torch.equal(rows, read_rows(layer, x, EVERYWHERE)[[0, 2]])


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 2, 5)])
def test_a_linear_layer_reads_tokens(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    layer = linear(x, 2)
    assert torch.equal(read_rows(layer, x, EVERYWHERE), x.reshape(1, -1, 5))
    index = torch.tensor([0])
    first = x.reshape(3, -1, 5)[:, 0]
    assert torch.equal(read_rows(layer, x, Rows(index))[0], first)
    assert torch.equal(output_rows(layer, x, Rows(index))[0], first)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))
def test_multiplicity_is_the_number_of_taps_that_read(
    tap: int, stride: int, padding: int, dilation: int
) -> None:
    layer, x, y = conv(
        torch.randn(1, 1, tap, tap), (9, 8), 1, stride=stride, padding=padding, dilation=dilation
    )
    x = torch.zeros_like(x, requires_grad=True)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    F.conv2d(x, torch.ones(1, 1, tap, tap), **options).sum().backward()  # each read adds one
    assert x.grad is not None
    assert torch.equal(multiplicity(layer, (9, 8)), x.grad[0, 0].double())
    # Nothing that padding adds is counted: those reads are of zeros.
    assert multiplicity(layer, (9, 8)).sum() <= tap * tap * y[0, 0].numel()


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2))
def test_multiplicity_of_transposed_convolutions(tap: int, stride: int, padding: int, dilation: int) -> None:
    x = torch.zeros(1, 1, 5, 6, requires_grad=True)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    y = F.conv_transpose2d(x, torch.ones(1, 1, tap, tap), **options)
    if not y.numel():
        return
    y.sum().backward()
    layer = Layer(
        "up",
        "conv_transpose2d",
        "up",
        "up.weight",
        None,
        "x",
        tuple(y.shape),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        taps=(tap, tap),
    )
    assert x.grad is not None
    assert torch.equal(multiplicity(layer, (5, 6)), x.grad[0, 0].double())


@given(
    st.sampled_from([1, 2, 3]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(0, 1),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_rows_of_transposed_convolutions_times_weight_are_the_output(
    rank: int, tap: int, stride: int, padding: int, extra: int, dilation: int, groups: int
) -> None:
    torch.manual_seed(0)
    space = (5, 4, 4)[:rank]
    extra = min(extra, max(stride, dilation) - 1)
    x = torch.randn(2, 2 * groups, *space, dtype=torch.float64)
    weight = torch.randn(2 * groups, 3, *([tap] * rank), dtype=torch.float64)
    if any((n - 1) * stride - 2 * padding + dilation * (tap - 1) + extra + 1 < 1 for n in space):
        return
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    y = function(x, weight, None, stride, padding, extra, groups, dilation)
    each = {"stride": (stride,) * rank, "padding": (padding,) * rank, "dilation": (dilation,) * rank}
    layer = Layer(
        "up",
        f"conv_transpose{rank}d",
        "up",
        "up.weight",
        None,
        "x",
        tuple(y.shape),
        groups=groups,
        width=2,
        taps=(tap,) * rank,
        inputs_first=True,
        **each,
    )
    plain = outputs_first(layer, weight)
    assert plain.shape == (3 * groups, 2, *([tap] * rank))
    assert torch.equal(as_stored(layer, plain), weight)
    rows = read_rows(layer, x, EVERYWHERE)
    expected = output_rows(layer, y, EVERYWHERE)
    torch.testing.assert_close(rows @ plain.reshape(groups, 3, -1).mT, expected)


def test_a_strided_one_by_one_reads_one_position_in_four() -> None:
    layer, _, _ = conv(torch.randn(2, 2, 1, 1), (6, 6), stride=2)
    counts = multiplicity(layer, (6, 6))
    assert counts.sum() == 9
    assert torch.equal(counts[::2, ::2], torch.ones(3, 3, dtype=torch.float64))


def test_drawn_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    assert Rows.draw(4, 4, generator).index is None
    index = Rows.draw(50, 8, generator).index
    assert index is not None
    assert len(index.unique()) == 8
    assert torch.equal(index, index.sort().values)
    assert not torch.equal(index, Rows.draw(50, 8, generator).index)


def test_masks_of_samples_become_masks_of_rows() -> None:
    mask = torch.tensor([True, False, True])
    assert sample_rows(mask, 6).tolist() == [True, True, False, False, True, True]
