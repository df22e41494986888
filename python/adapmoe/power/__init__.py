# SPDX-License-Identifier: Apache-2.0
"""Energy that the machine spends while it generates, and whether it had to slow down."""
