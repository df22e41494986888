# SPDX-License-Identifier: Apache-2.0
"""Figures and pages about a pack and recorded runs."""
