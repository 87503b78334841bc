"""Code that repeats sizes gets other numbers, and the module stays what it was: an ordinary one of its class."""

import copy
import inspect
import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import own_code
import pytest
import torch
from models import randomise
from own_code import (
    FORMS,
    REGISTER,
    Attention,
    Biased,
    Hidden,
    Literals,
    Net,
    Private,
    Registered,
    Spatial,
    TorchAttention,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from secateur.graph import Graph, trace
from secateur.ground.errors import SurgeryError
from secateur.surgery import (
    Function,
    Literal,
    Plan,
    Retrace,
    RewriteCode,
    SetAttribute,
    apply,
    limits,
    make_plan,
    mask,
    plan_from_json,
    plan_to_json,
    verify,
)

each = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def first_dropped(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {group.id: tuple(range(1, group.size)) for group in graph.groups}


def pruned(model: nn.Module, *inputs: Tensor) -> tuple[Plan, nn.Module, nn.Module]:
    """Return the plan, the smaller model, verified, and the dense one with zeros."""
    graph = trace(randomise(model, 0).eval(), *inputs)
    kept = first_dropped(graph)
    plan = make_plan(model, graph, kept)
    smaller, masked = apply(model, plan), mask(model, graph, kept)
    assert verify(masked, smaller, graph, kept, inputs).relative < 1e-5
    return plan, smaller, masked


def literal() -> tuple[Plan, Net]:
    torch.manual_seed(0)
    plan, smaller, _ = pruned(Net(Literals), torch.randn(2, 5, 6))
    assert isinstance(smaller, Net)
    return plan, smaller


@each
def test_every_form_of_code_keeps_its_own(form: type[Attention]) -> None:
    torch.manual_seed(0)
    model = Net(form)
    plan, smaller, masked = pruned(model, torch.randn(2, 5, 6))
    assert not any(isinstance(edit, Retrace) for edit in plan.edits)
    assert any(
        isinstance(edit, RewriteCode) or getattr(edit, "attribute", "") == "shape" for edit in plan.edits
    )
    assert isinstance(smaller.inner, form)
    assert (type(smaller.inner).__name__, type(smaller.inner).__module__) == (form.__name__, form.__module__)
    assert limits(plan) == ()
    x = torch.randn(3, 9, 6)
    torch.testing.assert_close(smaller(x), masked(x), atol=1e-5, rtol=1e-5)
    assert "forward" not in vars(smaller.inner)


@each
def test_the_plan_is_data_and_makes_the_same_model_again(form: type[Attention]) -> None:
    torch.manual_seed(0)
    plan, smaller, _ = pruned(Net(form), torch.randn(2, 5, 6))
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))), plan.tensors)
    assert again.edits == plan.edits
    fresh = apply(Net(form), again)
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(fresh.eval()(x := torch.randn(2, 5, 6)), smaller(x))


@pytest.mark.parametrize("form", [f for f in FORMS if f.__qualname__ == f.__name__], ids=lambda f: f.__name__)
def test_it_pickles_and_copies(form: type[Attention]) -> None:
    torch.manual_seed(0)
    _, smaller, _ = pruned(Net(form), torch.randn(2, 5, 6))
    x, file = torch.randn(2, 5, 6), io.BytesIO()
    torch.save(smaller, file)
    file.seek(0)
    for back in (
        copy.deepcopy(smaller),
        pickle.loads(pickle.dumps(smaller)),
        torch.load(file, weights_only=False),
    ):
        assert torch.equal(back(x), smaller(x))
        assert type(back.inner) is type(smaller.inner)
        assert back.inner.q.weight is not smaller.inner.q.weight


