"""`python -m rrlib` is the command line."""

import sys

from rrlib.cli import main

sys.exit(main())
