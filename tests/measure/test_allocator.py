"""Freed memory stays in the process once it was asked to."""

import platform
import subprocess
import sys

import pytest

from secateur.measure import allocator

FREED = """
import resource, sys
from secateur.measure.allocator import keep_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    assert keep_memory()
before = resident()
block = bytearray(b"x" * 2**26)
del block
print(resident() - before)
"""


@pytest.mark.parametrize(("how", "kept"), [("keep", True), ("as it is", False)])
def test_freed_blocks_stay_where_they_are_kept(how: str, kept: bool) -> None:
    if platform.libc_ver()[0] != "glibc":
        assert not allocator.keep_memory()
        return
    grown = int(subprocess.run([sys.executable, "-c", FREED, how], check=True, capture_output=True).stdout)
    assert (grown > 2**25) == kept


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("must not be called"))
    assert not allocator.keep_memory()
