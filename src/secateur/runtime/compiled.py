"""Compile: a whole network, each layer fused and run by the fastest of the sparse kernels and torch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, SupportsIndex, TypeVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.graph.export import export_program
from secateur.ground.copies import copied
from secateur.ground.devices import device_of
from secateur.ground.errors import KernelError
from secateur.ground.inputs import Example, Inputs
from secateur.ground.models import ModelLike, module_of
from secateur.ground.modes import evaluating
from secateur.ground.progress import track
from secateur.measure.store import Times, cache_folder

from .chain import Chain, find_chains, part_sizes, time_parts
from .choose import Choice, candidates, key_of, stored, time_candidates
from .fuse import FusedLayer, find_layers, find_pools
from .int8.network import Int8Call, insert_bytes, int8_call, make_rows
from .memory import Memory
from .modules import SparseConv2d, SparseLinear
from .ops import found_library
from .pool import MaxPool2d
from .run import FORMS

__all__ = ["Compiled", "compile"]

TOLERANCE = 1e-4
LEVELS = (
    0.05  # of networks with int8 layers: sums on the other side of a half move a level, and what reads it
)
K = TypeVar("K")


class Compiled(nn.Module):
    """A network for inference; `choices` says by what each of its layers is run. Made by `compile`."""

    def __init__(self, program: nn.Module, choices: tuple[Choice, ...], reason: str) -> None:
        super().__init__()
        self.program, self.choices, self.reason = program, choices, reason
        self._passed: set[Any] = set()

    @torch.inference_mode()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network, with the arguments and the result of the model that was compiled."""
        form = _form(args, kwargs)
        if form in self._passed:  # what the exported program's checks take, a small network takes
            return self.program.forward(*args, **kwargs)
        result = self.program(*args, **kwargs)
        if form is not None and len(self._passed) < FORMS:
            self._passed.add(form)
        return result

    def train(self, mode: bool = True) -> Compiled:
        """Stay in evaluation mode: norms are folded.

        Raises:
            KernelError: `mode` is True.
        """
        if mode:
            raise KernelError(
                "A compiled network is for inference. Remedy: train the model that it was made from."
            )
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Compiled:
        return Compiled(copy.deepcopy(self.program, memo), self.choices, self.reason)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise KernelError(
            "A compiled network cannot be pickled, nor sent to another process: it is made for this processor. Remedy: "
            "save or send the model that it was made from, and call secateur.runtime.compile where it shall run."
        )

    def __repr__(self) -> str:
        lines = [self.reason] if self.reason else []
        wide = max([5, *(len(c.layer) for c in self.choices)])
        lines.append(f"{'layer':{wide}}  runs as       stored  milliseconds")
        for choice in self.choices:
            times = ", ".join(f"{name} {ms:.3f}" for name, ms in choice.ms.items()) or "not timed"
            lines.append(f"{choice.layer:{wide}}  {choice.kernel:12}  {choice.stored:6.1%}  {times}")
        chains = [m for m in self.program.modules() if isinstance(m, Chain)]
        lines += [f"{len(chain.layers)} calls are one: {chain.extra_repr()}" for chain in chains]
        return "\n".join(lines)


def compile(
    model: ModelLike,
    example_inputs: Example,
    *,
    folder: Path | None = None,
) -> Compiled:
    """Compile a network for inference on this processor, with the threads that torch has now.

    The kernels are the processor's: of a model on another device a copy is compiled.

    BatchNorms are folded, activations and residual sums fused; layers with zero or unified blocks run in the compiled
    kernels where these are faster on inputs of the example's size, and so does max pooling; all else runs in torch.
    Quantised layers (`secateur.quantise`) run in the int8 kernels where these are faster, and hand bytes on where all
    that reads them is such a layer.
    `example_inputs` is one tensor, or the positional or the keyword inputs; the batch stays free where the model allows
    it. Times of layers are kept in `folder` (default: the user's cache) and not taken again. The result computes the
    same as the model, within 1e-4 of the largest output (with int8 layers 5 %, single levels apart): that is checked on
    the example. Weights that are zero are
    skipped: a NaN or an infinity in the inputs that only such weights meet is not in the outputs, where torch has
    NaN times zero.

    Raises:
        TraceError: the model cannot be exported.
        KernelError: the result differs from the model's.

    >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    >>> fast = compile(model, torch.ones(2, 8))
    >>> torch.allclose(fast(torch.ones(5, 8)), model(torch.ones(5, 8)), atol=1e-5)
    True
    """
    model = module_of(model)
    if device_of(model) != torch.device("cpu"):  # the kernels are the processor's
        model = copied(model).to("cpu")
    given = Inputs.of(example_inputs).beside(model)
    args, kwargs = given.args, dict(given.kwargs)
    program = export_program(model, args, kwargs)
    # Without writes into tensors, a call may move behind another.
    module: Any = program.exported.run_decompositions({}).module(check_guards=False)
    assert isinstance(module, GraphModule)
    found = found_library()
    instruction_set = "" if found.library is None else found.library.instruction_set
    layers = list(find_layers(module))
    example = next((x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()), None)
    batch = 1 if example is None else example.shape[0]
    times = Times.here(folder or cache_folder(), batch)
    memory, shapes = Memory(), [_shape(layer.input, program.batch, batch) for layer in layers]
    chosen, choices = _choose(model, layers, shapes, memory, times, instruction_set)
    pools = dict(find_pools(module)) if found.library is not None else {}
    eights = [i for i, way in enumerate(chosen) if isinstance(way, Int8Call)]
    insert_bytes(module, model, layers, eights, pools)
    for i, (layer, way) in enumerate(zip(layers, chosen)):
        if i not in eights:
            inputs = (layer.input,) if layer.residual is None else (layer.input, layer.residual)
            _call_instead(module, layer.last, inputs, way, f"secateur_{i}")
    module.graph.eliminate_dead_code()
    make_rows(module)
    if found.library is not None:
        for i, (node, window) in enumerate(list(find_pools(module))):
            _call_instead(module, node, (node.args[0],), MaxPool2d(window, memory), f"secateur_pool_{i}")
    module.graph.eliminate_dead_code()
    for i, nodes in enumerate(list(find_chains(module))):
        shapes = [_shape(node, program.batch, batch) for node in _inputs(nodes)]
        chain = _chain(module, nodes, memory, f"secateur_chain_{i}")
        if batch > 1 and all(shape[0] == batch for shape in shapes):
            parts = {n: f"{chain.key(shapes)} {instruction_set} {n}" for n in part_sizes(batch)}
            chain.at_once = _fastest(times.of(parts, partial(time_parts, chain, shapes)))
    times.keep()
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unused(module)
    module.recompile()
    compiled = Compiled(module, tuple(choices), found.reason)
    _verify(model, compiled, args, kwargs)
    return compiled


