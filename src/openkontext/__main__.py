"""`python -m openkontext` is the `openkontext` command."""

from openkontext.cli import run

run()
