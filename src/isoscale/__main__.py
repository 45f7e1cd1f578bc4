"""`python -m isoscale`, which is the `isoscale` command; without the packages of the command line it says which."""

import os
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
    try:
        cli.main()
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. What is left in the buffer must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell says of a command that SIGPIPE ended


if __name__ == "__main__":
    main()
