# SPDX-License-Identifier: Apache-2.0
"""The `adapmoe` command."""

from adapmoe.cli.failures import exit_codes
from adapmoe.cli.streams import prepare_streams


def start() -> None:
    """Run the command line and exit."""
    prepare_streams()
    with exit_codes():
        from adapmoe.cli.main import app  # here, so that Ctrl-C while importing ends as always

        app(prog_name="adapmoe")
