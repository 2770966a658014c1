"""`python -m app` is `dicomlake`."""

from app.cli import main

if __name__ == "__main__":
    main()
