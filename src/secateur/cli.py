"""The command line. Each command imports what it needs, so that ``--help`` is quick."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .allocator import keep_memory
from .errors import ArtefactError, SecateurError

__all__ = ["app", "main"]

app = typer.Typer(
    name="secateur",
    help="Makes trained PyTorch networks really smaller and really faster, and proves it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JSON = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")
]
INPUT = Annotated[
    str | None,
    typer.Option("--input", metavar="N,C,H,W", help="Shape of one input batch, for instance 1,3,224,224."),
]
THREADS = Annotated[int | None, typer.Option(min=1, help="Threads that torch may use.")]


class Form(StrEnum):
    """The forms that a model can be exported in."""

    onnx = "onnx"
    exported = "exported"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error with one line on standard error, 2 wrong usage."""
    # Console scripts do not look for modules where the user stands; recipes and models may name hers.
    sys.path.insert(0, os.getcwd())
    keep_memory()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="secateur")
    except SecateurError as e:
        print(f"secateur: {' '.join(str(e).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"secateur {version('secateur')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option(help="Keep the saved artefact in this folder.")] = None,
    as_json: JSON = False,
) -> None:
    """Halve a bundled network and print what was gained; needs no network access and under a minute.

    [bold]Examples[/bold]

      secateur demo

      secateur demo --json --output half
    """
    from dataclasses import asdict

    from .artefact.manifest import PAGE
    from .demo import demo as run_demo

    figures, found = run_demo(output, _silent if as_json else _say)
    if as_json:
        _print_json(asdict(figures))
        return
    rows = [
        ("dense", figures.acc_dense),
        ("magnitude (L1), no recovery", figures.acc_magnitude),
        ("SNP, no recovery", figures.acc_no_recovery),
        ("SNP as published", figures.acc_paper),
        ("SNP", figures.acc_snp),
    ]
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("at half of the MACs", "accuracy", "against dense", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in rows:
        change = "" if name == "dense" else f"{100 * (value - figures.acc_dense):+.2f} points"
        table.add_row(name, f"{100 * value:.2f} %", change)
    _print(table)
    _print(found)
    same = "the same outputs, bit by bit" if figures.reload_equal else "DIFFERENT outputs"
    where = f" in {output}" if output else ""
    _print(f"Saved{where} and loaded again: {same}. All of this took {figures.seconds:.0f} s.")
    try:
        page = output / PAGE if output else found.to_html("secateur-demo.html")
        _print(f"The report, to look at in a browser: {page}.")
    except ArtefactError as error:  # in a folder that cannot be written the demo is no less good
        _say(str(error))


@app.command()
def prune(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, or the name of a shipped one.", metavar="RECIPE.yaml")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the artefact; before the recipe's own.")
    ] = None,
    as_json: JSON = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that trains where it was interrupted.")
    ] = False,
) -> None:
    """Prune the model of a recipe, measure it, and save it.

    A recipe is trusted like code: it may name functions of yours.

    [bold]Examples[/bold]

      secateur prune half.yaml

      secateur prune half.yaml --set budget.macs=0.4 --output smaller

      secateur prune half.yaml --set budget.macs=null --set budget.latency_ms=12.5

      secateur prune half.yaml --set keep.layer1.*=0.75 --set uniform=true

      secateur prune resnet20-cifar10 --json

      secateur prune resnet20-cifar10-sparse --resume
    """
    from .recipes import load_recipe

    path = Path(recipe)
    settings = settings or []
    if output is not None:
        settings = [*settings, f"output={json.dumps(str(output))}"]
    if path.is_file():
        sys.path.insert(0, str(path.resolve().parent))
    parsed = load_recipe(_shipped(recipe) if not path.exists() else path, settings)
    from .recipes.run import run

    result = run(parsed, progress=not (quiet or as_json), resume=resume)
    if not _first_process():
        return
    if parsed.output is not None:
        result.save(parsed.output)
    if as_json:
        _print_json(result.report.to_json() | {"output": str(parsed.output) if parsed.output else None})
        return
    _print(result.report)
    if parsed.output is not None:
        _print(f"Saved to {parsed.output}; report.html there is for people.")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="torchvision:NAME, timm:NAME, zoo:NAME or module:callable.")],
    input_shape: INPUT = None,
    as_json: JSON = False,
) -> None:
    """Show which units of a model can be removed together, and what is frozen and why.

    [bold]Examples[/bold]

      secateur inspect torchvision:resnet50

      secateur inspect my_project:build --input 1,3,64,64 --json
    """
    from .graph import trace

    network, example = _network(model, input_shape)
    graph = trace(network, example)
    if as_json:
        from .report.graph import graph_to_json

        _print_json(graph_to_json(graph))
    else:
        print(graph)


