"""Write the results tables of README.md and docs/results.md from results/*.csv: python benchmarks/tables.py [--check]

Accuracies are means over the calibration seeds with the range. Between its markers, ``<!-- name -->`` and
``<!-- /name -->``, the text of a page is replaced.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean

from page_tables import (
    Format,
    Row,
    accuracy,
    crossed,
    markdown,
    means,
    percent,
    plain,
    rows,
    short,
    spread,
    whole,
)
from plain_tables import PLAIN

NAMES = {
    ("snp", "default", "sequential"): "**SNP (default)**",
    ("snp", "default", "none"): "SNP, nothing repaired",
    ("snp", "streams", "sequential"): "SNP, residual streams as well",
    ("snp", "streams", "none"): "SNP, residual streams as well, nothing repaired",
    ("snp", "joint", "sequential"): "SNP, all layers refitted together at the end",
    ("snp", "paper", "one-pass"): "SNP as published",
    ("snp", "paper", "none"): "SNP as published, nothing repaired",
    ("magnitude", "l1", "one-pass"): "L1 filters + least squares",
    ("magnitude", "l1", "none"): "L1 filters",
    ("magnitude", "l2", "one-pass"): "L2 filters + least squares",
    ("magnitude", "l2", "none"): "L2 filters",
    ("batch-norm-scale", "uniform", "one-pass"): "BatchNorm scale + least squares",
    ("batch-norm-scale", "uniform", "none"): "BatchNorm scale",
    ("taylor", "labels", "one-pass"): "Taylor (labels) + least squares",
    ("taylor", "labels", "none"): "Taylor (labels)",
    ("taylor", "labels, uniform", "one-pass"): "Taylor (labels), uniform + least squares",
    ("taylor", "labels, uniform", "none"): "Taylor (labels), uniform",
    ("taylor", "no labels", "one-pass"): "Taylor (no labels) + least squares",
    ("taylor", "no labels", "none"): "Taylor (no labels)",
    ("torch-pruning", "group-magnitude", "none"): "Torch-Pruning, group magnitude",
    ("torch-pruning", "group-magnitude, global", "none"): "Torch-Pruning, group magnitude, global",
    ("torch-pruning", "group-taylor, labels", "none"): "Torch-Pruning, Taylor (labels)",
    ("torch-pruning", "group-taylor, labels, global", "none"): "Torch-Pruning, Taylor (labels), global",
    ("random", "uniform", "one-pass"): "random + least squares",
    ("random", "uniform", "none"): "random",
}


SHORT = {
    name: label
    for name, label in NAMES.items()
    if (name[2] != "none" or name[0] == "torch-pruning") and name[1] != "joint"
} | {("magnitude", "l1", "none"): "L1 filters"}


def oneshot(names: Mapping[tuple[str, str, str], str]) -> str:
    """Return the table of one-shot accuracies by network, method and budget."""
    found = rows("oneshot")
    lines: list[str] = []
    for model in dict.fromkeys(r["model"] for r in found):
        own = [r for r in found if r["model"] == model]
        cells: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        latency: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        tuned: dict[tuple[str, str, str], float] = {}
        for r in own:
            name = (r["method"], r["variant"], r["recovery"].removesuffix("+finetuned"))
            if r["acc_finetuned"]:
                tuned[name] = 100 * float(r["acc_finetuned"])
            elif name in names:
                cells[name][r["budget"]].append(100 * float(r["acc_recovered"] or r["acc_pruned"]))
                if r["budget"] == "0.5":
                    latency[name].append(float(r["latency_ratio"]))
        budgets = sorted({b for c in cells.values() for b in c}, reverse=True)
        dense = 100 * float(own[0]["acc_dense"])
        lines += [
            f"{model}, dense {dense:.2f} %, test accuracy, means (ranges) where a cell has several calibration seeds:",
            "",
            *markdown(
                [
                    "method",
                    *(f"{float(b):.0%} of the MACs" for b in budgets),
                    "time at 50 %",
                    "fine-tuned at 50 %",
                ],
                [
                    [
                        label,
                        *(spread(cells[name].get(b, [])) for b in budgets),
                        f"{mean(latency[name]):.2f}" if latency[name] else "",
                        f"{tuned[name]:.2f}" if name in tuned else "",
                    ]
                    for name, label in names.items()
                    if name in cells
                ],
            ),
            "",
        ]
    return "\n".join(lines)


def label_free() -> str:
    """Return accuracies after gradient steps without labels, beside those of the repair that they start from."""
    found = [r for r in rows("oneshot") if (r["method"], r["variant"]) == ("snp", "default")]
    lines = []
    for r in found:
        if not r["recovery"].endswith("+label-free"):
            continue
        same = [o for o in found if all(o[k] == r[k] for k in ("model", "budget", "seed", "n_calibration"))]
        before = next(o for o in same if f"{o['recovery']}+label-free" == r["recovery"])
        cells = (r["acc_dense"], before["acc_recovered"], r["acc_recovered"])
        lines.append([r["model"], f"{float(r['budget']):.0%}", r["seed"], *map(accuracy, cells)])
    heads = ["network", "MACs", "seed", "dense", "front to back", "then label-free"]
    return "\n".join([*markdown(heads, lines), ""])


def quality(text: str) -> str:
    """Return an accuracy as points, or the signal-to-noise ratio of an autoencoder in dB."""
    return accuracy(text) if float(text) <= 1 else f"{float(text):.2f} dB"


def blocks() -> str:
    """Return accuracies of micro-structures without training, by network and structure: a column for each method."""
    found = [r for r in rows("microstructure") if r["training"] == "none"]
    lines: list[str] = []
    for model in dict.fromkeys(r["model"] for r in found):
        own = [r for r in found if r["model"] == model]
        methods = list(dict.fromkeys(r["method"] for r in own))
        structures: dict[tuple[str, float, float], dict[str, Row]] = defaultdict(dict)
        for r in own:
            structures[r["block"], float(r["zero_ratio"]), float(r["unified_ratio"])][r["method"]] = r
        body = []
        for (block, zero, unified), cells in sorted(
            structures.items(), key=lambda item: item[0][1:] + item[0][:1]
        ):
            first = next(iter(cells.values()))
            body.append(
                [
                    block,
                    percent(str(zero)),
                    percent(str(unified)),
                    *(accuracy(cells[m]["acc_final"]) if m in cells else "" for m in methods),
                    percent(first["stored_bits_ratio"]),
                    percent(first["operations_ratio"]),
                    percent(str(float(first["packed_bytes"]) / float(first["safetensors_bytes"]))),
                ]
            )
        head = [
            "blocks",
            "zero",
            "unified",
            *methods,
            "bits counted",
            "multiplications counted",
            "packed file",
        ]
        lines += [f"{model}, dense {accuracy(own[0]['acc_dense'])} %:", "", *markdown(head, body), ""]
    return "\n".join(lines)


def trained_blocks() -> str:
    """Return the networks that were trained towards blocks, ADMM beside magnitude of the same epochs."""
    columns: Mapping[str, tuple[str, Format]] = {
        "model": ("network", str),
        "method": ("method", str),
        "block": ("blocks", str),
        "zero_ratio": ("zero", percent),
        "unified_ratio": ("unified", percent),
        "training": ("epochs, ADMM + after", str),
        "acc_dense": ("dense", quality),
        "acc_final": ("accuracy", quality),
        "as_magnitude": ("blocks as by magnitudes", lambda share: percent(share) if share else ""),
        "primal": ("|W - Z| / |W|", lambda residual: f"{float(residual):.2f}" if residual else ""),
        "stored_bits_ratio": ("bits counted", percent),
        "packed_bytes": ("packed, bytes", str),
        "safetensors_bytes": ("safetensors, bytes", str),
    }
    found = [r for r in rows("microstructure") if r["training"] != "none"]
    body = [[form(r[column]) for column, (_, form) in columns.items()] for r in found]
    return "\n".join([*markdown([heading for heading, _ in columns.values()], body), ""])


def packing() -> str:
    """Return bytes by format of networks with structures, and how fast the packed files are written and read."""
    cells: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for r in rows("packing"):
        cells[r["model"], r["form"]][r["format"]] = r
    formats = ("safetensors", "zip", "zstd-19", "csr", "packed", "packed-8bit", "packed-4bit")
    body = [
        [
            *key,
            *(own[f]["bytes"] for f in formats),
            *(whole(own["packed"][f"{way}code_mb_s"]) for way in ("en", "de")),
        ]
        for key, own in cells.items()
    ]
    head = ["weights", "structure", *formats, "packed in, MB/s", "packed out, MB/s"]
    return "\n".join([*markdown(head, body), ""])


def coverage() -> str:
    """Return how many models of each source go through, and how far they can be pruned."""
    found = rows("coverage")
    body = []
    for source in dict.fromkeys(r["source"] for r in found):
        own = [r for r in found if r["source"] == source]
        through = [r for r in own if r["status"] == "ok"]
        reached = [r for r in through if float(r["macs_ratio"]) <= 0.71]
        rest = ", ".join(f"{r['model']} ({float(r['macs_ratio']):.0%})" for r in through if r not in reached)
        body.append([source, str(len(own)), str(len(through)), str(len(reached)), rest])
    heads = ["source", "models", "masked = shrunk, saved = loaded", "at most 71 % of the MACs", "the others"]
    return "\n".join([*markdown(heads, body), ""])


SPEEDS = (("8x1", "0.5"), ("8x1", "0.7"), ("8x1", "0.8"), ("8x1", "0.9"), ("8x1", "0.95"), ("4x4", "0.8"))
OTHERS = (("16x1", "0.8"), ("8x8", "0.8"), ("1x1", "0.8"), ("u1x4", "0.8"))


def speeds(
    name: str,
    case: Sequence[str],
    blocks: Sequence[tuple[str, str]],
    figures: Mapping[str, tuple[str, Format]],
) -> str:
    """Return lower quartiles of speedups, a column for each block and sparsity, and figures of the 8x1 at 80 % row."""
    cells: dict[tuple[str, ...], dict[tuple[str, str], Row]] = defaultdict(dict)
    for r in rows(name):
        cells[tuple(r[column] for column in case)][r["block"], r["sparsity"]] = r
    body = []
    for key, own in cells.items():
        told = own["8x1", "0.8"]
        quartiles = [f"{float(own[b]['speedup_low']):.2f}" if b in own else "" for b in blocks]
        body.append([*key, *quartiles, *(form(told[column]) for column, (_, form) in figures.items())])
    heads = [*case, *(f"{block}, {float(share):.0%}" for block, share in blocks)]
    return "\n".join([*markdown([*heads, *(heading for heading, _ in figures.values())], body), ""])


SECTIONS: dict[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"oneshot": partial(oneshot, SHORT)},
    "docs/results.md": {
        "oneshot": partial(oneshot, NAMES),
        "label-free": label_free,
        "calibration": partial(crossed, "calibration_size", "variant", "n_calibration", "acc_recovered"),
        "coverage": coverage,
        "lenet": partial(
            means,
            "lenet",
            {
                "model": "network",
                "dataset": "data",
                "method": "method",
                "variant": "asked for",
                "optimizer": "optimizer",
            },
            {
                "test_error_percent": ("test error, %", short),
                "params_left_percent": ("parameters left, %", short),
                "units_left": ("units left", whole),
                "macs_ratio": ("MACs left", percent),
                "bytes_zip": ("zipped bytes", whole),
            },
        ),
        "connections": partial(
            means,
            "cifar_connections",
            {"model": "network", "method": "method", "share": "asked for", "epochs": "epochs"},
            {
                "acc_dense": ("dense", accuracy),
                "acc_test": ("accuracy", accuracy),
                "params_left_percent": ("parameters left, %", short),
                "units_left": ("units left", whole),
                "macs_ratio": ("MACs left", percent),
                "bytes_zip": ("zipped bytes", whole),
            },
        ),
        "blocks": blocks,
        "trained blocks": trained_blocks,
        "packing": packing,
        "layers": partial(
            speeds,
            "runtime_layers",
            ("layer", "batch"),
            (*SPEEDS, *OTHERS),
            {
                "best_dense_engine": ("best dense engine", str),
                "best_dense_us": ("dense, µs", short),
                "sparse_us": ("8x1 at 80 %, µs", short),
            },
        ),
        "networks": partial(
            speeds,
            "runtime_networks",
            ("network", "batch", "threads"),
            [b for b in SPEEDS if b[1] not in ("0.5", "0.95")],
            {
                "best_dense_engine": ("best dense engine", str),
                "best_dense_ms": ("dense, ms", short),
                "sparse_ms": ("8x1 at 80 %, ms", short),
                "int8_ms": ("dense int8, ms", short),
            },
        ),
        **{section: partial(plain, *arguments) for section, arguments in PLAIN.items()},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if a page is out of date")
    options = parser.parse_args()
    for page, sections in SECTIONS.items():
        path = Path(page)
        text = fresh = path.read_text()
        for name, section in sections.items():
            begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
            before, rest = fresh.split(begin)
            _, after = rest.split(end)
            fresh = before + begin + section() + end + after
        if options.check and fresh != text:
            raise SystemExit(f"{page} is out of date: run python benchmarks/tables.py")
        path.write_text(fresh)


if __name__ == "__main__":
    main()
