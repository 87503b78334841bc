"""ONNX: written by torch's own exporter, tidied, and run by ONNX Runtime before the file is there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from secateur.ground.errors import ExportError
from secateur.ground.files import replacing_files
from secateur.ground.inputs import Example
from secateur.ground.models import ModelLike, module_of

from .check import TOLERANCE, Export, check
from .program import Portable, portable
from .quantised import quantised_layers, translations, with_integers

__all__ = ["session", "to_onnx"]

BLOCK = 8
"""Channels that ONNX Runtime's convolutions take together."""

LEVELS = 0.02
"""The tolerance of quantised models: a sum that lies on the other side of a half moves a level."""

EXTERNAL = 2**31 - 2**24
"""Bytes of tensors above which they go to a file of their own: one protobuf message ends at 2 GiB."""


def to_onnx(
    model: ModelLike,
    example_inputs: Example,
    file: str | PathLike[str],
    *,
    free: Sequence[int] = (0,),
    opset: int | None = None,
    tolerance: float = TOLERANCE,
) -> Export:
    """Write a model as ONNX and compare it with ONNX Runtime; the file appears only if both agree.

    `example_inputs` is a tensor, a tuple of positional or a mapping of keyword inputs. The `free` dimensions of the
    inputs may have any size in the file: the batch, and ``(0, 1)`` for the length of token sequences as well. Inputs
    and outputs have the names that the forward gives them. The comparison runs the example's samples in two sizes.
    Quantised layers (`secateur.quantise`) become pairs of QuantizeLinear and DequantizeLinear, of weights and of what
    they read; their outputs may differ by 2 %, single levels apart. Tensors of more than two gigabytes go to
    ``FILE.data`` beside it.

    Raises:
        TraceError: torch.export refuses the model.
        ExportError: onnx, onnxscript or onnxruntime is not installed, an operator has no ONNX form, the model's code
            fixes a size that was asked to be free, or outputs differ by more than `tolerance` of the largest.

    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    >>> written = to_onnx(net, torch.randn(2, 8), getfixture("tmp_path") / "net.onnx")
    >>> written.free, written.checked, written.max_difference < 1e-6
    ((0,), ((1, 8), (3, 8)), True)
    """
    _require()
    model = module_of(model)
    program = portable(model, example_inputs, tuple(free))
    written = _translated(model, program, opset)
    if quantised_layers(model):
        tolerance = max(tolerance, LEVELS)
    path = Path(file)
    with replacing_files(path, ExportError) as fresh:
        tensors = sum(t.numel() * t.element_size() for t in program.exported.state_dict.values())
        written.save(fresh, external_data=tensors > EXTERNAL)
        run = session(fresh)
        names = _user_inputs(program)

        def infer(flat: list[Any]) -> list[Tensor]:
            given = {
                n: x.numpy(force=True) for n, x in zip(names, flat, strict=True) if isinstance(x, Tensor)
            }
            wanted = {i.name for i in run.get_inputs()}
            found = run.run(None, {n: x for n, x in given.items() if n in wanted})
            return [torch.from_numpy(x) for x in found]

        shapes, worst = check(model, program, infer, tolerance, "ONNX file")
        size = sum(f.stat().st_size for f in fresh.parent.iterdir())
    return Export(path, "onnx", size, program.free, shapes, worst, _hint(model))


def _hint(model: nn.Module) -> str:
    """Say so where convolutions have widths for which ONNX Runtime leaves its blocked layout (results/engines.csv)."""
    widths = [
        m.out_channels
        for m in model.modules()
        if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) and m.groups in (1, m.out_channels)
    ]
    odd = sum(width % BLOCK > 0 for width in widths)
    if odd <= len(widths) / 4:
        return ""
    return (
        f"The widths of {odd} of {len(widths)} convolutions are no multiples of {BLOCK}, which ONNX Runtime is slow "
        "with: measure, or prune with round_to=16."
    )


def session(path: Path) -> Any:
    """Return an ONNX Runtime session on the processor, with as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _require() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise ExportError(
                f"ONNX export needs {name}, which cannot be imported ({error}): pip install 'secateur[onnx]'"
            ) from None


def _translated(model: nn.Module, program: Portable, opset: int | None) -> Any:
    quantised = quantised_layers(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            written: Any = torch.onnx.export(
                program.exported,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                output_names=_output_names(program),
                custom_translation_table=translations() if quantised else None,
            )
        except Exception as error:  # the exporter has many errors of its own
            raise ExportError(
                f"{type(model).__name__} has no ONNX form: {_reason(error)} Remedy: "
                "write the operator in terms of others in the model, or export a .pt2 file instead."
            ) from error
    with_integers(written.model, quantised)
    _tidy(written.model, _symbols(program))
    return written


def _reason(error: Exception) -> str:
    """Return what the exporter's error says at first, and of which operator, from its chain of summaries."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = next((line for line in lines if line.startswith("<class")), (lines or [type(error).__name__])[-1])
    operator = re.search(r"target=torch\.ops\.([\w.]+)", text)
    return (f"{operator[1]}: " if operator else "") + re.sub(r"^<class '[\w.]+'>: ", "", first)[:300]


def _symbols(program: Portable) -> dict[str, str]:
    """Return names for the symbols of free sizes: torch calls them s77 and the like."""
    names: dict[str, str] = {}
    inputs = _user_inputs(program)
    for node in program.exported.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in inputs and isinstance(value, Tensor):
            for d in program.free:
                if d < value.ndim and isinstance(value.shape[d], torch.SymInt):
                    names.setdefault(str(value.shape[d]), "batch" if d == 0 else f"size_{d}")
    return names


def _tidy(model: Any, symbols: dict[str, str]) -> None:
    """Give free sizes readable names, and drop what torch notes on every node."""
    from onnx_ir import SymbolicDim

    def named(value: Any) -> None:
        for i, size in enumerate(value.shape or ()):
            if isinstance(size, SymbolicDim) and size.value is not None:
                text = re.sub(r"\w+", lambda m: symbols.get(m[0], m[0]), size.value)
                value.shape[i] = SymbolicDim(text)

    for value in (*model.graph.inputs, *model.graph.outputs):
        named(value)
    graphs = [model.graph, *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                named(value)
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
    model.metadata_props["secateur"] = version("secateur")


def _user_inputs(program: Portable) -> list[str]:
    """Return the name of each flat input, whether tensor or not."""
    specs = program.exported.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind == InputKind.USER_INPUT]


def _output_names(program: Portable) -> list[str]:
    """Return names for the tensor outputs: keys where the model returns a mapping."""
    exported = program.exported
    spec = exported.call_spec.out_spec
    assert spec is not None
    specs = [s for s in exported.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
    taken = set(_user_inputs(program))
    names = []
    for path in _paths(spec, len(specs)):
        parts = re.findall(r"\w+", path)
        name = "_".join(parts) if parts and not parts[0].isdigit() else "_".join(["output", *parts])
        while name in taken:
            name += "_out"
        taken.add(name)
        names.append(name)
    return [n for n, s in zip(names, specs, strict=True) if hasattr(s.arg, "name") and s.arg.name]


def _paths(spec: pytree.TreeSpec, count: int) -> list[str]:
    """Return where each output lies in what the model returns; numbers where a class of outputs does not say."""
    numbered = pytree.tree_unflatten(list(range(count)), spec)
    try:
        return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(numbered)[0]]
    except ValueError:  # a class of outputs that was registered without its keys
        return [f"[{i}]" for i in range(count)]
