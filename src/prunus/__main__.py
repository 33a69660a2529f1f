"""The `prunus` command; without its extra it says which one to install."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    from prunus.extras import MissingExtraError, require

    try:
        require("cyclopts", "the prunus command")  # brings rich
    except MissingExtraError as error:
        sys.exit(str(error))
    from prunus.cli import main as command

    command()


if __name__ == "__main__":
    main()
