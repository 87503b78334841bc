"""Modules without a source get their traced calls: how they may be called, and what a plan for another model says."""

from dataclasses import replace

import pytest
import torch
from models import randomise
from torch import Tensor, nn

from secateur.graph import trace
from secateur.ground.errors import SurgeryError
from secateur.surgery import Plan, Resize, Retrace, apply, make_plan, mask, verify, watch
from secateur.surgery.callees import Code


@pytest.fixture(autouse=True)
def no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no class have a source: such models come from a prompt, or from code that was made by code."""

    def codes(*_: object) -> dict[tuple[str, ...], Code]:
        raise SurgeryError("no source")

    monkeypatch.setattr(watch, "codes", codes)


class Inner(nn.Module):
    """Repeats the width of its first layer as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, scale: float = 2.0, bias: Tensor | None = None) -> Tensor:
        y = torch.relu(self.up(x)).reshape(x.shape[0], 2, 2, 8).flatten(1, 2) * scale
        y = self.down(y).reshape(x.shape)
        return y if bias is None else y + bias


class Outer(nn.Module):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.inner, self.last, self.times = Inner(), nn.Linear(6, 3), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = x + self.inner(x, scale=0.5)
        return self.last(x)


class Marked(Inner):
    """Writes plain numbers into a tensor, which an export lifts out as constants."""

    def forward(self, x: Tensor, scale: float = 2.0, bias: Tensor | None = None) -> Tensor:
        mark = x.new_zeros(x.shape[1])
        for i in range(1, x.shape[1]):
            mark[i:] = i
        return super().forward(x, scale, bias) + mark[:, None]


def cut(model: nn.Module) -> tuple[Plan, nn.Module]:
    x = torch.randn(2, 4, 6)
    graph = trace(model, x)
    kept = {"inner.up": (0, 2, 5)}
    plan = make_plan(model, graph, kept)
    smaller = apply(model, plan)
    assert verify(mask(model, graph, kept), smaller, graph, kept, (x.repeat(2, 1, 1),)).relative < 1e-5
    return plan, smaller


def test_the_module_that_repeats_a_size_is_traced_alone() -> None:
    model = randomise(Outer(), 0).eval()
    plan, smaller = cut(model)
    assert [edit.module for edit in plan.edits if isinstance(edit, Retrace)] == ["inner"]
    seen: list[int] = []
    smaller.inner.register_forward_hook(lambda *_: seen.append(1))
    smaller(torch.randn(1, 4, 6))
    assert seen == [1]


def test_numbers_that_the_code_writes_into_a_tensor_stay() -> None:
    model = Outer()
    model.inner = Marked()
    plan, smaller = cut(randomise(model, 0).eval())
    assert [edit.module for edit in plan.edits if isinstance(edit, Retrace)] == ["inner"]
    elsewhere = smaller.to("meta")(torch.empty(3, 4, 6, device="meta"))
    assert (elsewhere.shape, elsewhere.device.type) == ((3, 4, 3), "meta")


class Sequences(nn.Module):
    """Torch's encoder behind a token that is put before the sequence, and a mask that follows from its length."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first)
        self.embed, self.encoder, self.head = (
            nn.Linear(6, 16),
            nn.TransformerEncoder(layer, 1),
            nn.Linear(16, 3),
        )
        self.start, self.dim = nn.Parameter(torch.randn(1, 1, 16)), int(batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = torch.cat(
            [self.start.expand(*(-1 if d == self.dim else x.shape[d] for d in range(3))), x], self.dim
        )
        steps = torch.arange(x.shape[self.dim])
        return self.head(
            self.encoder(x, mask=steps[None] > steps[:, None] + 2, is_causal=False).sum(self.dim)
        )


@pytest.mark.parametrize("batch_first", [True, False])
def test_sequences_may_have_another_length_than_the_example(batch_first: bool) -> None:
    model = randomise(Sequences(batch_first), 0).eval()
    graph = trace(model, torch.randn(3, 5, 6))
    kept = {group.id: tuple(range(1, group.size)) for group in graph.groups}
    assert {group.kind for group in graph.groups} == {"head", "channel"}
    smaller, masked = apply(model, make_plan(model, graph, kept)), mask(model, graph, kept)
    for shape in ((3, 5, 6), (2, 9, 6), (7, 1, 6)):
        x = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(smaller(x), masked(x), atol=1e-5, rtol=1e-5)


class Refusing(Outer):
    """Cannot be exported with a free length: it loops over the steps of that of the example."""

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        if torch.compiler.is_compiling() and not isinstance(steps, int):
            raise NotImplementedError("a free length")
        return super().forward(x)


def test_the_batch_stays_free_where_the_length_cannot() -> None:
    smaller = cut(randomise(Refusing(), 0).eval())[1]
    assert smaller(torch.randn(5, 4, 6)).shape == (5, 4, 3)


def test_a_module_that_is_called_twice_is_traced_with_the_one_around_it() -> None:
    plan, smaller = cut(randomise(Outer(times=2), 0).eval())
    assert [edit.module for edit in plan.edits if isinstance(edit, Retrace)] == [""]
    assert isinstance(smaller, Outer)


def test_arguments_may_be_given_by_position_or_name_but_not_others() -> None:
    inner = cut(randomise(Outer(), 0).eval())[1].inner
    x = torch.randn(3, 4, 6)
    expected = inner(x, scale=0.5)
    assert torch.equal(inner(x, 0.5), expected)
    assert torch.equal(inner(bias=None, scale=0.5, x=x), expected)
    with pytest.raises(SurgeryError, match=r"was traced with 0\.5"):
        inner(x)
    with pytest.raises(SurgeryError, match="in the form in which it was traced"):
        inner(x, 0.5, torch.ones(6))


def test_a_model_that_makes_other_calls_is_told_apart() -> None:
    model = randomise(Outer(), 0).eval()
    plan, _ = cut(model)
    other = [replace(e, digest="0" * 64) if isinstance(e, Retrace) else e for e in plan.edits]
    with pytest.raises(SurgeryError, match="inner makes other calls than when the plan was made"):
        apply(model, replace(plan, edits=tuple(other)))


def test_a_plan_that_resizes_calls_which_are_not_there_is_refused() -> None:
    model = randomise(Outer(), 0).eval()
    plan, _ = cut(model)
    for size in (Resize(99, (1, 0), 8, 3), Resize(0, (0, 0), 8, 3), Resize(0, (9,), 8, 3)):
        edits = [replace(e, sizes=(size,)) if isinstance(e, Retrace) else e for e in plan.edits]
        with pytest.raises(SurgeryError):
            apply(model, replace(plan, edits=tuple(edits)))


class Dropping(Inner):
    def forward(self, x: Tensor, scale: float = 2.0, bias: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(x, scale, bias), 0.5, self.training)


def test_dropout_follows_the_mode() -> None:
    model = Outer()
    model.inner = Dropping()
    smaller = cut(randomise(model, 0).eval())[1]
    x = torch.randn(3, 4, 6)
    assert torch.equal(smaller(x), smaller(x))
    smaller.train()
    assert not torch.equal(smaller(x), smaller(x))
