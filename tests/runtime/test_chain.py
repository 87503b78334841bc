"""Chains: several layers in one call compute what they do one by one, in memory that is planned once."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sparse import blocked
from torch import Tensor, nn

from secateur.ground.errors import KernelError
from secateur.runtime import SparseConv2d, SparseLinear, modules, pool
from secateur.runtime import chain as chain_module
from secateur.runtime.chain import Chain, find_chains, part_sizes, placed, time_parts
from secateur.runtime.geometry import Window
from secateur.runtime.library import Found, Library
from secateur.runtime.memory import Memory
from secateur.runtime.packing import Activation
from secateur.runtime.pool import MaxPool2d


@pytest.fixture(autouse=True)
def each_library(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run with the kernels of each instruction set (with sanitizers under `make sanitize`)."""
    use(Found(library, ""), monkeypatch)


def use(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chain_module, modules, pool):
        monkeypatch.setattr(module, "found_library", lambda: found)


def conv(inputs: int, outputs: int, kernel: int = 3, seed: int = 0) -> SparseConv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    rng = torch.Generator().manual_seed(seed)
    kept = blocked(outputs, inputs * kernel * kernel, 8, 0.5, rng)
    layer.weight.data = kept.reshape(layer.weight.shape).float()
    return SparseConv2d.of(layer, height=8, activation=Activation.RELU)


def linear(inputs: int, outputs: int) -> SparseLinear:
    return SparseLinear.of(nn.Linear(inputs, outputs), height=8)


def residual() -> Chain:
    """A convolution, two with a sum around them, pooling, a second input that is added."""
    layers = [
        conv(3, 16),
        conv(16, 16, seed=1),
        conv(16, 16, seed=2),
        MaxPool2d(Window((2, 2), (2, 2))),
        conv(16, 8),
    ]
    return Chain(layers, [(0,), (2,), (3, 2), (4,), (5, 1)], 2, Memory())


def one_by_one(chain: Chain, *inputs: Tensor) -> Tensor:
    values = list(inputs)
    for layer, reads in zip(chain.layers, chain.reads, strict=True):
        values.append(layer(*(values[i] for i in reads)))
    return values[-1]


def inputs(batch: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 3, size, size, generator=rng),
        torch.randn(batch, 8, size // 2, size // 2, generator=rng),
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_what_the_layers_do(threads: int) -> None:
    chain = residual()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            for batch, size in ((2, 12), (1, 33), (5, 8), (2, 12)):
                x = inputs(batch, size)
                assert torch.equal(chain(*x), one_by_one(chain, *x)), (batch, size)
    finally:
        torch.set_num_threads(1)


@torch.inference_mode()
@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_a_batch_in_parts(at_once: int) -> None:
    chain, x = residual(), inputs(7, 12)
    whole = chain(*x)
    chain.at_once = at_once
    assert torch.equal(chain(*x), whole)
    image = Chain([conv(3, 16), conv(16, 8)], [(0,), (1,)], 1, Memory())
    image.at_once = at_once
    x = torch.randn(3, 9, 9)  # channels are no samples
    assert torch.equal(image(x), one_by_one(image, x))


def test_how_many_samples_at_a_time_is_timed() -> None:
    chain = residual()
    took = time_parts(chain, [(6, 3, 12, 12), (6, 8, 6, 6)])
    assert list(took) == part_sizes(6) == [None, 1, 2, 4]
    assert min(took.values()) > 0
    assert chain.key([(6, 3)]) == copy.deepcopy(chain).key([(6, 3)]) != chain.key([(7, 3)])


@torch.inference_mode()
def test_linear_layers_and_inputs_that_are_not_contiguous() -> None:
    chain = Chain([linear(24, 32), linear(32, 24), linear(24, 8)], [(0,), (1,), (2,)], 1, Memory())
    x = torch.randn(24, 3, 5).permute(1, 2, 0)
    torch.testing.assert_close(chain(x), one_by_one(chain, x))
    assert chain(x[:0]).shape == (0, 5, 8)


def test_calls_from_several_threads() -> None:
    chain = residual()
    with torch.inference_mode():
        wanted = [one_by_one(chain, *inputs(2, 12, seed)) for seed in range(16)]

    def call(seed: int) -> Tensor:
        with torch.inference_mode():
            return chain(*inputs(2, 12, seed))

    with ThreadPoolExecutor(4) as workers:
        for found, expected in zip(workers.map(call, range(16)), wanted, strict=True):
            assert torch.equal(found, expected)


@torch.inference_mode()
def test_results_stay_when_it_is_called_again() -> None:
    chain = residual()
    first = chain(*inputs(2, 64, 0))
    kept = first.clone()
    assert not torch.equal(chain(*inputs(2, 64, 1)), kept)
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_copies_and_loaded_weights() -> None:
    chain, x = residual(), inputs(2, 12)
    before = chain(*x)
    other = copy.deepcopy(chain)
    assert torch.equal(other(*x), before)
    state = {k: 2 * v if k.endswith("values") else v for k, v in chain.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other(*x), one_by_one(other, *x))
    assert not torch.equal(other(*x), before)
    assert torch.equal(chain(*x), before)


@pytest.mark.filterwarnings("ignore:The kernels are switched off")
def test_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x = residual(), inputs(2, 12)
    with torch.inference_mode():
        expected = chain(*x)
        use(Found(None, "The kernels are switched off"), monkeypatch)
        found = copy.deepcopy(chain)(*x)
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_what_is_traced_takes_the_operators() -> None:
    chain, x = residual(), inputs(2, 12)
    program = torch.export.export(chain, x)
    assert sum("sparse_conv2d" in str(n.target) for n in program.graph.nodes) == 4
    with torch.inference_mode():
        found, expected = program.module()(*x), chain(*x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_bad_inputs() -> None:
    chain = residual()
    x, y = inputs(2, 12)
    with pytest.raises(KernelError, match="residual has shape"):
        chain(x, y[:1])
    with pytest.raises(KernelError, match="3 input channels"):
        chain(torch.randn(2, 4, 12, 12), y)
    with pytest.raises(KernelError, match="float64"):
        chain(x.double(), y)
    with pytest.raises(KernelError, match="no gradient"):
        chain(x.requires_grad_(), y)


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    n = draw(st.integers(1, 12))
    sizes = draw(st.lists(st.integers(0, 200), min_size=n, max_size=n))
    return sizes, [draw(st.integers(min(k + 1, n - 1), n - 1)) for k in range(n)]


@given(plans())
def test_no_two_that_are_needed_overlap(plan: tuple[list[int], list[int]]) -> None:
    """While a layer writes, its output, what it reads and what is read later are apart, and all fit."""
    sizes, last = plan
    offsets, floats = placed(sizes, last)
    assert len(offsets) == len(sizes) - 1
    for k, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
        assert offset % 16 == 0
        assert offset + size <= floats
        for i in range(k):
            apart = offsets[i] + sizes[i] <= offset or offset + size <= offsets[i]
            assert last[i] < k or apart or not size or not sizes[i]


class Branched(nn.Module):
    """The second layer's output is read by the fourth and by something that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x))
        return self.d(self.c(y), y) * y


def test_chains_end_where_something_else_reads() -> None:
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
            return isinstance(m, SparseLinear)

    model = Branched()
    module = torch.fx.GraphModule(model, Tracer().trace(model))
    assert [[str(n.target) for n in nodes] for nodes in find_chains(module)] == [["a", "b"], ["c", "d"]]
