"""Apply a plan to a model: short, because all thinking is in the plan."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from secateur.graph.program import Program
from secateur.ground.copies import copied
from secateur.ground.errors import SurgeryError, TraceError
from secateur.ground.tensors import tensors_of

from .example import rebuild
from .fit import OTHER_MODEL, check, fingerprint, lookup
from .modules import Constant, Removed, output_shape
from .plan import Plan, RemoveBranch, Retrace, RewriteCode, SetAttribute, SliceTensor
from .region import find_region, with_export
from .resized import class_for
from .retrace import retraced
from .traced import Traced

__all__ = ["apply", "apply_in_place"]


def apply(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a smaller copy of a model; the model itself is left as it is.

    The model may be the one that the plan was made from or a fresh one of the same class (of a chain of plans also
    one that the first of them were applied to). Parameters stay
    parameters with the same names, data type, device, memory layout and ``requires_grad``; tied names stay
    tied; hooks and the training flag stay.

    Raises:
        SurgeryError: the plan does not fit the model; the message names the tensor and its two shapes.
    """
    step, *later = _left(model, plan)
    check(model, step)
    # What is sliced is replaced, never written to: until then it may be the model's own.
    tensors = tensors_of(model)
    sliced = [
        tensors[name] for e in step.edits if isinstance(e, SliceTensor) for name in e.names if name in tensors
    ]
    smaller = _step(copied(model, {id(t): t for t in sliced}), step)
    return functools.reduce(_step, later, smaller)


def apply_in_place(model: nn.Module, plan: Plan) -> nn.Module:
    """Do what `apply` does to the model itself, and return it.

    Raises:
        SurgeryError: as `apply`; nothing was changed if the plan was made for another model.
    """
    return functools.reduce(_step, _left(model, plan), model)


def _left(model: nn.Module, plan: Plan) -> tuple[Plan, ...]:
    """Return the steps of a plan that a model still lacks: all, or what follows where it has gone some of the way."""
    steps, found = plan.steps, fingerprint(model)
    return next((steps[i:] for i, step in enumerate(steps) if step.made_for == found), steps)


def _step(model: nn.Module, plan: Plan) -> nn.Module:
    """Apply a plan that has no others before it, in place."""
    check(model, plan)
    forwards = _forwards(model, plan)  # of the dense model
    classes = {
        e.module: class_for(model.get_submodule(e.module), e)
        for e in plan.edits
        if isinstance(e, RewriteCode)
    }
    for edit in plan.edits:
        match edit:
            case SliceTensor(names, dim, index):
                owner, leaf = _owner(model, names[0])
                old = getattr(owner, leaf)
                kept = old.detach().index_select(dim, torch.tensor(index, device=old.device))
                _put(model, names, _in_layout_of(old, kept))
            case SetAttribute(module, attribute, _, new):
                owner = model.get_submodule(module)
                setattr(owner, attribute, list(new) if isinstance(getattr(owner, attribute), list) else new)  # type: ignore[arg-type]
            case RemoveBranch():
                _remove(model, edit, plan.tensors)
            case RewriteCode(path):
                model.get_submodule(path).__class__ = classes[path]
            case Retrace(path):
                forwards[path].install(model.get_submodule(path))
    _unfuse(model, {*forwards, *classes})
    tensors = tensors_of(model)
    for name, value in plan.tensors.items():
        with torch.no_grad():
            lookup(tensors, name, "tensor").copy_(value)
    return model


def _forwards(model: nn.Module, plan: Plan) -> dict[str, Traced]:
    """Return the new forward of every module whose code repeats sizes, from an export of the dense model."""
    edits = {edit.module: edit for edit in plan.edits if isinstance(edit, Retrace)}
    if not edits:
        return {}
    device = next((t.device for t in tensors_of(model).values()), torch.device("cpu"))
    args, kwargs = rebuild(plan.example, device)

    def made(program: Program) -> dict[str, Traced]:
        return {path: _forward(model, program, edit, device) for path, edit in edits.items()}

    try:
        return with_export(model, args, kwargs, edits, made, plan.batch_dims)
    except TraceError as error:
        raise SurgeryError(f"{OTHER_MODEL}: {error}") from error


def _forward(model: nn.Module, program: Program, edit: Retrace, device: torch.device) -> Traced:
    region = find_region(program, edit.module)
    if region.digest != edit.digest:
        raise SurgeryError(
            f"{OTHER_MODEL}, or with another version of torch or of the model's library: "
            f"{edit.module or type(model).__name__} makes other calls than when the plan was made"
        )
    return retraced(region, edit.sizes, device)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf


def _put(model: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    """Put one tensor under all names of a parameter or buffer; a parameter stays one."""
    parameters: dict[int, nn.Parameter] = {}
    for name in names:
        owner, leaf = _owner(model, name)
        old = owner._parameters.get(leaf)
        if old is None:
            owner._buffers[leaf] = value
        else:
            fresh = nn.Parameter(value, requires_grad=old.requires_grad)
            owner._parameters[leaf] = parameters.setdefault(id(old), fresh)


def _in_layout_of(like: Tensor, value: Tensor) -> Tensor:
    if not like.is_contiguous():
        for layout, ndim in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
            if like.ndim == ndim and like.is_contiguous(memory_format=layout):
                return value.contiguous(memory_format=layout)
    return value.contiguous()


def _remove(model: nn.Module, edit: RemoveBranch, tensors: Mapping[str, Tensor]) -> None:
    for path in edit.constants:
        layer = model.get_submodule(path)
        value = tensors[f"{path}.value"].detach()
        like = next(layer.parameters(), value)
        constant = Constant(
            value.to(like.device, like.dtype, copy=True),
            output_shape(layer, path) if edit.written_out else None,
            trainable=any(p.requires_grad for p in layer.parameters()),
        )
        _replace(model, path, constant)
    for path in edit.removed:
        _replace(model, path, Removed(output_shape(model.get_submodule(path), path)))
    for path in edit.skipped:
        _replace(model, path, nn.Identity())


def _replace(model: nn.Module, path: str, new: nn.Module) -> None:
    owner, leaf = _owner(model, path)
    old = model.get_submodule(path)
    owner._modules[leaf] = new.train(old.training)


def _unfuse(model: nn.Module, modules: Collection[str]) -> None:
    """Make torch's encoder layers call the attention inside of them, where one of `modules` has a new forward.

    In evaluation ``nn.TransformerEncoderLayer`` hands its attention's tensors to one native call instead, which takes
    the stream's width for that of all heads; ``nn.TransformerEncoder`` packs padded samples for that call. Nothing
    else reads the two flags by which they are told not to.
    """
    for path, container in model.named_modules():
        if any(module.startswith(f"{path}." if path else "") and module != path for module in modules):
            match container:
                case nn.TransformerEncoderLayer():
                    container.activation_relu_or_gelu = 0
                case nn.TransformerEncoder():
                    container.use_nested_tensor = False
