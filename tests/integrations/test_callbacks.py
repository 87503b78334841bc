"""The callbacks train as plain loops do, and resume from the framework's own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer, TrainingArguments

import secateur as sc
import secateur.integrations.lightning
import secateur.integrations.transformers
from secateur import integrations
from secateur.training import Attached, TrainingMethod

METHODS = [sc.IrrelevanceDecay(gamma=0.05, crop=0.2), sc.GradualMagnitude(0.3, every=2)]
EPOCHS, UNTIL = 4, 0.6


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layers(x)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": F.cross_entropy(logits, labels), "logits": logits}
        )


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        return self.network(*batch)["loss"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def data() -> TensorDataset:
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, x[:, :3].argmax(1))


def in_a_plain_loop(method: TrainingMethod) -> tuple[Network, Attached]:
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=16)
    with method.attach(model, optimizer, steps=EPOCHS * 3) as run:
        for _ in range(EPOCHS):
            for x, y in loader:
                optimizer.zero_grad()
                model(x, y)["loss"].backward()
                optimizer.step()
            if run.masks.share > UNTIL:
                run.masks = method.prune(model, run.masks, None, ())
    return model, run


def in_lightning(
    method: TrainingMethod, folder: Path, epochs: int, start: str | None = None
) -> tuple[Network, Attached]:
    callback = integrations.lightning.Pruning(method, until=UNTIL)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, limit_train_batches=3, accelerator="cpu", callbacks=[callback, _Stop(epochs)],
        enable_checkpointing=False, **quiet,
    )  # fmt: skip
    module = Module()
    trainer.fit(module, DataLoader(data(), batch_size=16), ckpt_path=start)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module.network, callback.run


class _Stop(lightning.Callback):
    """Ends a run early that was planned to be longer, as a kill would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
@pytest.mark.filterwarnings("ignore")
def test_lightning(method: TrainingMethod, tmp_path: Path) -> None:
    plain, expected = in_a_plain_loop(method)
    model, run = in_lightning(method, tmp_path, EPOCHS)
    assert same(model, plain)
    masks = {f"network.{name}": mask for name, mask in expected.masks.items()}
    assert run.masks == sc.Masks(masks)
    assert run.masks.share < 0.7
    in_lightning(method, tmp_path, epochs=2)
    resumed, again = in_lightning(method, tmp_path, EPOCHS, start=str(tmp_path / "last.ckpt"))
    assert same(resumed, plain)
    assert again.masks == run.masks


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.label)
@pytest.mark.filterwarnings("ignore")
def test_hugging_face_trainer(method: TrainingMethod, tmp_path: Path) -> None:
    plain, expected = in_a_plain_loop(method)

    def train(model: Network, resume: str | None = None) -> Attached:
        callback = integrations.transformers.Pruning(method, until=UNTIL)
        arguments = TrainingArguments(
            str(tmp_path), num_train_epochs=EPOCHS, per_device_train_batch_size=16, use_cpu=True, report_to="none",
            disable_tqdm=True, save_strategy="epoch", max_grad_norm=0.0, seed=0,
        )  # fmt: skip
        trainer = _InOrder(
            model,
            arguments,
            train_dataset=[{"x": x, "labels": y} for x, y in data()],
            callbacks=[callback],
            optimizers=(torch.optim.Adam(model.parameters(), lr=0.01), None),
        )
        trainer.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.optimizer, factor=1.0)
        trainer.train(resume_from_checkpoint=resume)
        return callback.run

    model = Network()
    run = train(model)
    assert same(model, plain)
    assert run.masks == expected.masks
    resumed = Network()
    again = train(resumed, resume=str(tmp_path / "checkpoint-6"))
    assert same(resumed, plain)
    assert again.masks == run.masks


class _InOrder(Trainer):
    """A Trainer that does not shuffle, so that another loop can make the same steps."""

    def _get_train_sampler(self, *args: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(range(48))
