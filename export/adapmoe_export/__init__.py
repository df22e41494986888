# SPDX-License-Identifier: Apache-2.0
"""The exporter: a Hugging Face checkpoint in, a pack for the device out (see export/FORMAT.md)."""

from adapmoe_export.errors import ExportError
from adapmoe_export.pack_writer import export_pack

__all__ = ["ExportError", "export_pack"]
