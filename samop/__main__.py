"""python -m samop: which commands there are."""

import sys
from collections.abc import Sequence

from samop import __version__

HELP = f"""\
samop {__version__}: what sharpness-aware minimisation gains as a network grows wider.

  python -m samop.main --config=digits_width:smoke   trains a sweep, prints a table, draws a figure
  python -m samop.report --workdir=DIR               tables and figures again, without training
  python -m samop.curvature --run=DIR                the curvature of a trained network
  python -m samop.data list                          data sets, and how to fetch them ahead of time
  python -m samop.fields                             what every field of a config means
  python -m samop.submit --jobs=N -- ARGUMENTS       a sweep as an array of Slurm jobs

Each explains itself with --help. In Python: samop.sam and its variants for your own training loop,
samop.hessian for the curvature of your own model, samop.results and samop.figures for records.
"""


def main(argv: Sequence[str]) -> int:
    """Prints the text, or with --version the version alone; returns the exit status."""
    words = set(argv)
    if words == {"--version"}:
        print(__version__)
        return 0
    print(HELP, end="", file=sys.stderr if words - {"--help", "-h"} else sys.stdout)
    return 2 if words - {"--help", "-h"} else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
