"""`python -m unetkit` is `unetkit`."""

from unetkit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
