"""Networks as strangers bring them: those of `families` and `any_model`, and what is in neither."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from any_model import ANY
from families import FAMILIES, Detector, Draw, Vocoder, normal
from models import randomise
from own_code import Literals, Net, Spatial
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FOREIGN", "PICTURES", "SEQUENCES", "SETS", "STRANGERS", "Stranger", "UNet"]

ONE_SIZE = {"other_size": "takes one size"}


@dataclass(frozen=True, eq=False)
class Stranger:
    """A network and its inputs by batch size; `other` draws them in another size, where the dense network takes one.

    `macs` is the share that is asked for: 0.6, or what is the least that it allows. `auxiliary` names an attribute that
    its forward sets and a training step adds to the loss. `fold`: its weights are computed, and folded before it is
    pruned. `refused` says, by station, why neither the dense nor the pruned network passes.
    """

    name: str
    make: Callable[[], nn.Module]
    draw: Draw
    other: Draw | None = None
    macs: float = 0.6
    auxiliary: str = ""
    fold: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)

    def model(self) -> nn.Module:
        """Return the network with random values everywhere, in eval mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old weight norm says that there is a new one
            model = randomise(self.make(), 0).eval()
        if self.fold:
            from secateur.surgery.fold import fold_weights

            return fold_weights(model, *self.inputs(2)).eval()
        return model

    def inputs(self, batch: int, seed: int = 0, other: bool = False) -> tuple[Any, ...]:
        """Return a batch of positional inputs."""
        draw = self.other if other and self.other else self.draw
        return draw(batch, torch.Generator().manual_seed(seed + 1))


# ------------------------------------------------------------------------------------------------ pictures to pictures


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Segmentation with skips that are concatenated; with `grouped` the upsampling is a depthwise convolution."""

    def __init__(self, width: int = 8, grouped: bool = False) -> None:
        super().__init__()
        w = width
        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.bottom = (
            double_conv(3, w),
            double_conv(w, 2 * w),
            double_conv(2 * w, 4 * w),
        )
        self.up2: nn.Module = nn.ConvTranspose2d(4 * w, 2 * w, 2, stride=2)
        self.up1: nn.Module = nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1)
        if grouped:
            self.up2 = nn.Sequential(
                nn.ConvTranspose2d(4 * w, 4 * w, 4, 2, 1, groups=4 * w, bias=False),
                nn.Conv2d(4 * w, 2 * w, 1),
            )
        self.dec2, self.dec1 = double_conv(4 * w, 2 * w), double_conv(2 * w, w)
        self.head = nn.Conv2d(w, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        y = self.up2(self.bottom(self.pool(b)))
        y = self.up1(self.dec2(torch.cat([y, b], dim=1)))
        return self.head(self.dec1(torch.cat([a, y], dim=1)))


class RawMaps(Detector):
    """A detector whose training returns the maps of each scale as they are, and whose evaluation decodes them."""

    def forward(self, x: Tensor) -> Any:
        fine = self.stage(self.stem(x))
        coarse = self.down(fine)
        pools = [coarse]
        for _ in range(2):
            pools.append(F.max_pool2d(pools[-1], 3, 1, 1))
        coarse = self.pool(torch.cat(pools, 1))
        fine = self.join(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], 1))
        maps = [torch.cat([b(m), c(m)], 1) for m, b, c in zip((fine, coarse), self.box, self.cls)]
        if self.training:
            return maps
        box, cls = torch.cat([m.flatten(2) for m in maps], 2).split((4 * self.bins, self.classes), 1)
        distances = box.view(box.shape[0], 4, self.bins, -1).softmax(2)
        return torch.cat([torch.einsum("nabp,b->nap", distances, self.project), cls.sigmoid()], 1), maps


class SuperResolution(nn.Module):
    """EDSR: residual blocks with a factor, one long skip, pixels from channels."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(2)
        )
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        y = x
        for block in self.body:
            y = y + 0.1 * block(y)
        return self.tail(self.up(x + y))


