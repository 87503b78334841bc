import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.blocks import PRESETS, Block, Reshape
from secateur.ground.errors import StructureError


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 9))
def test_text_and_back(rows: int, columns: int, taps: int) -> None:
    assert Block.parse(str(Block(rows, columns, taps))) == Block(rows, columns, taps)


@pytest.mark.parametrize(
    "text", ["", "8", "8 x 1", "x1", "0x1", "8x1x1x1", "-8x1", "8x1\n", "9" * 5000 + "x1"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(StructureError):
        Block.parse(text)


def test_sizes_are_whole_and_positive() -> None:
    for bad in (0, -1, 1.5, True, "8"):
        with pytest.raises(StructureError, match="rows="):
            Block(bad, 1)  # type: ignore[arg-type]


def test_taps_need_a_matrix_with_taps() -> None:
    assert Block(4, 1, 3).taps == 3
    with pytest.raises(StructureError, match="taps of its own"):
        Block(4, 1, 3, Reshape.INPUTS)
    with pytest.raises(StructureError, match="Reshape"):
        Block(4, 1, reshape="inputs")  # type: ignore[arg-type]


def test_presets_go_by_their_own_names() -> None:
    assert all(str(block) == name for name, block in PRESETS.items())
    assert {"4x1", "8x1", "4x4", "8x4", "16x4", "1x4"} == set(PRESETS)