def test_it_comes_back_in_another_process(tmp_path: Path) -> None:
    _, smaller = literal()
    x = torch.randn(2, 5, 6)
    torch.save((smaller, x), tmp_path / "model.pt")
    code = (
        f"import sys, torch; sys.path.insert(0, {str(Path(own_code.__file__).parent)!r})\n"
        f"model, x = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        f"torch.save(model(x), {str(tmp_path / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), smaller(x))


def test_two_modules_of_one_class_may_get_different_sizes() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Literals(), Literals(), nn.Linear(6, 2)), torch.randn(2, 5, 6)
    graph = trace(randomise(model, 0).eval(), x)
    kept = {"0.q": (0, 2), "1.q": (1, 2, 3), "1.up": (0, 5)}
    smaller = apply(model, make_plan(model, graph, kept))
    assert verify(mask(model, graph, kept), smaller, graph, kept, (x,)).relative < 1e-5
    first, second = type(smaller[0]), type(smaller[1])
    assert first is not second
    assert "view(n, t, 2, 4)" in inspect.getsource(first.forward)
    assert "view(n, t, 3, 4)" in inspect.getsource(second.forward)


def test_a_module_may_have_two_names_and_be_called_often() -> None:
    torch.manual_seed(0)
    inner = Literals()
    plan, smaller, _ = pruned(nn.Sequential(inner, nn.Tanh(), inner, inner), torch.randn(2, 5, 6))
    assert sum(isinstance(edit, RewriteCode) for edit in plan.edits) == 1
    assert smaller[0] is smaller[2] is smaller[3]


def test_the_source_shows_the_new_numbers_and_tracebacks_do() -> None:
    _, smaller = literal()
    text = inspect.getsource(type(smaller.inner).forward)
    assert "view(n, t, 3, 4)" in text
    assert "reshape(n, t, 12)" in text
    assert inspect.getsource(Literals.forward) == text.replace("3, 4", "4, 4").replace("12", "16")
    with pytest.raises(AttributeError) as caught:
        smaller.inner(None)
    line = caught.traceback[-1]
    assert line.lineno == inspect.getsourcelines(Literals.forward)[1]
    assert "(resized Literals.forward" in str(line.frame.code.raw.co_filename)


def test_what_the_code_sets_is_set_in_training() -> None:
    _, smaller = literal()
    smaller.train()
    seen = []
    for _ in range(2):
        smaller(torch.randn(2, 5, 6))
        seen.append(smaller.inner.last)
    assert not torch.equal(*seen)
    seen[1].square().mean().backward()
    assert smaller.inner.q.weight.grad is not None


class LowRank(nn.Module):
    """What adapters do: stands where a layer stood, and adds to it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.a, self.b = (
            layer,
            nn.Linear(6, 2, bias=False),
            nn.Linear(2, layer.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) + self.b(self.a(x))
        return y


def test_adapters_hooks_and_parametrizations_do_what_they_do() -> None:
    _, smaller = literal()
    x = torch.randn(2, 5, 6)
    before = smaller(x)
    called: list[str] = []
    smaller.inner.o.register_forward_hook(lambda *_: called.append("o"))
    smaller.inner.v = LowRank(smaller.inner.v)
    after = smaller(x)
    assert called == ["o"]
    assert not torch.allclose(before, after)
    after.sum().backward()
    assert smaller.inner.v.a.weight.grad is not None
    parametrizations.spectral_norm(smaller.inner.k)
    parametrizations.weight_norm(smaller.inner.q)
    assert not torch.allclose(smaller(x), after)
    smaller.inner.last = None
    copied = copy.deepcopy(smaller).eval()
    assert torch.equal(copied(x), smaller.eval()(x))


def test_it_is_traced_exported_and_pruned_again() -> None:
    _, smaller = literal()
    x = torch.randn(2, 5, 6)
    assert torch.equal(torch.jit.trace(smaller, x)(x), smaller(x))
    assert torch.equal(torch.export.export(smaller, (x,)).module()(x), smaller(x))
    plan, smallest, _ = pruned(smaller, x)
    assert not any(isinstance(edit, Retrace) for edit in plan.edits)
    assert "view(n, t, 2, 4)" in inspect.getsource(type(smallest.inner).forward)
    assert torch.equal(pickle.loads(pickle.dumps(smallest))(x), smallest(x))


def test_a_picture_may_have_another_size() -> None:
    """Of the example, height, width and channels are 16 alike: what is a channel only the code tells."""
    torch.manual_seed(0)
    plan, smaller, masked = pruned(Spatial(), torch.randn(2, 3, 16, 16))
    assert {group: len(units) for group, units in plan.kept.items()} == {"a": 15, "v": 15}
    for shape in ((1, 3, 9, 9), (2, 3, 24, 32)):
        x = torch.randn(shape)
        torch.testing.assert_close(smaller(x), masked(x), atol=1e-5, rtol=1e-5)


def test_attributes_stay_true_where_the_example_did_not_go() -> None:
    torch.manual_seed(0)
    plan, smaller, masked = pruned(Net(Private), torch.randn(2, 5, 6))
    assert SetAttribute("inner", "num_heads", 4, 3) in plan.edits
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(
        smaller.inner(x, often=True), masked.inner(x, often=True), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("grad", [True, False])
def test_torch_attention_runs_its_code_and_no_native_call(grad: bool) -> None:
    torch.manual_seed(0)
    plan, smaller, masked = pruned(TorchAttention(), torch.randn(2, 5, 6))
    assert {e.module for e in plan.edits if isinstance(e, RewriteCode)} == {"layer.self_attn", "alone"}
    assert smaller.alone.num_heads == smaller.layer.self_attn.num_heads == 2
    assert isinstance(smaller.alone, nn.MultiheadAttention)
    with torch.set_grad_enabled(grad):
        x = torch.randn(4, 7, 6)
        torch.testing.assert_close(smaller(x), masked(x), atol=1e-5, rtol=1e-5)


def test_registers_of_derived_classes_are_not_told() -> None:
    torch.manual_seed(0)
    pruned(Net(Registered), torch.randn(2, 5, 6))
    assert REGISTER == []


def test_without_a_source_calls_are_traced_and_it_is_said() -> None:
    torch.manual_seed(0)
    plan, smaller, _ = pruned(Net(Hidden), torch.randn(2, 5, 6))
    assert [edit.module for edit in plan.edits if isinstance(edit, Retrace)] == ["inner"]
    (said,) = limits(plan)
    assert said.startswith("inner runs the calls of its code that were traced")
    for dump in (pickle.dumps, lambda model: torch.save(model, io.BytesIO())):
        with pytest.raises(SurgeryError, match=r"inner runs the calls.*cannot be pickled.*result\.save"):
            dump(smaller)
    x = torch.randn(2, 5, 6)
    assert torch.equal(copy.deepcopy(smaller)(x), smaller(x))


def edited(plan: Plan, *functions: Function) -> Plan:
    edits = [replace(e, functions=functions) if isinstance(e, RewriteCode) else e for e in plan.edits]
    return replace(plan, edits=tuple(edits))


def test_a_plan_puts_integers_only_where_sizes_stand() -> None:
    plan, _ = literal()
    model = Net(Literals)
    (edit,) = (e for e in plan.edits if isinstance(e, RewriteCode))
    (forward,) = edit.functions
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = [
        [replace(forward, digest="0" * 64)],
        [replace(forward, literals=(Literal(10**6, 4, 3),))],
        [replace(forward, literals=(Literal(0, 4, 3),))],  # what is assigned: no size
        [replace(forward, literals=(forward.literals[0]._replace(old=5),))],
        [forward, Function(("forward", "torch.load"), "0" * 64, ())],
        [Function(("forward", "super().forward"), forward.digest, ())],
        [Function(("__init__",), forward.digest, ())],
        [Function(("__getattr__",), forward.digest, ())],
        [Function(("nothing",), forward.digest, ())],
    ]
    for functions in wrong:
        with pytest.raises(SurgeryError):
            apply(model, edited(plan, *functions))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert type(model.inner) is Literals


def test_another_version_of_the_code_is_told_apart() -> None:
    plan, _ = literal()

    class Changed(Literals):
        def forward(self, x: Tensor) -> Tensor:
            n, t, _ = x.shape
            q, k, v = (p(x).view(n, t, 4, 4).transpose(1, 2) for p in (self.q, self.k, self.v))
            self.last = self.mix(q, k, v)
            return self.mlp(x - self.o(self.last.reshape(n, t, 16)))

    with pytest.raises(
        SurgeryError, match=r"inner \(Changed\).*another function than when the plan was made"
    ):
        apply(Net(Changed), plan)


def test_a_forward_of_the_instance_is_not_that_of_the_class() -> None:
    plan, _ = literal()
    model = Net(Literals)
    model.inner.forward = lambda x: x
    with pytest.raises(SurgeryError, match="a forward of its own"):
        apply(model, plan)


def test_methods_of_parts_are_code_of_the_module_too() -> None:
    torch.manual_seed(0)
    plan, smaller, _ = pruned(Net(Biased), torch.randn(2, 5, 6))
    assert SetAttribute("inner.table", "shape", (5, 5, 4), (5, 5, 3)) in plan.edits
    assert not any(isinstance(edit, Retrace) for edit in plan.edits)
    assert smaller.inner.table.bias().shape == (3, 5, 5)


def test_a_size_that_is_several_at_once_is_left_to_torch() -> None:
    torch.manual_seed(0)
    _, smaller, _ = pruned(Spatial(), torch.randn(2, 3, 16, 16))
    assert "p(x).reshape(n, -1, h * w)" in inspect.getsource(type(smaller).forward)
    assert "c**0.5" not in inspect.getsource(type(smaller).forward)
