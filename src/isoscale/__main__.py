"""`python -m isoscale`, which is the `isoscale` command; without the packages of the command line it says which."""

import sys

from isoscale.errors import MissingExtraError
from isoscale.extras import needed


def main() -> None:
    """Run the command that was typed."""
    try:
        with needed("cli", by="the isoscale command"):
            from isoscale import cli
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    cli.main()


if __name__ == "__main__":
    main()
