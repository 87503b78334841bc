"""Export: a model into a Program by torch.export, without running it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from secateur.ground.errors import TraceError
from secateur.ground.inputs import plain
from secateur.ground.modes import evaluating
from secateur.ground.tensors import identity, named_tensors, tensor_names

from .batch import Dims, guesses, mixes
from .interrupts import interrupts_held
from .nodes import plain_nodes
from .program import Program
from .refusal import explain
from .sizes import Sizes, symbols

__all__ = ["export_program", "quiet"]

_NOISY = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


def export_program(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    calls: tuple[str, ...] = (),
    *,
    batch_dims: Dims | None = None,
    free: tuple[int, ...] | None = None,
    lengths: bool = False,
) -> Program:
    """Export the model in eval mode on fake tensors, with a free batch size where the model allows it.

    `batch_dims` says for each input (those in containers one by one, as `Inputs.dims` counts them) which dimension is
    the batch. Without it the batch is found: dimension 0 of the first tensor, or 1 where the calls mix what lies along
    0 (sequences whose batch comes second); and what the export shows to be always as long in the other inputs. Where
    both mix, as the nodes of a graph do, there is no batch, and all sizes of inputs with up to three dimensions are
    free. A batch of one is repeated, for torch.export takes a size of one as a constant.

    `free` asks for these dimensions in all inputs where they are as long as the first one's, and no search. With
    `lengths` all other sizes of inputs with up to three dimensions are free too, as far as the model's code leaves
    them. `calls` are paths of modules of which the exported program's ``module_call_graph`` is to say what they take
    and return.

    Raises:
        TraceError: torch.export refuses the model.
    """
    args, kwargs = pytree.tree_map(plain, (tuple(args), dict(kwargs)))
    export = _Export(model, args, kwargs, calls, lengths)
    with (
        evaluating(model),
        quiet(),
        torch.no_grad(),
        interrupts_held(),
        _attributes_kept(model),
        _no_cache(model),
    ):
        if free is not None:
            found = export.with_free(free)
        elif batch_dims is not None:
            found = export.with_batch(batch_dims)
        else:
            found = export.with_batch_found()
        return found or export.static(batch_dims)


@dataclass(frozen=True)
class _Export:
    """One model and its inputs, exported with one or another of their sizes free."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    calls: tuple[str, ...]
    lengths: bool

    def with_batch_found(self) -> Program | None:
        """Return the program whose batch nothing mixes, or the one without a batch; None if no size is free."""
        programs = []
        for dims in guesses(self._leaves):
            programs.append(self._try(dims, self._others(dims)))
            if programs[-1] is not None and mixes(programs[-1].nodes) is None:
                return programs[-1]
        first = next(iter(programs), None)
        if first is None and not self._tied:
            return None
        return self._without_batch() or (first and _whole(first))

    def with_batch(self, dims: Dims) -> Program | None:
        """Return the program with this batch; None if its code fixes the size."""
        if all(d is None for d in dims):
            found = self._without_batch()
            some = (p for d in guesses(self._leaves) if (p := self._try(d, self._others(d))) is not None)
            return found or next(map(_whole, some), None)
        return self._try(dims, self._others(dims), given=True)

    def with_free(self, free: Sequence[int]) -> Program | None:
        """Return the program in which these dimensions are free, the first of them the batch."""
        first = next((x.shape for x in self._leaves if isinstance(x, Tensor) and x.ndim), None)
        if first is None or not free:
            return None
        like = [
            frozenset(d for d in free if x.shape[d : d + 1] == first[d : d + 1] != ())
            if isinstance(x, Tensor)
            else ()
            for x in self._leaves
        ]
        dims = tuple(free[0] if free[0] in own else None for own in like)
        program = self._try(dims, [frozenset(own) for own in like])
        if program is None:
            return None
        asked = next(
            own for x, own in zip(self._leaves, program.free, strict=True) if isinstance(x, Tensor) and x.ndim
        )
        return program if {d for d in free if d < len(first)} <= asked else None

    def static(self, dims: Dims | None) -> Program:
        """Return the program with the sizes of the example; without `dims` its batch is taken to come first.

        Raises:
            TraceError: torch.export refuses the model.
        """
        if dims is None:
            guess = next(guesses(self._leaves), (None,) * len(self._leaves))
            dims = tuple(d if d == 0 else None for d in guess)
        try:
            exported = self._run(self.args, self.kwargs, None)
        except Exception as error:  # the model's own code runs here
            raise TraceError(explain(self.model, error)) from error
        batch = next((x.shape[d] for x, d in zip(self._leaves, dims, strict=True) if d is not None), 1)
        return self._program(exported, dims, max(batch, 1), dynamic=False)

    @property
    def _leaves(self) -> list[Any]:
        leaves: list[Any] = pytree.tree_leaves((self.args, self.kwargs))
        return leaves

    @property
    def _tied(self) -> bool:
        """Whether an input has two dimensions of one size: then nodes, not samples, may lie along both."""
        return any(_is_short(x) and len({*x.shape}) < x.ndim for x in self._leaves)

    def _others(self, dims: Dims) -> list[frozenset[int]]:
        """Return the dimensions beside the batch that are to be free."""
        return [
            frozenset(range(0 if d is not None else 1, x.ndim))
            if self.lengths and _is_short(x)
            else frozenset()
            for x, d in zip(self._leaves, dims, strict=True)
        ]

    def _without_batch(self) -> Program | None:
        """Return the program of a call that is one sample, with all its sizes free that may be."""
        none: Dims = (None,) * len(self._leaves)
        return self._try(
            none, [frozenset(range(x.ndim)) if _is_short(x) else frozenset() for x in self._leaves]
        )

    def _try(self, dims: Dims, others: Sequence[frozenset[int]], given: bool = False) -> Program | None:
        """Return the program in which the batch is free (or, without a batch, any size); None where none can be."""
        args, kwargs = _widened(self.args, self.kwargs, dims)
        leaves = pytree.tree_leaves((args, kwargs))
        wanted = [own | ({d} if d is not None else set()) for d, own in zip(dims, others, strict=True)]
        if not any(wanted):
            return None
        try:
            exported = self._run(args, kwargs, wanted)
        except Exception:  # torch.export raises whatever the model's code does; the static form decides
            return None
        shapes = _input_shapes(exported, leaves)
        batch = next((symbols(s[d]) for s, d in zip(shapes, dims, strict=True) if d is not None), None)
        if batch is None:
            return self._program(exported, dims, 1, dynamic=True) if any(map(_free, shapes)) else None
        if not batch:
            return None
        if not given:
            dims = tuple(
                d if d is not None and not _apart(exported, batch, symbols(s[d])) else None
                for s, d in zip(shapes, dims, strict=True)
            )
        count = next(x.shape[d] for x, d in zip(leaves, dims, strict=True) if d is not None)
        return self._program(exported, dims, count, dynamic=True)

    def _run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], wanted: Sequence[frozenset[int]] | None
    ) -> ExportedProgram:
        # An export notes on its inputs which sizes are free; one that fails leaves these notes behind.
        args, kwargs = pytree.tree_map_only(Tensor, _unmarked, (args, dict(kwargs)))
        shapes = ShapesCollection()
        for leaf, own in zip(pytree.tree_leaves((args, kwargs)), wanted or (), strict=wanted is not None):
            if own:
                shapes[leaf] = dict.fromkeys(sorted(own), Dim.AUTO)
        return export(
            self.model,
            args,
            kwargs,
            strict=False,
            dynamic_shapes=None if wanted is None else shapes.dynamic_shapes(self.model, args, kwargs),
            # The model's own is always there.
            preserve_module_call_signature=tuple(path for path in self.calls if path),
        )

    def _program(self, exported: ExportedProgram, dims: Dims, batch: int, dynamic: bool) -> Program:
        names = {name: group for group in tensor_names(self.model) for name in group}
        parameters = {
            spec.arg.name: names[spec.target]
            for spec in exported.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in names
        }
        buffers = {names[name][0] for name, _ in self.model.named_buffers(remove_duplicate=False)}
        shapes = _input_shapes(exported, self._leaves)
        counted = (symbols(s[d]) for s, d in zip(shapes, dims, strict=True) if d is not None)
        return Program(
            nodes=tuple(plain_nodes(exported.graph_module, Sizes(frozenset().union(*counted)))),
            parameters=parameters,
            buffers=frozenset(buffers - {names[name][0] for name, _ in self.model.named_parameters()}),
            shared=_shared(self.model),
            shapes={names[name][0]: tuple(tensor.shape) for name, tensor in named_tensors(self.model)},
            batch=batch,
            dynamic=dynamic,
            batch_dims=dims,
            free=tuple(map(_free, shapes)),
            exported=exported,
        )


