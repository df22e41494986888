# SPDX-License-Identifier: Apache-2.0
"""From prompts to text: parameters, sampling, requests, slots and steps, streams."""
