"""The kernels are compiled here if they are missing or older than their source."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from secateur.ground.errors import KernelError
from secateur.runtime import INSTRUCTION_SETS
from secateur.runtime.library import FOLDER, VARIABLE, Library, find_library

ROOT = Path(__file__).parents[2]
KERNELS = Path(os.environ.get("SECATEUR_TEST_KERNELS", FOLDER))  # those with sanitizers (make sanitize)


def builder() -> ModuleType:
    """Return native/build.py."""
    spec = importlib.util.spec_from_file_location("secateur_native_build", ROOT / "native" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def compiled() -> None:
    build = builder()
    try:
        build.build()
    except build.NoKernelsError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"kernels cannot be compiled here: {error}")
    find_library.cache_clear()


@pytest.fixture(params=INSTRUCTION_SETS)
def library(request: pytest.FixtureRequest) -> Library:
    """Give the kernels of each instruction set that this processor has."""
    try:
        found = find_library(request.param, KERNELS).library
    except KernelError:
        found = find_library(
            "portable", KERNELS
        ).library  # what this processor cannot run is run once more, portable
    assert found is not None
    return found


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let a test set the variable that forces an instruction set."""
    monkeypatch.delenv(VARIABLE, raising=False)
    return monkeypatch
