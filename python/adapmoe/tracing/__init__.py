# SPDX-License-Identifier: Apache-2.0
"""Recorded routing and timelines: saved, replayed, drawn."""
