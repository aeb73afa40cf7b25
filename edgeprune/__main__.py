"""``python -m edgeprune`` is the command ``edgeprune``."""

from ._cli import main

main()
