"""What to say of a model that cannot be exported: at which line of its code, why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from traceback import walk_tb
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from secateur.ground.errors import TraceError
from secateur.ground.models import module_of
from secateur.ground.modes import evaluating

__all__ = ["check_kind", "check_runs", "explain", "source_line"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_UNKNOWN_TYPE = re.compile(r"Found <class '(?P<kind>[^']+)'> in output, which is not a known type")


def check_kind(model: nn.Module) -> None:
    """Refuse what is no model, and what was compiled or exported already: its own code is gone.

    Raises:
        UsageError: it is no model.
        TraceError: the model is of such a kind.
    """
    module_of(model)
    made_by = "torch.jit" if isinstance(model, torch.jit.ScriptModule) else ""
    if isinstance(model, GraphModule) and "eval" in vars(model):  # which raises
        made_by = "torch.export"
    if made_by:
        raise TraceError(
            f"{type(model).__name__} was made by {made_by}, and cannot be edited any more. "
            "Remedy: give the nn.Module that it was made from, and export the smaller one."
        )


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


def explain(model: nn.Module, error: Exception) -> str:
    """Return the message of a failed export."""
    name = type(model).__name__
    if found := _UNKNOWN_TYPE.search(str(error)):
        return f"{name} cannot be exported: it returns a {found['kind']}. Remedy: {_remedy_of_type(found['kind'])}"
    remedy = (
        "the forward must not branch on tensor values or call .item(); use torch.where or torch.cond, "
        "move such code out of the forward, or trace the sub-module that holds the layers."
    )
    if any(frame.f_code.co_name == "_detect_is_causal_mask" for frame, _ in walk_tb(error.__traceback__)):
        remedy = (
            "torch's encoder compares its mask with a causal one unless it is told; say is_causal=True or "
            "is_causal=False where it is called with a mask."
        )
    return f"{name} cannot be exported: at {_place(error)}: {_first_line(error)} Remedy: {remedy}"


def source_line(stack_trace: str | None) -> str:
    """Return ``file:line`` of the innermost line of the model's code in a stack trace, or an empty string."""
    frames = [f"{m['file']}:{m['line']}" for m in _FRAME.finditer(stack_trace or "") if _is_user(m["file"])]
    return frames[-1] if frames else ""


def _remedy_of_type(kind: str) -> str:
    short = kind.rpartition(".")[2]
    if "cache" in short.lower():
        return "switch it off for the trace: model.config.use_cache = False, or use_cache=False among the inputs."
    return (
        f"tell torch what is in it, once: torch.export.register_dataclass({short}) for a dataclass, "
        f"torch.utils._pytree.register_pytree_node({short}, ...) for any other class; or return a dictionary or tuple."
    )


def _place(error: Exception) -> str:
    """Return the innermost line of the user's code that an error passed."""
    trace, found = error.__traceback__, list[str]()
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if _is_user(file) and "secateur" not in file.replace("\\", "/").split("/")[-3:]:
            found.append(f"{file}:{trace.tb_lineno}")
        trace = trace.tb_next
    return source_line(str(error)) or (found[-1] if found else "unknown line")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _is_user(file: str) -> bool:
    file = file.replace("\\", "/")
    return "/torch/" not in file and not file.startswith("<") and "/contextlib" not in file
