"""Build a wheel and an sdist, look into them, and try each: python tools/distribution.py [--into dist] [--fresh]

The wheel is built from the sdist. Each is installed into two new environments, one without a compiler on its PATH, and
tried there by tools/smoke.py. Dependencies are those of this environment, which the new ones borrow; with --fresh they
are installed as well, which takes gigabytes.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
BESIDE = (
    "pyproject.toml",
    "native/build.py",
    "native/hook.py",
    "native/kernels.cpp",
    "tests/conftest.py",
    "tools/rooms.py",
)
X86 = platform.machine() in ("x86_64", "AMD64")
SETS = ("avx512vnni", "avx512", "avxvnni", "avx2", "portable") if X86 else ("portable",)
SUFFIX = ".dylib" if platform.system() == "Darwin" else ".so"
KERNELS = frozenset(f"secateur/runtime/lib/kernels-{name}{SUFFIX}" for name in SETS)


def package_files() -> set[str]:
    """Return all files of the package, but for what is compiled."""
    files = {
        path.relative_to(SOURCE).as_posix() for path in (SOURCE / "secateur").rglob("*") if path.is_file()
    }
    return {
        name for name in files if "__pycache__" not in name and not name.startswith("secateur/runtime/lib/")
    }


def faults_of_wheel(names: Iterable[str]) -> list[str]:
    """Return what is missing from a wheel with these files, and what has no place in it."""
    names = {name for name in names if ".dist-info/" not in name}
    wanted = package_files() | KERNELS
    return [f"lacks {name}" for name in sorted(wanted - names)] + [
        f"has {name}" for name in sorted(names - wanted)
    ]


def faults_of_sdist(names: Iterable[str]) -> list[str]:
    """Return what is missing from an sdist with these files (below its folder); nothing compiled belongs there."""
    names = set(names)
    wanted = {f"src/{name}" for name in package_files()} | set(BESIDE)
    compiled = sorted(name for name in names if name.endswith((".so", ".dylib", ".pyc")))
    return [f"lacks {name}" for name in sorted(wanted - names)] + [f"has {name}" for name in compiled]


def build(into: Path) -> tuple[Path, Path]:
    """Return a new wheel and the sdist that it was built from; what is wrong with either ends the program."""
    for old in (*into.glob("secateur-*.whl"), *into.glob("secateur-*.tar.gz")):
        old.unlink()
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(into), str(ROOT)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (wheel,), (sdist,) = into.glob("secateur-*.whl"), into.glob("secateur-*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        inner = [name.partition("/")[2] for name in source.getnames()]
        faults = {wheel: faults_of_wheel(archive.namelist()), sdist: faults_of_sdist(inner)}
    for path, found in faults.items():
        if found:
            sys.exit(f"{path}: {'; '.join(found)}")
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, all there", flush=True)
    return wheel, sdist


def attempt(archive: Path, compiler: bool, fresh: bool) -> None:
    """Install an archive into a new environment and try it there."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "env"
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        if (
            not fresh
        ):  # the packages of this environment, but for its secateur: its own .pth files are not read
            site = next(folder.glob("lib/python*/site-packages"))
            (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CXX", "SECATEUR_KERNELS")}
        env["PATH"] = str(folder / "bin") + (os.pathsep + os.environ["PATH"] if compiler else "")
        options = [] if fresh else ["--no-deps", "--ignore-installed"]
        subprocess.run(
            [python, "-m", "pip", "install", "-q", *options, archive], check=True, env=env, cwd=scratch
        )
        expected = "kernels" if compiler or archive.suffix == ".whl" else "dense"
        smoke: list[str | Path] = [python, "-I", ROOT / "tools" / "smoke.py", folder, expected]
        print(f"{archive.name}, {'a' if compiler else 'no'} compiler: ", end="", flush=True)
        subprocess.run(smoke, check=True, env=env, cwd=scratch)


def main() -> None:
    """Build and try."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=ROOT / "dist")
    parser.add_argument("--fresh", action="store_true", help="install the dependencies, too")
    options = parser.parse_args()
    for archive in build(options.into.resolve()):
        for compiler in (True, False):
            attempt(archive, compiler, options.fresh)


if __name__ == "__main__":
    main()
