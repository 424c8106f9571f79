"""`python -m stochcon`, which torchrun needs, is the program `stochcon`."""

import sys

from stochcon.cli import main

sys.exit(main())
