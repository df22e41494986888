# SPDX-License-Identifier: Apache-2.0
"""What is decided before a session opens, from the settings, the pack and this machine."""
