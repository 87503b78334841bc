"""Checkpoints: what they hold, that they are whole, and which runs may not go on from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from training_problems import Smallest, accuracy, data, loader, network

import secateur as sc
from secateur.ground.errors import CheckpointError
from secateur.training import train
from secateur.training.checkpoint import (
    load_optimizer,
    load_weights,
    optimizer_state,
    read,
    under,
    weights,
    write,
)
from secateur.training.randomness import kept_apart, restore, seed, snapshot

Adam = partial(torch.optim.Adam, lr=0.02)


def options(folder: Path, resume: bool = True, **changes: Any) -> sc.Training:
    return sc.Training(
        **{
            "loader": loader(),
            "optimizer": Adam,
            "validation": sc.Validation(accuracy),
            "checkpoints": sc.Checkpoints(folder, resume=resume),
            **changes,
        }
    )


OPTIMIZERS = [
    partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    partial(torch.optim.Adam, lr=0.1, amsgrad=True),
    partial(torch.optim.NAdam, lr=0.1),
    partial(torch.optim.RMSprop, lr=0.1, centered=True),
    partial(torch.optim.Adagrad, lr=0.1),
    partial(torch.optim.Rprop, lr=0.1),
    partial(torch.optim.ASGD, lr=0.1),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda m: m.func.__name__)
def test_an_optimiser_goes_on_as_if_nothing_had_happened(make: Any, tmp_path: Path) -> None:
    x, y = data(64)

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    model = network()
    optimizer = make(model.parameters())
    steps(model, optimizer, 3)
    tensors, numbers = optimizer_state(optimizer)
    write(tmp_path / "c", {"optimizer": tensors, "model": weights(model)}, {"optimizer": numbers})
    steps(model, optimizer, 3)

    other = network(5)
    found, state = read(tmp_path / "c")
    load_weights(other, under(found, "model"))
    again = make(other.parameters())
    load_optimizer(again, under(found, "optimizer"), state["optimizer"])
    steps(other, again, 3)
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_state_that_needs_pickle_is_refused() -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters())
    model(data(8)[0]).square().sum().backward()
    optimizer.step(lambda: 1.0)
    with pytest.raises(CheckpointError, match="LBFGS keeps a list"):
        optimizer_state(optimizer)


@given(st.integers(0, 2**40), st.integers(0, 5))
def test_generators_come_back(value: int, drawn: int) -> None:
    import random

    import numpy as np

    with kept_apart():
        seed(value)
        for _ in range(drawn):
            random.gauss(0, 1)
            np.random.randn()
        states = {k: v.clone() for k, v in snapshot().items()}
        first = (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.rand(2).tolist(),
        )
        restore(states)
        again = (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),
            np.random.randn(),
            torch.rand(2).tolist(),
        )
    assert first == again


def test_a_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    train(network(), Smallest(), options(tmp_path), share=0.5)
    whole = path.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        b"",
        b"\x80\x04",
        whole.replace(b"secateur-check", b"somethingelse-"),
    ):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError):
            train(network(), Smallest(), options(tmp_path), share=0.5)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_is_always_seen(tmp_path: Path, at: float, bit: int) -> None:
    path = tmp_path / "c"
    write(path, {"model": {"a": torch.arange(24.0)}, "masks": {"a": torch.ones(24).bool()}}, {"step": [1, 2]})
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|was changed"):
        read(path)


def test_tensors_come_back_with_their_checksum(tmp_path: Path) -> None:
    tensors = {
        "f": torch.randn(3, 4),
        "b": torch.tensor([True]),
        "e": torch.zeros(0, 2),
        "h": torch.ones(2).bfloat16(),
    }
    write(tmp_path / "c", {"model": tensors}, {"step": 3, "text": '"secateur-sha256":"' + "0" * 64 + '"'})
    found, data = read(tmp_path / "c")
    assert data == {"step": 3, "text": '"secateur-sha256":"' + "0" * 64 + '"'}
    assert found.keys() == {f"model/{name}" for name in tensors}
    assert all(
        torch.equal(found[f"model/{name}"], t) and found[f"model/{name}"].dtype == t.dtype
        for name, t in tensors.items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors, data: tensors.pop("model/0.weight"),
            "is not both in the model and in the checkpoint",
        ),
        (lambda tensors, data: tensors.update({"model/0.weight": torch.ones(1, 2, 3)}), "does not hold what"),
        (lambda tensors, data: tensors.pop("random/numpy.rest"), "does not hold what"),
        (lambda tensors, data: data["state"].update(surprise=1), "does not hold what"),
        (lambda tensors, data: data["state"].update(rows=[{"step": 1}]), "does not hold what"),
        (lambda tensors, data: data.pop("state"), "does not hold what"),
        (lambda tensors, data: data.pop("recipe"), "another recipe"),
        (lambda tensors, data: data["optimizer"].pop("groups"), "does not hold what"),
    ],
)
def test_a_checkpoint_with_a_right_checksum_and_wrong_content_is_one_clear_error(
    change: Callable[[dict[str, Any], dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    calls = iter(range(5))

    class StopError(Exception):
        pass

    def loss(outputs: Any, labels: Any) -> Any:
        if next(calls, None) is None:
            raise StopError
        return nn.functional.cross_entropy(outputs, labels)

    stopped = options(tmp_path, checkpoints=sc.Checkpoints(tmp_path, resume=True, every=1), loss=loss)
    with pytest.raises(StopError):
        train(network(), Smallest(), stopped, share=0.5)
    path = tmp_path / "checkpoint.safetensors"
    tensors, data = read(path)
    change(tensors, data)
    families: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        family, _, rest = name.partition("/")
        families.setdefault(family, {})[rest] = tensor
    write(path, families, data)
    calls = iter(range(1000))
    with pytest.raises(CheckpointError, match=message):
        train(network(), Smallest(), stopped, share=0.5)


def test_a_file_that_is_left_half_written_does_not_matter(tmp_path: Path) -> None:
    found = train(network(), Smallest(), options(tmp_path), share=0.5)
    (tmp_path / ".checkpoint.safetensors.partial").write_bytes(b"half")
    again = train(network(), Smallest(), options(tmp_path), share=0.5)
    assert again.masks == found.masks
    assert again.rows == found.rows


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"epochs": 2}, r"training\.epochs: 2, was 1"),
        ({"loader": loader(16)}, r"training\.loader\.batch size: 16, was 32"),
        ({"optimizer": partial(torch.optim.Adam, lr=0.5)}, r"training\.optimizer\.lr: 0\.5, was 0\.02"),
        ({"schedule": sc.training.Cosine()}, r"training\.schedule\.name: '.*:Cosine', was '.*:Constant'"),
        ({"teacher": sc.Teacher(network())}, r"training\.teacher: .*was None"),
        ({"bf16": True}, r"training\.bf16: True, was False"),
    ],
)
def test_another_recipe_is_refused_with_the_difference(
    changes: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    train(network(), Smallest(), options(tmp_path), share=0.5)
    with pytest.raises(CheckpointError, match=difference):
        train(network(), Smallest(), options(tmp_path, **changes), share=0.5)


def test_another_model_method_budget_or_seed_is_refused(tmp_path: Path) -> None:
    train(network(), Smallest(), options(tmp_path), share=0.5)
    with pytest.raises(CheckpointError, match=r"model\.checksum"):
        train(network(1), Smallest(), options(tmp_path), share=0.5)
    with pytest.raises(CheckpointError, match=r"method\.label: 'other', was 'smallest'"):
        train(network(), Smallest("other"), options(tmp_path), share=0.5)
    with pytest.raises(CheckpointError, match=r"share: 0\.4, was 0\.5; seed: 1, was 0"):
        train(network(), Smallest(), options(tmp_path), share=0.4, seed=1)


def test_where_a_run_is_kept_does_not_matter(tmp_path: Path) -> None:
    found = train(network(), Smallest(), options(tmp_path / "a"), share=0.5)
    (tmp_path / "a").rename(tmp_path / "b")
    kept = sc.Checkpoints(tmp_path / "b", resume=True, every=7)
    assert train(network(), Smallest(), options(tmp_path, checkpoints=kept), share=0.5).rows == found.rows


def test_a_loader_that_got_shorter_is_refused(tmp_path: Path) -> None:
    """What a callable or a list holds is not compared, but that it yields less than before is seen."""
    batches = list(loader())

    class StopError(Exception):
        pass

    def loss(outputs: Any, labels: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise StopError
        return nn.functional.cross_entropy(outputs, labels)

    left = 8
    kept = sc.Checkpoints(tmp_path, resume=True, every=1)
    run = options(tmp_path, loader=batches, checkpoints=kept, loss=loss)
    with pytest.raises(StopError):
        train(network(), Smallest(), run, share=0.5)
    del batches[2:]
    with pytest.raises(CheckpointError, match=r"length: 2, was 8"):
        train(network(), Smallest(), run, share=0.5)


def test_logs(tmp_path: Path) -> None:
    found = train(network(), Smallest(), options(tmp_path, epochs=3), share=0.5)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "step,round,epoch,loss,rate,metric,share,seconds,rho,primal,dual,same,magnitude"
    assert len(lines) == 1 + len(found.rows) == 5
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("training/metric")
    assert [s.step for s in scalars] == [row.step for row in found.rows]
    assert [s.value for s in scalars] == pytest.approx([row.metric for row in found.rows])
