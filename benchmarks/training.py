"""Plain training for benchmarks: augmentation, and fine-tuning with one-cycle SGD."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.data import ImageData

HELD_OUT = 5_000  # the last training images never train a network: they tune options


def augment(x: Tensor, generator: torch.Generator, flip: bool, shift: int = 4) -> Tensor:
    """Shift by up to so many pixels (zero padding) and mirror at random, image by image."""
    n, c, h, w = x.shape
    padded = nn.functional.pad(x, (shift,) * 4)
    dy, dx = torch.randint(0, 2 * shift + 1, (2, n, 1, 1, 1), generator=generator)
    rows = dy + torch.arange(h).view(1, 1, h, 1)
    cols = dx + torch.arange(w).view(1, 1, 1, w)
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        cols = torch.where(mirrored, dx + torch.arange(w).flip(0).view(1, 1, 1, w), cols)
    images, channels = torch.arange(n).view(n, 1, 1, 1), torch.arange(c).view(1, c, 1, 1)
    return padded[images, channels, rows, cols]


def finetune(
    model: nn.Module,
    data: ImageData,
    epochs: int,
    seed: int,
    checkpoint: Path,
    lr: float = 0.02,
    batch: int = 128,
) -> nn.Module:
    """Train a pruned network on all but the held-out training images; resume from `checkpoint` if it is there."""
    torch.manual_seed(seed)
    x, y = data.normalise(data.train_x[:-HELD_OUT]), data.train_y[:-HELD_OUT]
    model = model.to(memory_format=torch.channels_last)
    steps = len(x) // batch
    optimizer = torch.optim.SGD(model.parameters(), lr, 0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps * epochs, pct_start=0.1, div_factor=10, final_div_factor=1000
    )
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, epochs):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        model.train()
        for i in torch.randperm(len(x), generator=generator)[: steps * batch].split(batch):
            images = augment(x[i], generator, flip=True).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
            loss = nn.functional.cross_entropy(logits.float(), y[i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(), "epoch": epoch + 1}, f"{checkpoint}.tmp")  # fmt: skip
        os.replace(f"{checkpoint}.tmp", checkpoint)
    return model.eval()
