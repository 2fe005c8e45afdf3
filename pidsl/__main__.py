"""`python -m pidsl`, the command line."""

from pidsl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
