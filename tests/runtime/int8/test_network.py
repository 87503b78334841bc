"""Quantised networks, compiled: what the int8 kernels give is what torch simulates, within a level."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from secateur.graph.export import export_program
from secateur.methods import Int8
from secateur.runtime import compile
from secateur.runtime import compiled as compiling
from secateur.runtime.fuse import find_layers, find_pools
from secateur.runtime.int8 import Int8MaxPool2d, fastest_bits
from secateur.runtime.int8.network import (
    Int8Call,
    Int8Read,
    Int8Row,
    bytes_between,
    insert_bytes,
    int8_call,
    levels_read,
    make_rows,
)
from secateur.runtime.library import VARIABLE
from tests.helpers.quantised import drafted, pictures

NET, DATA = pictures()
MODEL = drafted(NET, DATA).model


def exported(model: nn.Module = MODEL) -> GraphModule:
    program = export_program(model, (DATA[0][:2],), {})
    module = program.exported.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, GraphModule)
    return module


def values_of(module: GraphModule, x: Tensor) -> dict[str, Tensor]:
    """Return what each node of a graph gives."""
    found: dict[str, Tensor] = {}

    class Watched(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> object:
            result = super().run_node(n)
            found[n.name] = result
            return result

    with torch.no_grad():
        Watched(module).run(x)
    return found


@pytest.mark.parametrize("bits", [7, 8])
def test_each_layer_gives_what_torch_simulates(bits: Literal[7, 8]) -> None:
    model = MODEL if bits == 8 else drafted(NET, DATA, Int8(bits=bits)).model
    module = exported(model)
    values = values_of(module, DATA[1])
    layers = {layer.name: layer for layer in find_layers(module)}
    calls = {name: int8_call(model, layer) for name, layer in layers.items()}
    assert {name for name, call in calls.items() if call is None} == {"odd"}
    for name, call in calls.items():
        if call is None:
            continue
        layer = layers[name]
        source = layer.input.args[0]
        residual = [] if layer.residual is None else [values[layer.residual.name]]
        with torch.no_grad():
            found = call(values[source.name], *residual)  # type: ignore[union-attr]
        expected = values[layer.last.name]
        # The bias is rounded to a unit of the sum: far below a level of whoever reads it.
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-4 * float(expected.abs().max()))


def test_bytes_are_handed_on_within_a_level() -> None:
    module = exported()
    values = values_of(module, DATA[1])
    layers, pools = list(find_layers(module)), dict(find_pools(module))
    chosen = [i for i, layer in enumerate(layers) if int8_call(MODEL, layer) is not None]
    between = bytes_between(layers, chosen, pools)
    names = {layers[i].name: found for i, found in between.items()}
    # The stem's output is added further on, and a layer of floats reads that of the last one.
    assert set(names) == {"one", "grouped", "fc"}
    assert names["grouped"].pool is not None
    assert names["one"].pool is None
    for i, found in between.items():
        layer, source = layers[i], layers[i].input.args[0]
        call = int8_call(MODEL, layer, found.levels)
        assert call is not None
        with torch.no_grad():
            steps = call(values[source.name]).bytes().int()  # type: ignore[union-attr]
        expected = found.levels.of(values[layer.last.name]).int()
        assert int((steps - expected).abs().max()) <= 1
        assert float((steps != expected).float().mean()) < 0.01


def test_a_whole_graph_of_bytes() -> None:
    module = exported()
    layers, pools = list(find_layers(module)), dict(find_pools(module))
    chosen = [i for i, layer in enumerate(layers) if int8_call(MODEL, layer) is not None]
    calls = insert_bytes(module, MODEL, layers, chosen, pools)
    module.graph.eliminate_dead_code()
    module.recompile()
    with torch.no_grad():
        expected, found = MODEL(DATA[2]), module(DATA[2])
    assert len(calls) == 7
    assert float((expected - found).abs().max()) < 0.03 * float(expected.abs().max())
    left = [node for node in module.graph.nodes if levels_read(node) is not None]
    assert left == []
    kinds = [type(module.get_submodule(str(n.target))) for n in module.graph.nodes if n.op == "call_module"]
    # The stem's value is read by one layer and added as it is; bytes of three layers go on without being made anew.
    assert kinds.count(Int8Read) == 4
    assert kinds.count(Int8MaxPool2d) == 1
    make_rows(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    rows = [m for m in module.modules() if isinstance(m, Int8Row)]
    called = [n for n in module.graph.nodes if n.op == "call_module"]
    assert sorted(len(row.chain.layers) for row in rows) == [
        2,
        2,
        3,
    ]  # fc and head; one and two; grouped, pool, last
    assert len(called) == len(kinds) - 4
    for size in (DATA[2], DATA[2], DATA[2][:3]):  # the first call of a form goes step by step
        with torch.no_grad():
            assert torch.equal(module(size), found[: len(size)])


def test_compiled_networks_choose_by_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def int8_first(took: dict[object, float]) -> object:
        return next((name for name in took if str(name).startswith("int8")), next(iter(took)))

    monkeypatch.setattr(compiling, "_fastest", int8_first)
    fast = compile(MODEL, DATA[0][:2], folder=tmp_path)
    with torch.no_grad():
        expected = MODEL(DATA[2])
    assert float((fast(DATA[2]) - expected).abs().max()) < 0.03 * float(expected.abs().max())
    kernels = {choice.layer: choice.kernel for choice in fast.choices}
    assert {name for name, kernel in kernels.items() if kernel.startswith("int8")} == {
        "stem", "one", "two", "grouped", "last", "fc", "head",
    }  # fmt: skip
    assert any(isinstance(m, Int8Call) for m in fast.modules())


def test_without_kernels_a_quantised_network_is_simulated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    fast = compile(MODEL, DATA[0][:2], folder=tmp_path)
    assert {choice.kernel for choice in fast.choices} == {"dense"}
    with torch.no_grad():
        torch.testing.assert_close(fast(DATA[2]), MODEL(DATA[2]), rtol=0, atol=0.02)
    assert fastest_bits() == 8


def test_a_float_layer_is_no_int8_call() -> None:
    net = nn.Sequential(nn.Linear(4, 4)).eval()
    program = export_program(net, (torch.ones(2, 4),), {})
    module = program.exported.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, GraphModule)
    (layer,) = find_layers(module)
    assert int8_call(net, layer) is None
