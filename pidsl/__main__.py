"""`python -m pidsl` and `pidsl`, the command line."""

import sys


def main() -> int:
    """As `pidsl.cli.main.main`; interrupted while that is still being imported, it ends as it does later."""
    try:
        from pidsl.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("\npidsl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
