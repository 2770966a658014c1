"""`python -m app` is `dicomlake`."""

import sys


def main() -> None:
    """Entry point of the `dicomlake` command; quiet on Ctrl-C also while the half second of imports lasts."""
    try:
        from app.cli.commands import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
