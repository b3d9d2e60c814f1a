"""`python -m rekernel`, the same as the command `rekernel`."""

from rekernel_cli.main import main

if __name__ == "__main__":
    main(prog_name="rekernel")
