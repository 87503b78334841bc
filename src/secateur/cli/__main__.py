"""python -m secateur.cli."""

from . import main

main()