def _whole(program: Program) -> Program:
    """Return the program of a call that is one sample."""
    nodes = tuple(replace(node, alone=node.shape, hint_alone=node.hint) for node in program.nodes)
    return replace(program, nodes=nodes, batch=1, batch_dims=(None,) * len(program.batch_dims))


def _is_short(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim <= 3


def _free(shape: Sequence[Any]) -> frozenset[int]:
    return frozenset(d for d, size in enumerate(shape) if symbols(size))


def _apart(exported: ExportedProgram, batch: frozenset[Any], other: frozenset[Any]) -> bool:
    """Whether a size is not that of the batch: the code fixes it, or something is made for each pair of the two.

    Not every call that needs both to be alike says so in an export (a mask beside its queries does not).
    """
    if not other:
        return True
    if other == batch:
        return False
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        sizes = [symbols(n) for n in value.shape] if isinstance(value, Tensor) else []
        if any(batch <= n for n in sizes) and any(other <= n and not batch <= n for n in sizes):
            return True
    return False


def _input_shapes(exported: ExportedProgram, leaves: Sequence[Any]) -> list[Sequence[Any]]:
    """Return the symbolic shape of each input, nothing for what is no tensor."""
    values = {node.name: node.meta.get("val") for node in exported.graph.nodes if node.op == "placeholder"}
    specs = [s for s in exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    found = [values.get(s.arg.name) for s in specs]
    assert len(found) == len(leaves)
    return [value.shape if isinstance(value, Tensor) else () for value in found]


def _widened(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], dims: Dims
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat a batch of one, for torch.export takes a size of one as a constant."""
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    wide = [
        x.repeat_interleave(2, d) if isinstance(x, Tensor) and d is not None and x.shape[d] == 1 else x
        for x, d in zip(leaves, dims, strict=True)
    ]
    args, kwargs = pytree.tree_unflatten(wide, spec)
    return args, dict(kwargs)


def _unmarked(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _shared(model: nn.Module) -> frozenset[str]:
    """Names whose memory another tensor uses in another form: slicing one would tear them apart."""
    by_memory: dict[int, dict[Any, str]] = defaultdict(dict)
    for name, tensor in named_tensors(model):
        if tensor.numel() and tensor.device.type != "meta":
            by_memory[tensor.untyped_storage().data_ptr()].setdefault(identity(tensor), name)
    return frozenset(name for forms in by_memory.values() if len(forms) > 1 for name in forms.values())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's own account of an export off the terminal; TraceError gives ours of what fails.

    What it warns of, tensors that the forward assigns to attributes (the recurrent layers' list of weights among
    them), it puts back itself.
    """
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The tensor attributes? .* during export", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Take away the attributes that a forward sets for the first time: they would hold tensors without data."""
    before = [(module, frozenset(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in vars(module).keys() - names:
                delattr(module, name)


@contextlib.contextmanager
def _no_cache(model: nn.Module) -> Iterator[None]:
    """Let decoders return no cache of keys and values, which is no tensor; afterwards they do so again."""
    configurations = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    caching = [c for c in configurations.values() if getattr(c, "use_cache", None) is True]
    for configuration in caching:
        configuration.use_cache = False
    try:
        yield
    finally:
        for configuration in caching:
            configuration.use_cache = True
