"""Draw the pictures of the concept pages, from real calls on the bundled Fashion-MNIST network.

    python docs/pictures.py

writes docs/pictures/*.svg in some minutes. The figures in them are those of this run: no other numbers go in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import secateur as sc
from secateur.data import demo_data
from secateur.graph import Graph, Group, Kept
from secateur.measure import batches
from secateur.methods import ZCA, Order, Variance, Weights
from secateur.methods.readers import readers
from secateur.recovery import OnePass, Sequential
from secateur.recovery.jobs import masked
from secateur.selection import select
from secateur.statistics import Forward, Statistics, collect
from secateur.surgery.candidates import candidates
from secateur.zoo import pretrained

FOLDER = Path(__file__).parent / "pictures"
TEAL, GREY, RED, GOLD = "#00796b", "#9e9e9e", "#c62828", "#b8860b"
SHARES = (0.7, 0.5, 0.35, 0.25)


def main() -> None:
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",  # text stays text: small files in the reader's own font
            "svg.hashsalt": "secateur",  # the same picture has the same bytes
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
        }
    )
    torch.set_num_threads(1)
    model, data = pretrained("resnet20-fashion").eval(), demo_data()
    images = data.normalise(data.calibration_x)
    calibration = images.split(100)
    graph = sc.trace(model, images[:2])
    groups = list(candidates(model, graph).groups)
    statistics = collect(graph, groups, calibration, patches=True)
    save("spectra", spectra(graph, groups, statistics))
    save("orders", orders(graph, groups, statistics))
    method = sc.SNP()
    ranked = [method.rank(graph, group, statistics) for group in groups]
    kept = {share: select(graph, ranked, sc.Budget(macs=share), method.allocation) for share in SHARES}
    save("widths", widths(groups, kept[0.5]))
    save("recovery", recovery(graph, kept, statistics, calibration))


def spectra(graph: Graph, groups: list[Group], statistics: Statistics) -> Figure:
    """Variance that a layer's units carry in principal directions, with the cut at 95 %."""
    figure = mpl.figure.Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, group in zip(axes, (groups[0], groups[len(groups) // 2], groups[-1])):
        moments = readers(graph, group, statistics, patches=False, centred=True)[0].xx
        values = np.linalg.eigvalsh(moments.numpy())[::-1].clip(0)
        share = np.cumsum(values) / values.sum()
        cut = int(np.searchsorted(share, 0.95)) + 1
        ax.bar(range(1, len(values) + 1), values / values.sum(), color=TEAL, alpha=0.5, label="one direction")
        ax.plot(range(1, len(values) + 1), share, color=TEAL, label="all up to here")
        ax.axvline(cut + 0.5, color=RED, linestyle="--", label="cut at 95 %")
        ax.set_title(f"{layer(group)}: {cut} of {len(values)}", fontsize=10)
        ax.set_xlabel("direction")
    axes[0].set_ylabel("share of the variance")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def orders(graph: Graph, groups: list[Group], statistics: Statistics) -> Figure:
    """What each order of removal costs a layer's reader after the best repair."""
    group = groups[-2]
    seen = readers(graph, group, statistics, patches=True, centred=True)
    figure = mpl.figure.Figure(figsize=(6, 3.4), layout="constrained")
    ax = figure.subplots()
    named: dict[str, tuple[Order, str, str]] = {
        "by what the reader loses (default)": (sc.SNP().order, TEAL, "-"),
        "ZCA (SNP as published)": (ZCA(), GOLD, "-"),
        "variance of the unit": (Variance(), RED, "--"),
        "norm of the weights that read it": (Weights(), GREY, "--"),
    }
    for label, (order, colour, style) in named.items():
        losses = [loss(seen[0].xx, seen[0].weight, seen[0].columns, k) for k in prefixes(order(seen).order)]
        ax.plot(range(len(losses)), losses, color=colour, linestyle=style, label=label)
    ax.set_xlabel(f"units kept, of the {group.size} of {layer(group)}")
    ax.set_ylabel("what the reader's output\nloses after the best repair")
    ax.legend(fontsize=9)
    return figure


def prefixes(order: tuple[int, ...]) -> list[list[int]]:
    return [list(order[:k]) for k in range(len(order) + 1)]


def loss(xx: torch.Tensor, weight: torch.Tensor, columns: torch.Tensor, kept: list[int]) -> float:
    """Return the share of the output's power that is lost when the kept units stand in for all by least squares."""
    own = columns[torch.tensor(kept, dtype=torch.long)].flatten()
    own = own[own < len(xx)]
    total = float(torch.einsum("rd,de,re->", weight, xx, weight))
    if not len(own):
        return 1.0
    cross = weight @ xx[:, own]
    ridge = 1e-9 * xx.diagonal().mean() * torch.eye(len(own), dtype=xx.dtype)
    explained = (torch.linalg.solve(xx[own][:, own] + ridge, cross.T) * cross.T).sum()
    return max(0.0, 1 - float(explained) / total)


def widths(groups: list[Group], kept: Kept) -> Figure:
    """How many units of each layer stay at half of the MACs."""
    figure = mpl.figure.Figure(figsize=(7, 3.2), layout="constrained")
    ax: Axes = figure.subplots()
    names = [layer(group) for group in groups]
    ax.bar(names, [group.size for group in groups], color=GREY, alpha=0.5, label="before")
    bars = ax.bar(names, [len(kept[group.id]) for group in groups], color=TEAL, label="after")
    ax.bar_label(bars, fontsize=8)
    ax.tick_params(axis="x", rotation=60)
    ax.set_ylabel("filters")
    ax.legend()
    return figure


def recovery(
    graph: Graph, kept: Mapping[float, Kept], statistics: Statistics, calibration: Sequence[torch.Tensor]
) -> Figure:
    """Draw the accuracy at each budget: nothing repaired, one pass, front to back."""

    def one(selection: Kept) -> dict[str, torch.Tensor]:
        return OnePass()(graph, selection, statistics, calibration)

    def sequential(selection: Kept) -> dict[str, torch.Tensor]:
        return Sequential()(graph, selection, statistics, calibration)

    named = {
        "nothing repaired": (lambda k: masked(graph, statistics.tensors, k), GREY, "o--"),
        "one pass": (one, GOLD, "s-"),
        "front to back (default)": (sequential, TEAL, "o-"),
    }
    figure = mpl.figure.Figure(figsize=(6, 3.4), layout="constrained")
    ax = figure.subplots()
    dense = accuracy(graph, statistics.tensors)
    print(f"dense {dense:.2f}")
    for label, (repair, colour, style) in named.items():
        found = [accuracy(graph, repair(kept[share])) for share in SHARES]
        print(label, [f"{share:.2f}: {value:.2f}" for share, value in zip(SHARES, found)])
        ax.plot([100 * s for s in SHARES], found, style, color=colour, label=label)
    ax.axhline(dense, color="black", linewidth=0.8)
    ax.annotate("dense", (100 * SHARES[-1], dense), xytext=(0, 3), textcoords="offset points", fontsize=9)
    ax.set_xlabel("% of the MACs kept")
    ax.set_ylabel("test accuracy, %")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def accuracy(graph: Graph, tensors: Mapping[str, torch.Tensor]) -> float:
    """Return the test accuracy of the network with these tensors: masked = shrunk, so no surgery is needed."""
    data, network = demo_data(), Forward(graph.program, tensors)
    right = 0
    for x, y in batches(data.normalise(data.test_x), data.test_y, 500):
        (logits,) = network.run([x], {}, {}, whole=True) or []
        right += int((logits.argmax(1) == y).sum())
    return 100 * right / len(data.test_y)


def layer(group: Group) -> str:
    return group.producers[0].parameter.removesuffix(".weight")


def save(name: str, figure: Figure) -> None:
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    print(f"wrote {name}.svg")


if __name__ == "__main__":
    main()
