"""Commands that write files in other forms: ``pack``, ``unpack`` and ``export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import INPUT, JSON, numbers, show, sizes

__all__ = ["export", "pack", "unpack"]


class Form(StrEnum):
    """The forms that a model can be exported in."""

    onnx = "onnx"
    exported = "exported"


def pack(
    source: Annotated[
        Path,
        typer.Argument(metavar="ARTEFACT|MODEL.safetensors", help="A saved folder, or a safetensors file."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file; without it the source's name with .sec.", show_default=False
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(help="Quantise weights to 16 (float16), 8 or 4 bits; without it nothing is lost."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Tensors that stay exact; repeatable.")
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Pack an artefact or a safetensors file into one small file, and show what each tensor takes.

    Zeros, zero blocks and unified blocks are found in the values. What is unpacked is equal bit by bit, unless --bits
    quantises it.

    [bold]Examples[/bold]

      secateur pack half -o half.sec

      secateur pack model.safetensors --bits 8 --exclude "head.*" --json
    """
    from secateur.artefact import Quantise
    from secateur.artefact import pack as pack_file

    if bits not in (None, 4, 8, 16):
        raise typer.BadParameter(f"--bits {bits}: 16, 8 and 4 are known")
    if exclude and bits is None:
        raise typer.BadParameter("--exclude says what --bits leaves exact: add --bits")
    quantise = None if bits is None else Quantise(bits, tuple(exclude or ()))
    if output is None:
        output = Path(f"{source.resolve().name.removesuffix('.safetensors')}.sec")
    packed = pack_file(source, output, quantise=quantise)
    if as_json:
        return packed.to_json()
    show(str(packed))
    show(f"Packed into {output}.")
    return None


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.sec", help="A packed file.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder of an artefact, or a safetensors file; without it only the table.",
            show_default=False,
        ),
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Write a packed file as an artefact's folder or a safetensors file again, or show what it holds.

    [bold]Examples[/bold]

      secateur unpack half.sec

      secateur unpack half.sec -o half
    """
    from secateur.artefact import describe, unpack_to

    packed = describe(file)
    where = None if output is None else unpack_to(file, output)
    if as_json:
        return packed.to_json() | {"output": None if where is None else str(where)}
    show(str(packed))
    if where is not None:
        show(f"Unpacked to {where}.")
    return None


def export(
    target: Annotated[
        str, typer.Argument(metavar="ARTEFACT|MODEL", help="A saved folder, or a model as for inspect.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    form: Annotated[Form, typer.Option("--format", help="ONNX, or torch.export's own (.pt2).")] = Form.onnx,
    model: Annotated[
        str | None,
        typer.Option(help="The dense model of an artefact, if its recipe names none of a library."),
    ] = None,
    input_shape: INPUT = None,
    free: Annotated[
        str | None,
        typer.Option(metavar="D,D", help="Dimensions of the inputs that may have any size; the batch is 0."),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=18, help="Version of ONNX's operators.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference, as a share of the largest output.")
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Write a model as ONNX or as an exported program, and compare its outputs with PyTorch's.

    The file appears only if the outputs agree, over two batch sizes.

    [bold]Examples[/bold]

      secateur export half --format onnx -o half.onnx

      secateur export half --model my_project:build --input 1,3,64,64 --format exported -o half.pt2

      secateur export encoder-70 -o encoder.onnx
    """
    from dataclasses import asdict

    from secateur.export import load_pretrained, to_exported_program, to_onnx
    from secateur.export.check import TOLERANCE
    from secateur.export.pretrained import example_of, is_pretrained

    from .targets import dense_of, model_of

    network: Any
    example: Any
    if is_pretrained(Path(target)):
        network = load_pretrained(target).eval()
        network.config.use_cache = (
            False  # one pass over a whole sequence; caches are of the program that generates
        )
        example, dimensions = example_of(network, sizes(input_shape))
    else:
        if model is not None and not Path(target).exists():
            raise typer.BadParameter(f"--model goes with an artefact, and there is none at {target}")
        dimensions = (0,)
        if Path(target).exists():
            from secateur.artefact import load

            network, example = dense_of(Path(target), model, input_shape)
            network = load(target, network)
        else:
            network, example = model_of(target, input_shape)
    options: dict[str, Any] = {"free": numbers("--free", free) if free else dimensions}
    options["tolerance"] = TOLERANCE if tolerance is None else tolerance
    if form is Form.onnx:
        written = to_onnx(network, example, output, opset=opset, **options)
    else:
        if opset is not None:
            raise typer.BadParameter("--opset is for --format onnx")
        written = to_exported_program(network, example, output, **options)
    if as_json:
        return asdict(written) | {"path": str(written.path)}
    show(str(written))
    return None
