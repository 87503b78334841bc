"""Write the results tables of README.md from results/*.csv: python benchmarks/tables.py [--check]

Accuracies are means over the calibration seeds with the range; the text between the markers is replaced.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean

README = Path("README.md")
ONESHOT = Path("results/oneshot.csv")
NAMES = {
    ("snp", "default", "sequential"): "**SNP (default)**",
    ("snp", "default", "none"): "SNP, nothing repaired",
    ("snp", "streams", "sequential"): "SNP, residual streams as well",
    ("snp", "streams", "none"): "SNP, residual streams as well, nothing repaired",
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


def oneshot() -> str:
    """Return the table of one-shot accuracies by network, method and budget."""
    with ONESHOT.open(newline="") as f:
        rows = list(csv.DictReader(f))
    lines: list[str] = []
    for model in dict.fromkeys(r["model"] for r in rows):
        own = [r for r in rows if r["model"] == model]
        cells: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        latency: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        tuned: dict[tuple[str, str, str], float] = {}
        for r in own:
            name = (r["method"], r["variant"], r["recovery"].removesuffix("+finetuned"))
            if r["acc_finetuned"]:
                tuned[name] = 100 * float(r["acc_finetuned"])
            elif name in NAMES:
                cells[name][r["budget"]].append(100 * float(r["acc_recovered"] or r["acc_pruned"]))
                if r["budget"] == "0.5":
                    latency[name].append(float(r["latency_ratio"]))
        budgets = sorted({b for c in cells.values() for b in c}, reverse=True)
        dense = 100 * float(own[0]["acc_dense"])
        lines += [
            f"{model}, dense {dense:.2f} %, test accuracy, means (ranges) where a cell has several calibration seeds:",
            "",
            "| method | " + " | ".join(f"{float(b):.0%} of the MACs" for b in budgets)
            + " | time at 50 % | fine-tuned at 50 % |",
            "|---|" + "---|" * (len(budgets) + 2),
        ]  # fmt: skip
        for name, label in NAMES.items():
            if name not in cells:
                continue
            shown = []
            for b in budgets:
                values = cells[name].get(b, [])
                spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
                shown.append(f"{mean(values):.2f}{spread}" if values else "")
            times = f"{mean(latency[name]):.2f}" if latency[name] else ""
            lines.append(
                f"| {label} | {' | '.join(shown)} | {times} | {f'{tuned[name]:.2f}' if name in tuned else ''} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the README is out of date")
    options = parser.parse_args()
    text = README.read_text()
    begin, end = "<!-- oneshot -->\n", "<!-- /oneshot -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    fresh = before + begin + oneshot() + end + after
    if options.check and fresh != text:
        raise SystemExit("README.md is out of date: run python benchmarks/tables.py")
    README.write_text(fresh)


if __name__ == "__main__":
    main()
