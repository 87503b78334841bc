"""python -m secateur: the command line."""

import sys

# `python -m` puts the current folder in front of all modules; in an artefact's folder a file of it would be imported.
if not sys.flags.safe_path:
    del sys.path[0]

from secateur.cli import main

main()
