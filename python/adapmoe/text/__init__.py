# SPDX-License-Identifier: Apache-2.0
"""From text to token ids and back, and the chat templates of models."""
