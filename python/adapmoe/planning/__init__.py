# SPDX-License-Identifier: Apache-2.0
"""Predicting how fast a model will run under a memory ceiling, before it does."""
