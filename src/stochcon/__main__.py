import sys

from stochcon.cli import main

sys.exit(main())
