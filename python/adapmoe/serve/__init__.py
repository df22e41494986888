# SPDX-License-Identifier: Apache-2.0
"""Serves one model over HTTP, in the shapes of other services' APIs."""
