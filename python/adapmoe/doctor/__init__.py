# SPDX-License-Identifier: Apache-2.0
"""`adapmoe doctor`: what this machine offers, what stands in the way, and what to do about it.

One file per topic. Each looks at a `Machine` and returns findings, so that tests can pass machines
made of files.
"""
