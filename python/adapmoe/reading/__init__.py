# SPDX-License-Identifier: Apache-2.0
"""How many reads at the same time, and how large: probed once per disk and pack, then remembered.

`adapmoe plan`, `bench` and `doctor` probe; opening a pack only looks up what they found.
"""
