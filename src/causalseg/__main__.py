"""``python -m causalseg`` is the command line."""

from causalseg.cli import main

main()
