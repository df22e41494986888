# SPDX-License-Identifier: Apache-2.0
"""What this machine has and does: kernel tree, GPU, power, bandwidth, files."""
