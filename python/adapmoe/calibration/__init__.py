# SPDX-License-Identifier: Apache-2.0
"""Measures, once per pack, which experts a model can do without; kept in calibration.json."""
