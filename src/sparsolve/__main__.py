"""`python -m sparsolve`: what this machine can do."""

from __future__ import annotations

import sys

from . import __version__
from .backends import available


def main() -> None:
    """Print `sparsolve.backends.available()`, a line for each thing."""
    lines = [f"sparsolve {__version__}"]
    for title, items in available().items():
        lines += ["", title, *(f"  {name}: {what}" for name, what in (items or {"nothing": "-"}).items())]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
