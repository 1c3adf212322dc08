"""`python -m particlegen.cli`: the command line without the installed script."""

from particlegen.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
