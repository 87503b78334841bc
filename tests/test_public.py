import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import pytest

import secateur as sc

NAMES = [name for name in sc.__all__ if not isinstance(getattr(sc, name), ModuleType)]


def test_public_names_are_what_they_say() -> None:
    assert len(NAMES) <= 40  # what users call daily; options live in their rooms
    for name in NAMES:
        assert getattr(sc, name).__name__ == name
        assert name in dir(sc)


def test_the_version_is_there() -> None:
    assert sc.__version__ == version("secateur")


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="attribute prnue"):
        sc.prnue  # noqa: B018


def test_rooms_are_reached_without_an_import_of_their_own() -> None:
    code = "import secateur as sc; print(sc.runtime.compile.__name__, sc.export.to_onnx.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["compile", "to_onnx"]
