"""Export: a model into a Program by torch.export, without running it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection, export
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule
from torch.fx import Node as FxNode
from torch.utils import _pytree as pytree

from secateur.ground.errors import TraceError
from secateur.ground.modes import evaluating
from secateur.ground.tensors import identity, named_tensors, tensor_names

from .flat import flat
from .program import Node, Program, Ref, Shape

__all__ = ["check_kind", "check_runs", "export_program"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_NOISY = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes")


def export_program(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    calls: tuple[str, ...] = (),
    *,
    free: tuple[int, ...] = (0,),
    lengths: bool = False,
) -> Program:
    """Export the model in eval mode on fake tensors, with a free batch size where the model allows it.

    Dimension 0 of every tensor input that is as long as that of the first one is the batch; so it is for every
    dimension in `free`. A batch of one is repeated, for torch.export takes a size of one as a constant. With
    `lengths` all other sizes of inputs with up to three dimensions are free too, as far as the model's code leaves
    them. `calls` are paths of modules of which the exported program's ``module_call_graph`` is to say what they take
    and return.

    Raises:
        TraceError: torch.export refuses the model.
    """
    with evaluating(model), _quiet(), torch.no_grad():
        batch = _batch_size((args, kwargs))
        exported = _export_dynamic(model, args, kwargs, free, calls, lengths) if batch else None
        if exported is not None:
            return _program(model, exported, max(batch, 2), dynamic=True)
        try:
            exported = _export(model, args, dict(kwargs), (), calls, False)
        except Exception as error:  # the same: the model's own code runs here
            raise TraceError(_explain(model, error)) from error
        return _program(model, exported, max(batch, 1), dynamic=False)


def check_kind(model: nn.Module) -> None:
    """Refuse what was compiled or exported already: its own code is gone.

    Raises:
        TraceError: the model is of such a kind.
    """
    made_by = "torch.jit" if isinstance(model, torch.jit.ScriptModule) else ""
    if isinstance(model, GraphModule) and "eval" in vars(model):  # which raises
        made_by = "torch.export"
    if made_by:
        raise TraceError(
            f"{type(model).__name__} was made by {made_by}, and cannot be edited any more. "
            "Remedy: give the nn.Module that it was made from, and export the smaller one."
        )


def _shared(model: nn.Module) -> frozenset[str]:
    """Names whose memory another tensor uses in another form: slicing one would tear them apart."""
    by_memory: dict[int, dict[Any, str]] = defaultdict(dict)
    for name, tensor in named_tensors(model):
        if tensor.numel() and tensor.device.type != "meta":
            by_memory[tensor.untyped_storage().data_ptr()].setdefault(identity(tensor), name)
    return frozenset(name for forms in by_memory.values() if len(forms) > 1 for name in forms.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's own account of a failed export off the terminal; TraceError gives ours."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _batch_size(inputs: Any) -> int:
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    return 0


def _widen(inputs: Any, batch: int) -> Any:
    if batch != 1:
        return inputs

    def twice(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == 1:
            return leaf.repeat(2, *[1] * (leaf.ndim - 1))
        return leaf

    return pytree.tree_map(twice, inputs)


def _export_dynamic(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    free: tuple[int, ...],
    calls: tuple[str, ...],
    lengths: bool,
) -> ExportedProgram | None:
    wide_args, wide_kwargs = _widen((args, dict(kwargs)), _batch_size((args, kwargs)))
    try:
        exported = _export(model, wide_args, wide_kwargs, free, calls, lengths)
    except Exception:  # torch.export raises whatever the model's code does; the static form decides
        return None
    return exported if _is_dynamic(exported, free) else None


def _export(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    free: tuple[int, ...],
    calls: tuple[str, ...],
    lengths: bool,
) -> ExportedProgram:
    # An export notes on its inputs which sizes are free; one that fails leaves these notes behind.
    args, kwargs = pytree.tree_map_only(Tensor, _unmarked, (args, kwargs))
    shapes, first = ShapesCollection(), torch.Size()
    for leaf in pytree.tree_leaves((args, kwargs)) if free else ():
        if isinstance(leaf, Tensor) and leaf.ndim:
            first = first or leaf.shape
            same = {d: Dim.AUTO for d in free if leaf.shape[d : d + 1] == first[d : d + 1] != ()}
            if lengths and leaf.ndim <= 3:
                same |= {d: Dim.AUTO for d in range(1, leaf.ndim)}
            if same:
                shapes[leaf] = same
    dynamic = None if not free else shapes.dynamic_shapes(model, args, kwargs)
    return export(
        model,
        args,
        kwargs,
        strict=False,
        dynamic_shapes=dynamic,
        preserve_module_call_signature=tuple(
            path for path in calls if path
        ),  # the model's own is always there
    )


def _unmarked(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _is_dynamic(exported: ExportedProgram, free: tuple[int, ...]) -> bool:
    inputs = {s.arg.name for s in exported.graph_signature.input_specs if s.kind == InputKind.USER_INPUT}
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in inputs and isinstance(value, Tensor) and value.ndim:
            # A size that the model's code fixed is still a SymInt here, but of a constant.
            sizes: list[Any] = [value.shape[d] for d in free if d < value.ndim]
            return all(isinstance(n, torch.SymInt) and n.node.expr.free_symbols for n in sizes)
    return False


def check_runs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Blame the model or its inputs where not even a plain call in eval mode works.

    Raises:
        TraceError: the call fails.
    """
    try:
        with evaluating(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:  # the model's own code runs here
        raise TraceError(
            f"{type(model).__name__} does not run on the example inputs: at {_place(error)}: "
            f"{type(error).__name__}: {_first_line(error)} Remedy: give inputs with which a call of the model works: a "
            "tensor, a tuple of positional or a dictionary of keyword inputs."
        ) from error


def _place(error: Exception) -> str:
    """Return the innermost line of the user's code that an error passed."""
    frames = [f"{m['file']}:{m['line']}" for m in _FRAME.finditer(str(error)) if _is_user(m["file"])]
    trace, found = error.__traceback__, list[str]()
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_user(file) and "secateur" not in file.replace("\\", "/").split("/")[-3:]:
            found.append(f"{file}:{trace.tb_lineno}")
        trace = trace.tb_next
    return frames[-1] if frames else found[-1] if found else "unknown line"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _explain(model: nn.Module, error: Exception) -> str:
    remedy = (
        "the forward must not branch on tensor values or call .item(); use torch.where or torch.cond, "
        "move such code out of the forward, or trace the sub-module that holds the layers."
    )
    if any(frame.f_code.co_name == "_detect_is_causal_mask" for frame, _ in walk_tb(error.__traceback__)):
        remedy = (
            "torch's encoder compares its mask with a causal one unless it is told; say is_causal=True or "
            "is_causal=False where it is called with a mask."
        )
    return f"{type(model).__name__} cannot be exported: at {_place(error)}: {_first_line(error)} Remedy: {remedy}"


def _is_user(file: str) -> bool:
    file = file.replace("\\", "/")
    return "/torch/" not in file and not file.startswith("<") and "/contextlib" not in file


def _program(model: nn.Module, exported: ExportedProgram, batch: int, dynamic: bool) -> Program:
    names = {name: group for group in tensor_names(model) for name in group}
    parameters = {
        spec.arg.name: names[spec.target]
        for spec in exported.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target in names
    }
    buffers = {names[name][0] for name, _ in model.named_buffers(remove_duplicate=False)}
    return Program(
        nodes=tuple(_nodes(exported.graph_module)),
        parameters=parameters,
        buffers=frozenset(buffers - {names[name][0] for name, _ in model.named_parameters()}),
        shared=_shared(model),
        shapes={names[name][0]: tuple(tensor.shape) for name, tensor in named_tensors(model)},
        batch=batch,
        dynamic=dynamic,
        exported=exported,
    )


def _nodes(module: GraphModule) -> Iterator[Node]:
    names = flat(module)

    def plain(argument: Any) -> Any:
        if isinstance(argument, FxNode):
            return Ref(names[argument])
        if isinstance(argument, dict):
            return {key: plain(a) for key, a in argument.items()}
        if isinstance(argument, (list, tuple)):
            return tuple(plain(a) for a in argument)
        if isinstance(argument, slice):
            return slice(plain(argument.start), plain(argument.stop), plain(argument.step))
        return argument

    for node, name in names.items():
        value = node.meta.get("val")
        # torch marks calls that it added itself by a stack with this one made-up entry.
        frames = node.meta.get("nn_module_stack") or {}
        stack = [frame for frame in frames.values() if not str(frame[0]).startswith("_empty_nn_module_stack")]
        path, kind = stack[-1] if stack else ("", "")
        yield Node(
            name=name,
            op=_family(node),
            overload=str(node.target),
            args=plain(node.args),
            kwargs=plain(node.kwargs),
            shape=_shape(value),
            hint=_hint(value),
            module=path,
            module_type=kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}",
            source=_source(node.meta.get("stack_trace")),
            floating=isinstance(value, Tensor) and value.dtype.is_floating_point,
        )


def _family(node: FxNode) -> str:
    if node.op != "call_function":
        return node.op
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        namespace = target.namespace
        if namespace != "aten":
            return f"{namespace}.{name}"
    else:
        name = getattr(target, "__name__", str(target))
    return name if name.startswith("_") else name.rstrip("_")


def _shape(value: Any) -> Shape | tuple[Shape | None, ...] | None:
    if isinstance(value, (list, tuple)):
        return tuple(_tensor_shape(v) for v in value)
    return _tensor_shape(value)


def _tensor_shape(value: Any) -> Shape | None:
    return tuple(_integer(n) for n in value.shape) if isinstance(value, Tensor) else None


def _hint(value: Any) -> int | None:
    return _integer(value) if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool) else None


def _integer(size: int | torch.SymInt) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else size  # type: ignore[arg-type]


def _source(stack_trace: str | None) -> str:
    frames = [f"{m['file']}:{m['line']}" for m in _FRAME.finditer(stack_trace or "") if _is_user(m["file"])]
    return frames[-1] if frames else ""
