"""The build hook of the package's install: kernels where there is a compiler, none and no error where there is not."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the kernels before a wheel is packed or an editable install is made."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform if that worked."""
        sys.path.insert(0, str(Path(self.root) / "native"))
        try:
            import build  # the file beside this one
        finally:
            sys.path.pop(0)
        try:
            made = build.build()
        except build.NoKernelsError as error:
            self.app.display_warning(
                f"secateur is installed without compiled kernels, layers run dense: {error}"
            )
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"  # the C interface does not depend on Python's version
        build_data["artifacts"] += [f"src/secateur/runtime/lib/{path.name}" for path in made]
