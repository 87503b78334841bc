"""Calibration data in all the forms that people have them, and all the ways in which they can be wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from secateur.graph import Program, trace
from secateur.ground.errors import CalibrationError
from secateur.statistics import Calibration


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc(x)) * scale)


class Fixed(nn.Module):
    """A batch size that the code repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc(x)).reshape(4, 8))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def single() -> Program:
    return trace(net(), torch.zeros(2, 3)).program


@pytest.fixture(scope="module")
def named() -> Program:
    return trace(Pair(), x=torch.zeros(2, 3), scale=torch.zeros(2, 1)).program


@pytest.fixture(scope="module")
def fixed() -> Program:
    return trace(Fixed(), torch.zeros(4, 3)).program


def sizes(batches: Any, program: Program) -> list[list[tuple[int, ...]]]:
    return [[tuple(x.shape) for x in flat] for flat in Calibration(batches, program)]


def test_tensors_and_tuples_with_labels(single: Program) -> None:
    x, y = torch.rand(5, 3), torch.zeros(5)
    assert sizes([x, x[:2]], single) == [[(5, 3)], [(2, 3)]]
    assert sizes([(x, y), [x, y]], single) == [[(5, 3)], [(5, 3)]]
    loader = DataLoader(TensorDataset(x, y), batch_size=2)
    assert sizes(loader, single) == [[(2, 3)], [(2, 3)], [(1, 3)]]


def test_positional_pairs() -> None:
    program = trace(Pair(), torch.zeros(2, 3), torch.zeros(2, 1)).program
    batch = (torch.rand(4, 3), torch.rand(4, 1), torch.zeros(4))
    assert sizes([batch], program) == [[(4, 3), (4, 1)]]


def test_mappings_are_taken_by_key(named: Program) -> None:
    batch = {"labels": torch.zeros(4), "scale": torch.rand(4, 1), "x": torch.rand(4, 3)}
    flat = next(iter(Calibration([batch], named)))
    assert flat[0] is batch["x"]
    assert flat[1] is batch["scale"]


class OneMapping(Pair):
    """Takes one mapping, and an option that is no tensor."""

    def forward(self, batch: dict[str, Tensor], power: int = 1) -> Tensor:
        return super().forward(batch["x"], batch["scale"]) ** power


def test_a_mapping_that_is_the_only_input() -> None:
    example = {"x": torch.zeros(2, 3), "scale": torch.ones(2, 8)}
    program = trace(OneMapping(), example).program
    batch = {"label": torch.zeros(5), "scale": torch.ones(5, 8), "x": torch.zeros(5, 3)}
    for given in (batch, (batch,), (batch, torch.zeros(5))):  # other keys, another order, labels behind
        assert sizes([given], program) == [[(5, 3), (5, 8)]]
    with pytest.raises(CalibrationError, match="batch 0 has no 'scale', which the example has"):
        sizes([{"x": torch.zeros(5, 3)}], program)


def test_options_that_are_no_tensors_may_be_left_out() -> None:
    example = {"x": torch.zeros(2, 3), "scale": torch.ones(2, 8)}
    program = trace(OneMapping(), batch=example, power=2).program
    batch = {"batch": {"scale": torch.ones(5, 8), "x": torch.zeros(5, 3)}}
    for given in (batch, {**batch, "power": 2}):
        (flat,) = Calibration([given], program)
        assert [tuple(v.shape) if isinstance(v, Tensor) else v for v in flat] == [(5, 3), (5, 8), 2]
    with pytest.raises(CalibrationError, match="the keywords"):
        sizes([{"power": 2}], program)


def test_an_iterator_can_be_swept_twice(single: Program) -> None:
    def stream() -> Iterator[Tensor]:
        yield from torch.rand(6, 3).split(2)

    calibration = Calibration(stream(), single)
    first, second = list(calibration), list(calibration)
    assert len(first) == 3
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_batches_are_cut_to_the_size_that_the_program_takes(fixed: Program) -> None:
    assert not fixed.dynamic
    assert sizes([torch.rand(4, 3), torch.rand(9, 3)], fixed) == [[(4, 3)], [(4, 3)], [(4, 3)]]
    with pytest.raises(CalibrationError, match=r"3 samples.*batch size of the example \(4\)"):
        sizes([torch.rand(3, 3)], fixed)


@pytest.mark.parametrize("seed", range(3))
def test_one_sample_in_four_is_held_out_whatever_the_batches_and_their_order(
    single: Program, seed: int
) -> None:
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))

    def held(x: Tensor, size: int) -> Tensor:
        return torch.cat([mask for _, mask in Calibration(x.split(size), single).held_out()])

    expected = held(x, 1000)
    assert 200 < int(expected.sum()) < 300
    for size in (1, 7, 64):
        assert torch.equal(held(x, size), expected)
        assert torch.equal(held(x[order], size), expected[order])


def test_all_inputs_of_a_sample_decide_whether_it_is_held_out(named: Program) -> None:
    x, scale = torch.ones(400, 3), torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    (_, held), *_ = Calibration([{"x": x, "scale": scale}], named).held_out()
    assert 60 < int(held.sum()) < 140


def test_what_is_drawn_in_a_batch_follows_from_its_content_and_the_seed(single: Program) -> None:
    a, b = torch.rand(2, 5, 3)
    calibration = Calibration([a, b, a.clone()], single)

    def drawn(seed: int) -> list[list[int]]:
        return [
            torch.randperm(1000, generator=calibration.generator(flat, seed)).tolist() for flat in calibration
        ]

    first, second = drawn(0), drawn(1)
    assert first[0] == first[2] != first[1]
    assert first == drawn(0)
    assert all(x != y for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "empty"),
        (iter(()), "empty"),
        ([torch.rand(4, 5)], r"shape \(4, 5\).*\(N, 3\)"),
        ([torch.rand(4, 3, 1)], r"shape \(4, 3, 1\)"),
        ([torch.rand(0, 3)], r"shape \(0, 3\)"),
        ([torch.rand(4, 3).double()], r"float64.*float32"),
        ([torch.zeros(4, 3, dtype=torch.uint8)], r"uint8"),
        ([torch.full((4, 3), float("nan"))], "not finite"),
        ([torch.rand(4, 3), torch.full((4, 3), float("inf"))], "batch 1 .*not finite"),
        ([{"x": torch.rand(4, 3)}], "mapping with keys"),
        (["image.png"], "is a str"),
        ([()], "is a tuple"),
        ([([1.0, 2.0, 3.0], 0)], "has 3 inputs|not a tensor"),
        ([(1.0, 2)], "is a float, not a tensor"),
    ],
)
def test_what_does_not_fit_is_refused(single: Program, batches: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        list(Calibration(batches, single))


def test_one_tensor_is_no_iterable_of_batches(single: Program) -> None:
    with pytest.raises(CalibrationError, match="split"):
        Calibration(torch.rand(8, 3), single)


@pytest.mark.parametrize(
    "batch", [{"x": torch.rand(4, 3)}, torch.rand(4, 3), (torch.rand(4, 3), torch.rand(4, 1))]
)
def test_keywords_that_are_missing(named: Program, batch: Any) -> None:
    with pytest.raises(CalibrationError, match="keywords"):
        list(Calibration([batch], named))
