"""`python -m rekernel_cli`, the same as `rekernel`."""

from .main import main

main(prog_name="rekernel")
