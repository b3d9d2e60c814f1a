"""`python -m rekernel_cli`, the same as `rekernel`."""

from .main import main

if __name__ == "__main__":  # processes of --jobs import this file under another name
    main(prog_name="rekernel")
