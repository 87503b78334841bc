"""Running the traced program with other tensors."""

import copy

import torch
from models import SMALL
from torch import Tensor, nn

from secateur.graph import trace
from secateur.statistics import Forward, state_tensors

RESIDUAL = next(case for case in SMALL if case.name == "residual")


def test_the_program_is_the_model() -> None:
    model, x = RESIDUAL.model(), RESIDUAL.inputs(3, seed=4)
    program = trace(model, x[:2]).program
    tensors = state_tensors(program)
    assert set(tensors) == set(model.state_dict())
    result = Forward(program, tensors).run([x], {}, {}, whole=True)
    assert result is not None
    with torch.no_grad():
        torch.testing.assert_close(result[0], model(x))


def test_other_tensors_make_another_model() -> None:
    model, x = RESIDUAL.model(), RESIDUAL.inputs(3)
    program = trace(model, x[:2]).program
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter("fc.weight").mul_(2)
        other.get_buffer("bn_b.running_mean").add_(1)
    changed = {
        "fc.weight": other.get_parameter("fc.weight"),
        "bn_b.running_mean": other.get_buffer("bn_b.running_mean"),
    }
    result = Forward(program, state_tensors(program) | changed).run([x], {}, {}, whole=True)
    assert result is not None
    with torch.no_grad():
        torch.testing.assert_close(result[0], other(x))
        assert not torch.allclose(result[0], model(x))


def test_arguments_are_seen_before_anything_changes_them_in_place() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 0
            y += 1
            return y

    program = trace(InPlace(), torch.zeros(2, 2)).program
    node = next(n.name for n in program.nodes if n.overload.startswith("aten.add_"))
    seen: list[Tensor] = []
    made: list[Tensor] = []
    reads = {node: lambda args, _: seen.append(args[0].clone())}
    makes = {node: lambda _, result: made.append(result)}
    Forward(program, {}).run([torch.zeros(2, 2)], reads, makes)
    assert float(seen[0].sum()) == 0
    assert float(made[0].sum()) == 4


def test_a_run_ends_with_the_last_node_that_is_watched() -> None:
    model, x = RESIDUAL.model(), RESIDUAL.inputs(2)
    program = trace(model, x).program
    layers = [n.name for n in program.nodes if n.op == "conv2d"]
    last = [n.name for n in program.nodes if n.op == "linear"]
    seen: list[str] = []
    forward = Forward(program, state_tensors(program))
    assert forward.run([x], {}, {layers[0]: lambda _, r: seen.append("first")}) is None
    assert seen == ["first"]
    tensors = state_tensors(program) | {"fc.weight": torch.zeros(1, 1)}  # would fail, had the run gone so far
    assert Forward(program, tensors).run([x], {}, {layers[0]: lambda _, r: None}) is None
    assert last
