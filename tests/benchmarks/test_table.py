"""The tables that benchmarks write."""

import csv
import importlib
from pathlib import Path

import pytest
import torch

from secateur.measure import environment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_rows_say_where_they_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    columns = ("model", "threads", "ms", "commit", "torch", "command")
    table = importlib.import_module("table").Table(tmp_path / "t.csv", ("model", "threads"), columns)
    table.append({"model": "a", "threads": "7", "ms": 1.234567} | table.provenance("python x.py"))
    with table.path.open(newline="") as file:
        reader = csv.DictReader(file)
        (row,) = reader
    assert tuple(reader.fieldnames or ()) == columns
    assert row == {
        "model": "a",
        "threads": "7",  # a key is what the caller says
        "ms": "1.2346",
        "commit": environment().commit,
        "torch": torch.__version__,
        "command": "python x.py",
    }
    assert table.present() == {("a", "7")}