@app.command()
def measure(
    target: Annotated[
        str,
        typer.Argument(metavar="MODEL|ARTEFACT", help="A model as for inspect, or a saved folder or file."),
    ],
    model: Annotated[str | None, typer.Option(help="The dense model of an artefact.")] = None,
    input_shape: INPUT = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled data (a name, .npz or module:callable): accuracy.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed runs, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Timed seconds, at least.")] = 2.0,
    threads: THREADS = None,
    as_json: JSON = False,
) -> None:
    """Count and time a model, or an artefact against its dense model.

    [bold]Examples[/bold]

      secateur measure torchvision:resnet18 --input 8,3,224,224 --threads 1

      secateur measure half --model zoo:resnet20-cifar10 --data cifar10
    """
    from .measuring import How, measure_artefact, measure_model

    timing = How(rounds, seconds, threads)
    if Path(target).exists():
        if model is None:
            raise typer.BadParameter("an artefact is measured against its dense model: add --model NAME")
        network, example = _network(model, input_shape)
        found, text = measure_artefact(Path(target), network, example, data, timing)
    else:
        if model is not None:
            raise typer.BadParameter(f"--model goes with an artefact, and there is none at {target}")
        network, example = _network(target, input_shape)
        found, text = measure_model(network, example, data, timing)
    if as_json:
        _print_json(found)
    else:
        _print(text)


@app.command()
def report(
    artefacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTEFACT...", help="Saved folders or packed files; several are compared."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="File of the page; without it report.html here.", show_default=False)
    ] = None,
    as_json: JSON = False,
) -> None:
    """Write one HTML page about a run, or about several beside each other.

    With --json a page is written only where --output says so.

    [bold]Examples[/bold]

      secateur report half

      secateur report half third --output comparison.html
    """
    from .report import page, read_report, write_page

    found = {str(path): read_report(path) for path in artefacts}
    names = [path.resolve().name for path in artefacts]
    if len(set(names)) == len(found):
        found = dict(zip(names, found.values(), strict=True))
    if output is None and not as_json:
        output = Path("report.html")
    if output is not None:
        write_page(output, page(found))
    if as_json:
        reports = {name: entry.to_json() for name, entry in found.items()}
        _print_json({"reports": reports, "output": None if output is None else str(output)})
        return
    for name, entry in found.items():
        if len(found) > 1:
            _print(name)
        _print(entry)
    _print(f"Wrote {output}.")


@app.command()
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
    smallest: Annotated[bool, typer.Option("--smallest", help="Try more, some ten times slower.")] = False,
    as_json: JSON = False,
) -> None:
    """Pack an artefact or a safetensors file into one small file, and show what each tensor takes.

    Zeros, zero blocks and unified blocks are found in the values. What is unpacked is equal bit by bit, unless --bits
    quantises it.

    [bold]Examples[/bold]

      secateur pack half -o half.sec

      secateur pack model.safetensors --bits 8 --exclude "head.*" --json
    """
    from .artefact import Quantise
    from .artefact import pack as pack_file

    if bits not in (None, 4, 8, 16):
        raise typer.BadParameter(f"--bits {bits}: 16, 8 and 4 are known")
    if exclude and bits is None:
        raise typer.BadParameter("--exclude says what --bits leaves exact: add --bits")
    quantise = None if bits is None else Quantise(bits, tuple(exclude or ()))
    if output is None:
        output = Path(f"{source.resolve().name.removesuffix('.safetensors')}.sec")
    packed = pack_file(source, output, quantise=quantise, smallest=smallest)
    if as_json:
        _print_json(packed.to_json())
    else:
        _print(str(packed))
        _print(f"Packed into {output}.")


