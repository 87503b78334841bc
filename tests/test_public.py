import subprocess
import sys

import pytest

import secateur as sc


def test_public_names_are_what_they_say() -> None:
    for name in sc.__all__:
        assert getattr(sc, name).__name__ == name
        assert name in dir(sc)


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prnue'"):
        sc.prnue  # noqa: B018


def test_rooms_are_reached_without_an_import_of_their_own() -> None:
    code = "import secateur as sc; print(sc.runtime.compile.__name__, sc.export.to_onnx.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["compile", "to_onnx"]
