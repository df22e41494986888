# SPDX-License-Identifier: Apache-2.0
"""Predicts how fast a model will run under a memory ceiling."""
