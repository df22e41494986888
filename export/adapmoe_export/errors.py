# SPDX-License-Identifier: Apache-2.0
"""The exporter's own error: the destination or an option is wrong."""

from adapmoe.errors import AdapmoeError


class ExportError(AdapmoeError):
    """The pack cannot be written as asked. The message says what to change."""