@app.command()
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
) -> None:
    """Write a packed file as an artefact's folder or a safetensors file again, or show what it holds.

    [bold]Examples[/bold]

      secateur unpack half.sec

      secateur unpack half.sec -o half
    """
    from .artefact.packed import describe, unpack_to

    packed = describe(file)
    where = None if output is None else unpack_to(file, output)
    if as_json:
        _print_json(packed.to_json() | {"output": None if where is None else str(where)})
    else:
        _print(str(packed))
        if where is not None:
            _print(f"Unpacked to {where}.")


@app.command()
def export(
    target: Annotated[
        str, typer.Argument(metavar="ARTEFACT|MODEL", help="A saved folder, or a model as for inspect.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    form: Annotated[Form, typer.Option("--format", help="ONNX, or torch.export's own (.pt2).")] = Form.onnx,
    model: Annotated[
        str | None, typer.Option(help="The dense model of an artefact; Hugging Face folders need none.")
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
) -> None:
    """Write a model as ONNX or as an exported program, and compare its outputs with PyTorch's.

    The file appears only if the outputs agree, over two batch sizes.

    [bold]Examples[/bold]

      secateur export half --model zoo:resnet20-cifar10 --format onnx -o half.onnx

      secateur export half --model my_project:build --input 1,3,64,64 --format exported -o half.pt2

      secateur export encoder-70 -o encoder.onnx
    """
    from dataclasses import asdict

    from .export import load_pretrained, to_exported_program, to_onnx
    from .export.check import TOLERANCE
    from .export.pretrained import example_of, is_pretrained

    network: Any
    if is_pretrained(Path(target)):
        network = load_pretrained(target).eval()
        network.config.use_cache = (
            False  # one pass over a whole sequence; caches are of the program that generates
        )
        example, dimensions = example_of(network, _sizes(input_shape))
    else:
        if Path(target).is_dir() and model is None:
            raise typer.BadParameter("an artefact is made anew from its dense model: add --model NAME")
        if model is not None and not Path(target).is_dir():
            raise typer.BadParameter(f"--model goes with an artefact, and there is no folder {target}")
        network, example = _network(model or target, input_shape)
        dimensions = (0,)
        if model is not None:
            from .artefact import load

            network = load(target, network)
    options: dict[str, Any] = {"free": _numbers("--free", free) if free else dimensions}
    options["tolerance"] = TOLERANCE if tolerance is None else tolerance
    if form is Form.onnx:
        written = to_onnx(network, example, output, opset=opset, **options)
    else:
        if opset is not None:
            raise typer.BadParameter("--opset is for --format onnx")
        written = to_exported_program(network, example, output, **options)
    if as_json:
        _print_json(asdict(written) | {"path": str(written.path)})
    else:
        _print(str(written))


def _network(name: str, shape: str | None) -> tuple[Any, Any]:
    """Make a model and an example input for it."""
    from .recipes.registry import example_input, resolve_model
    from .recipes.schema import ModelSpec

    network = resolve_model(ModelSpec(name=name))
    return network, example_input(name, _sizes(shape))


def _sizes(shape: str | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = _numbers("--input", shape)
    if min(sizes) < 1:
        raise typer.BadParameter(f"--input {shape}: expected sizes such as 1,3,224,224")
    return sizes


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise typer.BadParameter(f"{option} {text}: expected numbers such as 1,3,224,224")
    return numbers


def _shipped(name: str) -> Path:
    """Return the path of a recipe that comes with the package, or the name as it is."""
    from importlib.resources import files

    path = Path(str(files("secateur.recipes") / "shipped" / f"{name.removesuffix('.yaml')}.yaml"))
    return path if path.is_file() else Path(name)


def _first_process() -> bool:
    """Whether this is the process that saves and speaks, where several were started."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _silent(message: str) -> None:
    pass


def _print(what: Any) -> None:
    from rich.console import Console

    Console(highlight=False, soft_wrap=isinstance(what, str)).print(what, markup=False)


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
