# SPDX-License-Identifier: Apache-2.0
"""`python -m adapmoe.doctor`: works even where the compiled core, and so `adapmoe`, does not."""

import typer

from adapmoe.cli.doctor import doctor

if __name__ == "__main__":
    typer.run(doctor)
