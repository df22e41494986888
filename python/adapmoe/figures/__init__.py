# SPDX-License-Identifier: Apache-2.0
"""What a pack's calibration and recorded routing look like (needs the `report` extra)."""
