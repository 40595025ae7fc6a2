"""`python -m openkontext` is the `openkontext` command."""

import sys

from openkontext.cli import main

sys.exit(main())
