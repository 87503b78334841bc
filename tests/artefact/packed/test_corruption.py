"""Corrupted files are an error or the right data; a long run of the same kind is benchmarks/fuzz_packed.py."""

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from secateur.artefact import PackedFile

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    # Scripts of benchmarks import one another by their plain names.
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("fuzz_packed", BENCHMARKS / "fuzz_packed.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["fuzz_packed"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_is_an_offence(fuzz: ModuleType, seed: int) -> None:
    outcomes, _ = fuzz.batch(seed, 250)
    assert not [name for name in outcomes if name.startswith("!")]
    assert sum(outcomes.values()) == 250
    assert sum(count for name, count in outcomes.items() if name.startswith("error")) > 100


def test_every_single_bit_counts(fuzz: ModuleType, tmp_path: Path) -> None:
    seed = fuzz.seeds(tmp_path)[8]
    for at in random.Random(0).sample(range(8 * len(seed.data)), 400):
        data = bytearray(seed.data)
        data[at // 8] ^= 1 << at % 8
        assert fuzz.outcome(tmp_path / "file", seed, bytes(data), True).startswith("error")


def test_every_length_counts(fuzz: ModuleType, tmp_path: Path) -> None:
    seed = fuzz.seeds(tmp_path)[7]
    for length in range(0, len(seed.data), 7):
        assert fuzz.outcome(tmp_path / "file", seed, seed.data[:length], True).startswith("error")


def test_the_seeds_have_every_kind_of_stream(fuzz: ModuleType, tmp_path: Path) -> None:
    seen, bits = set(), set()
    for i, seed in enumerate(fuzz.seeds(tmp_path)):
        (tmp_path / str(i)).write_bytes(seed.data)
        with PackedFile(tmp_path / str(i)) as file:
            for record in file.records:
                seen |= {
                    name
                    for name in ("nonzero", "negative", "unified", "signs", "magnitudes")
                    if getattr(record, name)
                }
                seen |= {"taps"} if record.blocks and record.blocks.taps_first else set()
                seen |= {"joined"} if len(record.tensors) > 1 else set()
                seen |= {"tied"} if len(record.tensors[0][0]) > 1 else set()
                seen |= {"text"} if record.type == "TEXT" else set()
                seen |= {"shift"} if record.values.shift else set()
                seen |= {"base"} if record.values.base else set()
                bits |= {record.quantised.bits if record.quantised else 0}
    assert seen == {
        "negative",
        "nonzero",
        "unified",
        "signs",
        "magnitudes",
        "taps",
        "joined",
        "tied",
        "text",
        "shift",
        "base",
    }
    assert bits == {0, 4, 8, 16}
