"""What is in the wheel and in the sdist; `make wheel` installs both and tries them."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import distribution
import pytest
from distribution import KERNELS, faults_of_sdist, faults_of_wheel, package_files


def test_the_wheel_has_all_of_the_package_and_all_kernels(tmp_path: Path) -> None:
    wheels = pytest.importorskip("hatchling.builders.wheel")
    if not all((distribution.SOURCE / name).exists() for name in KERNELS):
        pytest.skip("kernels are not compiled here")
    (path,) = wheels.WheelBuilder(str(distribution.ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (info,) = (wheel.read(name).decode() for name in names if name.endswith("/WHEEL"))
    assert faults_of_wheel(names) == []
    assert "Root-Is-Purelib: false" in info
    assert "Tag: py3-none-" in info
    assert "any" not in info


def test_the_sdist_has_the_source_of_the_kernels_and_nothing_compiled(tmp_path: Path) -> None:
    sdists = pytest.importorskip("hatchling.builders.sdist")
    (path,) = sdists.SdistBuilder(str(distribution.ROOT)).build(
        directory=str(tmp_path), versions=["standard"]
    )
    with tarfile.open(path) as sdist:
        names = [name.partition("/")[2] for name in sdist.getnames()]
    assert faults_of_sdist(names) == []
    assert {"tests/test_distribution.py", "tools/distribution.py", "native/vector.h"} <= set(names)


def test_faults_are_found() -> None:
    files = package_files()
    assert {"secateur/__init__.py", "secateur/py.typed"} <= files
    assert faults_of_wheel(files | KERNELS | {"secateur-1.dist-info/WHEEL"}) == []
    lacking = sorted(KERNELS)[0]
    assert faults_of_wheel((files | KERNELS | {"tests/a.py"}) - {lacking}) == [
        f"lacks {lacking}",
        "has tests/a.py",
    ]
    assert "has src/secateur/a.so" in faults_of_sdist({"src/secateur/a.so"})
