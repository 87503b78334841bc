"""Applying a plan keeps what a model is, and refuses one that the plan was not made for."""

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur.ground.errors import SurgeryError
from secateur.surgery import fingerprint
from secateur.surgery.apply import apply
from secateur.surgery.modules import Constant, Removed, output_shape
from secateur.surgery.plan import Edit, Fingerprint, Plan, RemoveBranch, SetAttribute, SliceTensor


class Tied(nn.Module):
    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.a = nn.Linear(3, hidden)
        self.b = nn.Linear(3, hidden)
        self.b.weight = self.a.weight
        self.conv = nn.Conv2d(4, 6, 3)
        self.register_buffer("scale", torch.arange(5.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


def plan_for(model: nn.Module, *edits: Edit, **tensors: Tensor) -> Plan:
    return Plan({}, edits, fingerprint(model), {k.replace("__", "."): v for k, v in tensors.items()})


TIE = SliceTensor(("a.weight", "b.weight"), 0, (0, 3), 5)


def test_tied_tensors_stay_tied_and_the_model_is_left_alone() -> None:
    model = Tied()
    before = copy.deepcopy(model.state_dict())
    small = apply(model, plan_for(model, TIE))
    assert small.a.weight is small.b.weight
    assert isinstance(small.a.weight, nn.Parameter)
    assert torch.equal(small.a.weight, model.a.weight[[0, 3]])
    assert list(small.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_flags_types_layouts_and_hooks_stay() -> None:
    model = Tied().to(torch.float64)
    model.a.weight.requires_grad_(False)
    model.conv.to(memory_format=torch.channels_last)
    model.conv.eval()
    model.a.register_forward_hook(lambda module, args, output: output * 0)
    bias, channels = SliceTensor(("a.bias",), 0, (0, 3), 5), SliceTensor(("conv.weight",), 1, (1, 2), 4)
    small = apply(model, plan_for(model, TIE, bias, channels))
    assert not small.a.weight.requires_grad
    assert small.a.bias.requires_grad
    assert small.conv.weight.dtype == torch.float64
    assert small.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert small.training
    assert not small.conv.training
    assert not small.a(torch.ones(1, 3, dtype=torch.float64)).any()


def test_buffers_that_are_not_saved_shrink_and_stay_unsaved() -> None:
    model = Tied()
    small = apply(model, plan_for(model, SliceTensor(("scale",), 0, (1, 4), 5)))
    assert small.scale.tolist() == [1, 4]
    assert "scale" not in small.state_dict()


def test_repaired_tensors_take_the_models_type() -> None:
    model = Tied().to(torch.float16)
    small = apply(model, plan_for(model, TIE, a__weight=torch.ones(2, 3, dtype=torch.float64)))
    assert small.b.weight.dtype == torch.float16
    assert bool((small.b.weight == 1).all())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            SliceTensor(("a.wieght",), 0, (0,), 5),
            "no parameter or buffer 'a.wieght'. Did you mean 'a.weight'",
        ),
        (SliceTensor(("a.bias",), 0, (0,), 9), r"size 9 in dimension 0 of a.bias.*\(5,\)"),
        (SliceTensor(("a.bias",), 1, (0,), 5), r"dimension 1 of a.bias"),
        (SliceTensor(("a.weight",), 0, (0,), 5), "here a.weight, b.weight"),
        (SetAttribute("conv", "groups", 2, 1), "conv.groups to be 2, not 1"),
        (SetAttribute("conv", "group", 2, 1), "no attribute 'group'. Did you mean 'groups'"),
        (SetAttribute("conf", "groups", 1, 2), "no module 'conf'. Did you mean 'conv'"),
        (SetAttribute("conv", "training", 1, 0), "training"),
        (RemoveBranch(("a",), ()), "no tensor 'a.value'"),
    ],
)
def test_a_plan_for_another_model_is_refused(edit: Edit, message: str) -> None:
    model = Tied()
    with pytest.raises(SurgeryError, match=message):
        apply(model, plan_for(model, edit))


def test_another_class_and_another_structure_are_refused() -> None:
    model = Tied()
    with pytest.raises(SurgeryError, match="for a Other, and this is a Tied"):
        apply(model, Plan({}, (), Fingerprint("Other", "")))
    with pytest.raises(SurgeryError, match="same options"):
        apply(Tied(7), plan_for(model))


def test_a_tensor_of_the_wrong_shape_is_refused() -> None:
    model = Tied()
    with pytest.raises(SurgeryError, match=r"gives a.weight the shape \(5, 3\).*\(2, 3\)"):
        apply(model, plan_for(model, TIE, a__weight=torch.ones(5, 3)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 6, (1, 5), padding="same"),
        nn.Conv2d(4, 6, 2, padding="valid"),
        nn.Conv2d(4, 6, 5, stride=3, padding=2, groups=2),
        nn.BatchNorm2d(4),
    ],
)
def test_blanks_and_written_out_constants_have_the_layers_shape(layer: nn.Module) -> None:
    x = torch.randn(2, 4, 9, 11)
    expected = layer(x)
    shape = output_shape(layer, "layer")
    value = torch.randn(1, expected.shape[1], 1, 1)
    assert Removed(shape)(x).shape == (2, 1, *expected.shape[2:])
    assert Constant(value, shape)(x).shape == expected.shape
    assert Constant(value, None)(x).shape == value.shape


def test_operations_in_place_behind_a_constant_do_not_change_it() -> None:
    constant = Constant(torch.full((1, 2, 1, 1), -1.0), None)
    with torch.no_grad():
        constant(torch.zeros(1)).relu_()
    assert constant.value.tolist() == [[[[-1.0]], [[-1.0]]]]
