"""Commands that look at models and artefacts: ``inspect``, ``measure`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import INPUT, JSON, THREADS, printable, show

__all__ = ["inspect", "measure", "report"]


def inspect(
    model: Annotated[str, typer.Argument(help="torchvision:NAME, timm:NAME, zoo:NAME or module:callable.")],
    input_shape: INPUT = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Show which units of a model can be removed together, and what is frozen and why.

    [bold]Examples[/bold]

      secateur inspect torchvision:resnet50

      secateur inspect my_project:build --input 1,3,64,64 --json
    """
    from secateur.graph import trace

    from .targets import model_of

    network, example = model_of(model, input_shape)
    graph = trace(network, example)
    if as_json:
        from secateur.graph.show import graph_to_json

        return graph_to_json(graph)
    print(printable(str(graph)))
    return None


def measure(
    target: Annotated[
        str,
        typer.Argument(metavar="MODEL|ARTEFACT", help="A model as for inspect, or a saved folder or file."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="The dense model of an artefact, if its recipe names none of a library."),
    ] = None,
    input_shape: INPUT = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled data (a name, .npz or module:callable): accuracy.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed runs, at least.")] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Timed seconds, at least.")] = 2.0,
    threads: THREADS = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Count and time a model, or an artefact against its dense model.

    [bold]Examples[/bold]

      secateur measure torchvision:resnet18 --input 8,3,224,224 --threads 1

      secateur measure half --data cifar10

      secateur measure half --model my_project:build --input 1,3,64,64
    """
    from .measuring import How, measure_artefact, measure_model
    from .targets import dense_of, model_of

    timing = How(rounds, seconds, threads)
    if Path(target).exists():
        network, example = dense_of(Path(target), model, input_shape)
        found, text = measure_artefact(Path(target), network, example, data, timing)
    else:
        if model is not None:
            raise typer.BadParameter(f"--model goes with an artefact, and there is none at {target}")
        network, example = model_of(target, input_shape)
        found, text = measure_model(network, example, data, timing)
    if as_json:
        return found
    show(text)
    return None


def report(
    artefacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTEFACT...", help="Saved folders or packed files; several are compared."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="File of the page; without it report.html here.", show_default=False)
    ] = None,
    as_json: JSON = False,
) -> dict[str, Any] | None:
    """Write one HTML page about a run, or about several beside each other.

    With --json a page is written only where --output says so.

    [bold]Examples[/bold]

      secateur report half

      secateur report half third --output comparison.html
    """
    from secateur.report import page, read_report, write_page

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
        return {"reports": reports, "output": None if output is None else str(output)}
    for name, entry in found.items():
        if len(found) > 1:
            show(name)
        show(entry)
    show(f"Wrote {output}.")
    return None
