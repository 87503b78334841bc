"""Commands that prune: ``demo`` and ``prune``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.ground.errors import ArtefactError
from secateur.ground.importing import modules_of

from .common import JSON, say, show, silent

__all__ = ["demo", "prune"]


def demo(
    output: Annotated[Path | None, typer.Option(help="Keep the saved artefact in this folder.")] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Halve a bundled network and print what was gained; needs no network access and under a minute.

    [bold]Examples[/bold]

      secateur demo

      secateur demo --json --output half
    """
    from dataclasses import asdict

    from secateur.artefact.manifest import PAGE

    from .demo import demo as run_demo

    figures, found = run_demo(output, silent if as_json else say)
    if as_json:
        return asdict(figures)
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
    show(table)
    show(found)
    same = "the same outputs, bit by bit" if figures.reload_equal else "DIFFERENT outputs"
    where = f" in {output}" if output else ""
    show(f"Saved{where} and loaded again: {same}. All of this took {figures.seconds:.0f} s.")
    try:
        page = output / PAGE if output else found.to_html("secateur-demo.html")
        show(f"The report, to look at in a browser: {page}.")
    except ArtefactError as error:  # in a folder that cannot be written the demo is no less good
        say(str(error))
    return None


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
) -> dict[str, Any] | None:
    """Prune the model of a recipe, measure it, and save it.

    A recipe is trusted like code: it may name functions of yours.

    [bold]Examples[/bold]

      secateur prune half.yaml

      secateur prune half.yaml --set budget.macs=0.4 --output smaller

      secateur prune half.yaml --set budget.macs=null --set budget.latency_ms=12.5

      secateur prune half.yaml --set limits.keep.layer1.*=0.75 --set limits.uniform=true

      secateur prune resnet20-cifar10 --json

      secateur prune resnet20-cifar10-sparse --resume

      secateur prune resnet20-cifar10-blocks --set then.1.method.unify=0.3
    """
    from secateur.artefact.files import check_output
    from secateur.recipes import load_recipe, parse_text, text_of
    from secateur.recipes.run import run, write

    path = Path(recipe)
    settings = settings or []
    if output is not None:
        settings = [*settings, f"output={json.dumps(str(output))}"]
    with modules_of(path.resolve().parent) if path.is_file() else nullcontext():
        parsed = load_recipe(path, settings) if path.is_file() else parse_text(text_of(recipe), settings)
        if parsed.output is not None:
            check_output(parsed.output)  # before hours of work
        result = run(parsed, progress=not (quiet or as_json), resume=resume)
    if not _first_process():
        return None
    packed = write(parsed, result)
    if as_json:
        where = {"output": str(parsed.output) if parsed.output else None}
        small = {} if packed is None else {"packed": packed.to_json()}
        return result.report.to_json() | where | small
    show(result.report)
    if parsed.output is not None:
        show(f"Saved to {parsed.output}; report.html there is for people.")
    if packed is not None:
        show(f"Packed into {packed.path}: {packed.bytes:,} bytes for {packed.dense_bytes:,}.")
    return None


def _first_process() -> bool:
    """Whether this is the process that saves and speaks, where several were started."""
    import torch.distributed as dist

    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
