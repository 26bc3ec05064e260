"""`python -m vibelite` is `vibelite`."""

from vibelite.cli import main

if __name__ == "__main__":
    main()
