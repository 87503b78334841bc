"""Small networks that find things in pictures or make them: the widest families of `families`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(i: int, o: int, k: int = 3, s: int = 1, act: type[nn.Module] = nn.SiLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o), act())


class CrossStage(nn.Module):
    """YOLOv8's C2f: one half passes, the other goes through bottlenecks, all are joined."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = width // 2
        self.first, self.last = conv(width, width, 1), conv(3 * self.hidden, width, 1)
        self.a, self.b = conv(self.hidden, self.hidden), conv(self.hidden, self.hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.first(x).split((self.hidden, self.hidden), 1))
        y.append(y[-1] + self.b(self.a(y[-1])))
        return self.last(torch.cat(y, 1))


class Detector(nn.Module):
    """Two scales with a pyramid, a pooling pyramid, and heads whose distances are means over a softmax."""

    bins, classes = 4, 3

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage = conv(3, 8, 3, 2), CrossStage(8)
        self.down, self.pool, self.join = conv(8, 12, 3, 2), conv(36, 12, 1), conv(20, 8, 1)
        self.box = nn.ModuleList(nn.Sequential(conv(w, 8), nn.Conv2d(8, 4 * self.bins, 1)) for w in (8, 12))
        self.cls = nn.ModuleList(nn.Sequential(conv(w, 6), nn.Conv2d(6, self.classes, 1)) for w in (8, 12))
        self.register_buffer("project", torch.arange(self.bins, dtype=torch.float))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stage(self.stem(x))
        coarse = self.down(fine)
        once = F.max_pool2d(coarse, 3, 1, 1)
        coarse = self.pool(torch.cat([coarse, once, F.max_pool2d(once, 3, 1, 1)], 1))
        fine = self.join(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], 1))
        maps = [torch.cat([b(m), c(m)], 1).flatten(2) for m, b, c in zip((fine, coarse), self.box, self.cls)]
        box, cls = torch.cat(maps, 2).split((4 * self.bins, self.classes), 1)
        distances = box.view(box.shape[0], 4, self.bins, -1).softmax(2)
        return torch.einsum("nabp,b->nap", distances, self.project), cls.sigmoid()


class HighResolution(nn.Module):
    """HRNet: two resolutions side by side, each the sum of both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 8), conv(8, 12, 3, 2)
        self.fine, self.coarse = (nn.Sequential(conv(w, w), conv(w, w)) for w in (8, 12))
        self.up, self.lower = nn.Sequential(nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8)), conv(8, 12, 3, 2)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(x)
        x, y = x + self.fine(x), y + self.coarse(y)
        x, y = x + F.interpolate(self.up(y), x.shape[2:], mode="nearest"), y + self.lower(x)
        return self.head(x + F.interpolate(self.up(y), x.shape[2:], mode="nearest"))


class FrozenBatchNorms(nn.Module):
    """A backbone as detectors have it: batch norms that are four buffers each."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.ops import FrozenBatchNorm2d

        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 10, 3), nn.Conv2d(10, 4, 1)
        self.na, self.nb = FrozenBatchNorm2d(8), FrozenBatchNorm2d(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x)))))))


class Tracker(nn.Module):
    """SiamRPN++: a template is the kernel, sample by sample, that is held against every place of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 10, 3, 2, 1), nn.ReLU(), nn.Conv2d(10, 6, 3, 2, 1))
        self.head = nn.Sequential(nn.Conv2d(6, 12, 1), nn.ReLU(), nn.Conv2d(12, 4, 1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        k, f = self.backbone(z), self.backbone(x)
        n, c = k.shape[:2]
        y = F.conv2d(f.reshape(1, n * c, *f.shape[2:]), k.reshape(n * c, 1, *k.shape[2:]), groups=n * c)
        return self.head(y.reshape(n, c, *y.shape[2:]))


class Denoiser(nn.Module):
    """A diffusion U-Net: group norms, a step that shifts, attention to a context, a skip that is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Sequential(nn.Linear(4, 16), nn.SiLU())
        self.stem, self.down, self.up = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Conv2d(16, 8, 3, padding=1),
        )
        self.norm, self.a, self.shift = nn.GroupNorm(4, 8), nn.Conv2d(8, 12, 3, padding=1), nn.Linear(16, 12)
        self.again, self.b = nn.GroupNorm(4, 12), nn.Conv2d(12, 8, 3, padding=1)
        self.q, self.kv, self.o = nn.Linear(8, 8), nn.Linear(6, 16), nn.Linear(8, 8)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor, context: Tensor) -> Tensor:
        skip = self.stem(x)
        x, t = self.down(skip), self.step(step)
        y = self.a(F.silu(self.norm(x))) + self.shift(t)[:, :, None, None]
        x = x + self.b(F.silu(self.again(y)))
        q = self.q(x.flatten(2).transpose(1, 2)).unflatten(2, (2, -1)).transpose(1, 2)
        k, v = (p.unflatten(2, (2, -1)).transpose(1, 2) for p in self.kv(context).chunk(2, -1))
        y = self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + y.transpose(1, 2).unflatten(2, x.shape[2:])
        return self.out(F.silu(self.up(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1))))


class Modulated(nn.Module):
    """StyleGAN2: a mapping network, and a convolution with a kernel of its own for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.style = (
            nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU()),
            nn.Linear(12, 6),
        )
        self.weight, self.const = (
            nn.Parameter(torch.randn(1, 6, 6, 3, 3)),
            nn.Parameter(torch.randn(1, 6, 4, 4)),
        )
        self.a, self.rgb = nn.Conv2d(6, 10, 1), nn.Conv2d(10, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        n, c = z.shape[0], self.weight.shape[1]
        k = self.weight * self.style(self.map(z)).reshape(n, 1, -1, 1, 1)
        k = (k * torch.rsqrt(k.square().sum((2, 3, 4), keepdim=True) + 1e-6)).flatten(0, 1)
        x = self.const.expand(n, -1, -1, -1).reshape(1, -1, 4, 4)
        x = F.conv2d(x, k, padding=1, groups=n).reshape(n, c, 4, 4)
        return self.rgb(torch.relu(self.a(x)))
