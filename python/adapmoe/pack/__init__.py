# SPDX-License-Identifier: Apache-2.0
"""A pack on disk: manifest, weights, and the sidecars beside them."""
