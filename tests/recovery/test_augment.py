"""Augmentation of pictures: what it makes is made of what was there; what is no picture stays."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.ground.errors import CalibrationError
from secateur.recovery import Pictures
from secateur.recovery.augment import augmented, is_picture

SAME = Pictures(shift=0, flip=False, mix=0)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(8, 20), st.integers(8, 20), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_shapes_types_and_range_stay(n: int, c: int, h: int, w: int, seed: int) -> None:
    x = torch.rand(n, c, h, w, dtype=torch.float64)
    [found] = augmented(Pictures(), [x], seed)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert x.min() <= found.min() <= found.max() <= x.max()


def test_pictures_move_by_at_most_a_share_of_a_side_and_edges_are_repeated() -> None:
    torch.manual_seed(0)
    x = (torch.arange(16.0)[:, None] * 100 + torch.arange(24.0)).expand(200, 1, 16, 24)
    found = Pictures(shift=0.125, flip=False, mix=0)(x)
    rows, columns = found[:, 0, :, 0] // 100, found[:, 0, 0] % 100
    for places, side in ((rows, 16), (columns, 24)):
        moves = places[:, side // 2] - side // 2
        assert set(moves.tolist()) == set(range(-side // 8, side // 8 + 1))
        expected = (torch.arange(side) + moves[:, None]).clamp(0, side - 1)
        assert torch.equal(places, expected)


def test_every_second_picture_is_mirrored() -> None:
    torch.manual_seed(0)
    x = torch.rand(200, 3, 8, 8)
    found = Pictures(shift=0, mix=0)(x)
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(found, x, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(found, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_share_is_mixed_with_another_picture() -> None:
    torch.manual_seed(0)
    x = torch.rand(400, 1, 8, 8, dtype=torch.float64)
    found = Pictures(shift=0, flip=False, mix=0.25)(x)
    change, other = found - x, x.roll(1, 0) - x
    share = (change * other).sum((1, 2, 3)) / (other**2).sum((1, 2, 3))
    torch.testing.assert_close(change, share.view(-1, 1, 1, 1) * other)
    assert 60 < int((share > 0).sum()) < 140
    assert share.max() < 1


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(4, 3),
        torch.rand(4, 5, 16, 16),
        torch.rand(4, 3, 7, 16),
        torch.rand(4, 3, 16),
        torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
    ],
    ids=["rows", "channels", "small", "sound", "integers"],
)
def test_what_is_no_picture_stays(x: Tensor) -> None:
    assert not is_picture(x)
    assert Pictures()(x) is x


def test_several_inputs_stay() -> None:
    x, y = torch.rand(4, 3, 16, 16), torch.rand(4, 2)
    found = augmented(Pictures(), [x, y], 0)
    assert torch.equal(found[0], x)
    assert torch.equal(found[1], y)


def test_a_seed_gives_the_same_and_the_generator_stays() -> None:
    x = torch.rand(8, 3, 16, 16)
    state = torch.get_rng_state()
    first, second, other = (augmented(Pictures(), [x], seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_inputs_cannot_be_written_into() -> None:
    x = torch.rand(4, 3)
    before = x.clone()
    [found] = augmented(lambda x: x.zero_(), [x], 0)
    assert torch.equal(x, before)
    assert not found.any()


def test_infinities_that_were_there_may_stay() -> None:
    mask = torch.tensor([[0.0, -torch.inf]])
    assert torch.equal(augmented(lambda x: x, [mask], 0)[0], mask)
    with pytest.raises(CalibrationError, match="not finite"):
        augmented(lambda x: x / 0, [torch.rand(2, 2)], 0)


@pytest.mark.parametrize("options", [{"shift": 0.6}, {"shift": -0.1}, {"mix": 1.5}, {"mix": -1.0}])
def test_shares_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Pictures(**options)


def test_nothing_drawn_is_nothing_changed() -> None:
    x = torch.rand(4, 3, 16, 16)
    assert torch.equal(SAME(x), x)