class Autoencoder(nn.Module):
    """Of latent diffusion: group norms, attention over places, a mean and a variance, of which the mean is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.SiLU(),
        )
        self.middle, self.moments = Spatial(12), nn.Conv2d(2, 8, 1)
        self.narrow = nn.Conv2d(16, 3, 1)
        self.decode = nn.Sequential(
            nn.Conv2d(4, 16, 3, padding=1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Upsample(scale_factor=2.0),
            nn.Conv2d(16, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.moments(self.middle(self.narrow(self.encode(x)))).chunk(2, 1)
        return self.decode(mean + 0 * variance)


# -------------------------------------------------------------------------------------------------------- sequences


class Tagger(nn.Module):
    """Words, an LSTM in both directions, a perceptron for each word's tag."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 12)
        self.rnn = nn.LSTM(12, 10, batch_first=True, bidirectional=True)
        self.hidden, self.tags = nn.Linear(20, 64), nn.Linear(64, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.rnn(self.words(tokens))
        return self.tags(F.relu(self.hidden(states)))


class Translator(nn.Module):
    """GRUs that read and write, the writer beginning where the reader ended, with attention to what was read."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(30, 10), nn.Embedding(30, 10)
        self.reader, self.writer = nn.GRU(10, 12, batch_first=True), nn.GRU(10, 12, batch_first=True)
        self.hidden, self.out = nn.Linear(24, 48), nn.Linear(48, 30)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.reader(self.source(source))
        y, _ = self.writer(self.target(target), state)
        seen = torch.bmm(torch.bmm(y, memory.transpose(1, 2)).softmax(-1), memory)
        return self.out(torch.tanh(self.hidden(torch.cat([y, seen], -1))))


class Auxiliary(nn.Module):
    """Its forward sets an auxiliary loss and keeps what it saw, as routers and deep supervision do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.side = (
            nn.Conv2d(3, 12, 3, padding=1),
            nn.Conv2d(12, 16, 3, padding=1),
            nn.Conv2d(16, 4, 1),
            nn.Conv2d(12, 4, 1),
        )
        self.loss: Tensor | None = None
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        self.loss = self.side(x).square().mean()
        x = F.relu(self.b(x))
        self.seen["b"] = x
        return self.c(x).mean((2, 3))


def old_weight_norm() -> nn.Module:
    return Vocoder(nn.utils.weight_norm)


def tokens(length: int, count: int = 1) -> Draw:
    return lambda batch, rng: tuple(
        torch.randint(0, 30, (batch, length), generator=rng) for _ in range(count)
    )


def pictures(*sizes: int) -> Draw:
    return lambda batch, rng: tuple(torch.randn(batch, 3, s, s, generator=rng) for s in sizes)


def family(name: str, other: Draw | None = None, **options: Any) -> Stranger:
    case = next(f for f in FAMILIES if f.name == name)
    return Stranger(name, case.make, case.draw, other, fold=case.fold, **options)


def decoder() -> nn.Module:
    """Hugging Face's Llama, tiny."""
    return next(case for case in ANY if case.name == "llama").make()


def diffusion(size: int) -> Draw:
    return lambda batch, rng: (
        torch.randn(batch, 3, size, size, generator=rng),
        torch.randn(batch, 4, generator=rng),
        torch.randn(batch, 5, 6, generator=rng),
    )


def nodes(edges: int) -> Draw:
    return lambda batch, rng: (
        torch.randn(5 * batch, 6, generator=rng),
        torch.randint(0, 5 * batch, (2, edges * batch), generator=rng),
    )


def half_seen(length: int) -> Draw:
    return lambda batch, rng: (
        torch.randn(batch, length, 6, generator=rng),
        torch.rand(batch, length, generator=rng) < 0.5,
    )


# --------------------------------------------------------------------------------------------------- those of diffusers


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4,
    )  # fmt: skip


def diffusers_autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=16,
    )  # fmt: skip


def noisy(size: int) -> Draw:
    return lambda batch, rng: (
        torch.randn(batch, 4, size, size, generator=rng),
        torch.randint(0, 1000, (batch,), generator=rng),
        torch.randn(batch, 6, 16, generator=rng),
    )


PICTURES = (
    Stranger("detector", RawMaps, pictures(16), pictures(24)),
    Stranger("unet", UNet, pictures(16), pictures(24)),
    Stranger("super_resolution", SuperResolution, pictures(8), pictures(12)),
    Stranger("old_weight_norm", old_weight_norm, normal(5, 6), normal(5, 9), macs=0.76, fold=True),
    family("high_resolution", pictures(12)),
    family("denoiser", diffusion(12)),
    Stranger("autoencoder", Autoencoder, pictures(16), pictures(24)),
    family("frozen_batch_norms", pictures(12)),
    family("faces", pictures(12)),
    family("tracker", pictures(8, 24), refused={"onnx": "aten.conv2d.default: Unsupported attribute type"}),
    family("modulated", macs=0.76, refused=ONE_SIZE | {"onnx": "conv2d"}),
    Stranger("auxiliary_loss", Auxiliary, pictures(8), pictures(12), auxiliary="loss"),
)
SEQUENCES = (
    family("conformer", normal(14, 5)),
    family("reader", normal(1, 8, 20)),
    Stranger("lstm_tagger", Tagger, tokens(7), tokens(11)),
    Stranger("gru_translator", Translator, tokens(7, 2), tokens(11, 2)),
    Stranger("llama", decoder, tokens(8), tokens(12)),
    Stranger("repeated_sizes", lambda: Net(Literals), normal(5, 6), normal(9, 6)),
)
SETS = (
    family("points", normal(17, 3)),
    family("graph", nodes(7)),
    family("table", refused=ONE_SIZE),
    family("experts", normal(9, 6)),
    family("routed_experts", normal(9, 6)),
    family("masked_autoencoder", half_seen(9)),
)
FOREIGN = (  # of a library that is not needed otherwise
    Stranger("diffusers_unet", diffusers_unet, noisy(8), noisy(12)),
    Stranger("diffusers_autoencoder", diffusers_autoencoder, pictures(16), pictures(24)),
)
STRANGERS: tuple[Stranger, ...] = (
    *PICTURES, *SEQUENCES, *SETS, *(FOREIGN if importlib.util.find_spec("diffusers") else ()),
)  # fmt: skip
