# SPDX-License-Identifier: Apache-2.0
"""What a model can do without, measured once per pack and kept beside it in calibration.json."""
