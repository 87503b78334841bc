"""Compile the kernels into the package: python native/build.py [--sanitize] [--into FOLDER]

One shared library per instruction set, from one source. The package's own install does this as well (hook.py); without
a compiler it installs without kernels, and layers run dense.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = HERE.parent / "src" / "secateur" / "runtime" / "lib"
INTERFACE = LIBRARIES.parent / "library.py"
AVX2 = ("-mavx2", "-mfma")
AVX512 = (*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512")
X86 = {
    "avx512vnni": (*AVX512, "-mavx512vnni"), "avx512": AVX512, "avxvnni": (*AVX2, "-mavxvnni"), "avx2": AVX2,
    "portable": (),
}  # fmt: skip
COMMON = (
    "-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra",
    "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-unknown-warning-option", "-Wno-ignored-optimization-argument",
)  # fmt: skip
SANITIZE = (
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-g",
    "-fno-omit-frame-pointer",
)


class NoKernelsError(Exception):
    """The kernels cannot be compiled here; the message says why."""


def abi() -> int:
    """Return the version of the C interface, which the package's Python knows."""
    text = INTERFACE.read_text()
    return int(re.search(r"^ABI = (\d+)$", text, re.MULTILINE).group(1))  # type: ignore[union-attr]


def compiler() -> str:
    """Return a C++ compiler: ``$CXX``, else g++, else clang++.

    Raises:
        NoKernelsError: there is none.
    """
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    found = next((path for path in map(shutil.which, wanted) if path), None)
    if found is None:
        raise NoKernelsError(f"no C++ compiler ({' or '.join(wanted)})")
    return found


def build(into: Path = LIBRARIES, sanitize: bool = False) -> list[Path]:
    """Compile all libraries of this machine's kind, unless they are newer than their source.

    Each appears whole or not at all.

    Raises:
        NoKernelsError: no compiler, another system than Linux or macOS, or the compiler failed.
    """
    if platform.system() not in ("Linux", "Darwin"):
        raise NoKernelsError(f"kernels are not built on {platform.system()}")
    targets = libraries(into)
    if not sanitize and up_to_date(targets):
        return list(targets)
    program = compiler()
    into.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a compiler each
        return list(pool.map(lambda target: _compile(program, target, targets[target], sanitize), targets))


def _compile(program: str, target: Path, flags: tuple[str, ...], sanitize: bool) -> Path:
    """Compile one library.

    Raises:
        NoKernelsError: the compiler failed.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh = Path(scratch) / target.name
        command = [
            program, *COMMON, *flags, *(SANITIZE if sanitize else ()), f"-DSECATEUR_ABI={abi()}",
            str(HERE / "kernels.cpp"), "-o", str(fresh),
        ]  # fmt: skip
        # OpenMP where the compiler has it; torch brings the runtime, so that its threads are the kernels' threads.
        errors = [_run([*command, "-fopenmp"])]
        if errors[0]:
            errors.append(_run(command))
        if errors[-1]:
            raise NoKernelsError(f"{program} failed: {errors[-1].strip()[-2000:]}")
        fresh.replace(target)
    return target


def libraries(into: Path) -> dict[Path, tuple[str, ...]]:
    """Return the libraries of this machine's kind, with the flags of each."""
    suffix = ".dylib" if platform.system() == "Darwin" else ".so"
    sets = X86 if platform.machine() in ("x86_64", "AMD64") else {"portable": ()}
    return {into / f"kernels-{name}{suffix}": flags for name, flags in sets.items()}


def up_to_date(targets: Iterable[Path]) -> bool:
    """Tell whether all libraries are there, and newer than what they are made from."""
    sources = [*(path for path in HERE.iterdir() if path.is_file()), INTERFACE]
    newest = max(path.stat().st_mtime for path in sources)
    return all(path.exists() and path.stat().st_mtime >= newest for path in targets)


def _run(command: list[str]) -> str:
    """Return what the compiler says if it fails, else an empty text."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or "failed without a word") if done.returncode else ""


def main() -> None:
    """Compile, or say in one line why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sanitize", action="store_true", help="with address and undefined-behaviour sanitizers"
    )
    parser.add_argument("--into", type=Path, default=LIBRARIES)
    options = parser.parse_args()
    try:
        for path in build(options.into, options.sanitize):
            print(path)
    except NoKernelsError as error:
        sys.exit(f"kernels not built: {error}")


if __name__ == "__main__":
    main()
