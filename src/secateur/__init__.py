"""secateur makes trained PyTorch networks really smaller and really faster, and proves it."""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

try:
    __version__ = version("secateur")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0"

# The table of public names is __init__.pyi, which type checkers and editors read as well. Each is imported on first
# use, so that the command line answers --help without importing torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
