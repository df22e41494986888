# SPDX-License-Identifier: Apache-2.0
"""How fast a pack runs, what each technique contributes, and what bounds it."""