def _choose(
    model: nn.Module,
    layers: Sequence[FusedLayer],
    shapes: Sequence[Sequence[int]],
    memory: Memory,
    times: Times,
    instruction_set: str,
) -> tuple[list[nn.Module], list[Choice]]:
    """Return the fastest way to run each layer, of those that there are, and what was looked at."""
    chosen, choices = [], []
    for layer, shape in zip(track(layers, "choosing kernels"), shapes):
        ways = candidates(layer)
        if not instruction_set:
            ways = dict(list(ways.items())[:1])
        elif (eight := int8_call(model, layer)) is not None:
            ways[f"int8 {eight.layer.values.shape[1]}x4"] = eight
        for way in ways.values():
            if isinstance(way, SparseLinear | SparseConv2d):
                way.memory = memory
        keys = {name: key_of(layer, name, way, shape, instruction_set) for name, way in ways.items()}
        took = times.of(keys, partial(time_candidates, layer, ways, shape)) if len(ways) > 1 else {}
        best = _fastest(took) if took else "dense"
        chosen.append(ways[best])
        read = [n for way in ways.values() if (n := stored(way)) is not None]
        share = min([layer.weight.numel(), *read]) / layer.weight.numel()
        choices.append(Choice(layer.name, best, share, took))
    return chosen, choices


def _form(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what the checks of a program look at in tensors; None for other inputs, and while they are traced."""
    values = (*args, *kwargs.values())
    if torch.compiler.is_compiling() or any(type(v) is not Tensor for v in values):
        return None
    return (*kwargs, *[(v.shape, v.dtype) for v in values])


def _fastest(took: Mapping[K, float]) -> K:
    return min(took, key=lambda name: took[name])


def _shape(node: Node, traced: int, batch: int) -> list[int]:
    """Return the shape of a value for the example: where the traced batch stands, the batch that is wanted."""
    sizes: list[Any] = list(node.meta["val"].shape)
    return [int(n) if isinstance(n, int) else max(1, round(int(n.node.hint) * batch / traced)) for n in sizes]


def _call_instead(
    module: GraphModule, node: Node, inputs: tuple[Any, ...], submodule: nn.Module, name: str
) -> None:
    module.add_submodule(name, submodule)
    with module.graph.inserting_before(node):
        call = module.graph.call_module(name, inputs)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)


def _inputs(nodes: Sequence[Node]) -> list[Node]:
    """Return what calls read that none of them makes."""
    return list(dict.fromkeys(a for node in nodes for a in node.all_input_nodes if a not in nodes))


def _chain(module: GraphModule, nodes: Sequence[Node], memory: Memory, name: str) -> Chain:
    """Make one call of several."""
    inputs = _inputs(nodes)
    number = {node: i for i, node in enumerate([*inputs, *nodes])}
    layers = [module.get_submodule(str(node.target)) for node in nodes]
    reads = [tuple(number[a] for a in node.args if isinstance(a, Node)) for node in nodes]
    chain = Chain(layers, reads, len(inputs), memory)
    _call_instead(module, nodes[-1], tuple(inputs), chain, name)
    return chain


def _drop_unused(module: GraphModule) -> None:
    """Forget parameters and buffers that no call reads: the packed layers have their own."""
    for node in [n for n in module.graph.nodes if n.op == "get_attr" and not n.users]:
        module.graph.erase_node(node)
    read = {str(n.target) for n in module.graph.nodes if n.op == "get_attr"}
    kept = tuple(str(n.target) for n in module.graph.nodes if n.op == "call_module")
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in read and not name.startswith(kept):
            owner, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(owner), leaf)


def _verify(model: nn.Module, compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    with evaluating(model), torch.inference_mode():
        wanted = pytree.tree_leaves(model(*copy.deepcopy(args), **copy.deepcopy(dict(kwargs))))
        given = pytree.tree_leaves(compiled(*args, **kwargs))
    rounded = any(choice.kernel.startswith("int8") for choice in compiled.choices)
    tolerance = LEVELS if rounded else TOLERANCE
    for expected, found in zip(wanted, given, strict=True):
        if isinstance(expected, Tensor) and expected.is_floating_point() and expected.numel():
            error = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-30))
            if not error <= tolerance:
                raise KernelError(
                    f"The compiled {type(model).__name__} differs from the model by {error:.1e} of its largest output. "
                    "Remedy: check that the model is deterministic in eval mode; else please report it."
                )
