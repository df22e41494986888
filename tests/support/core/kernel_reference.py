# SPDX-License-Identifier: Apache-2.0
"""The canonical arithmetic in NumPy, one operation after the other, sharing no code with the core.

Every function gives the exact float32 bits; arrays are float32 unless said otherwise.
"""

import numpy as np


def fma(a, b, c):
    """float32 a * b + c with one rounding.

    The product is exact in float64. The sum is rounded to odd there, so that rounding it again, to
    float32, gives what a single rounding would have given.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        addend = np.asarray(c, np.float64)
        total = np.asarray(product + addend)
        back = total - product
        error = (product - (total - back)) + (addend - back)
        bits = np.asarray(total.view(np.int64))
        inexact = np.isfinite(error) & (error != 0) & (bits & 1 == 0)
        step = np.where(np.signbit(error) == np.signbit(total), 1, -1)
        odd = np.where(inexact, bits + step, bits).view(np.float64)
        return odd.astype(np.float32)


def lane_sum(lanes):
    """16 lanes to one value: the fixed tree of halves."""
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return lanes[0]


def quantize(x, group):
    """(q int8 [n], scale [n / group], sum int32 [n / group]) of one activation row [n]."""
    groups = x.reshape(-1, group)
    amax = np.abs(groups).max(1, keepdims=True)
    tiny = amax <= np.float32(1e-30)
    safe = np.where(tiny, np.float32(1), amax)
    scale = np.where(tiny, np.float32(0), safe / np.float32(127))
    inverse = np.where(tiny, np.float32(0), np.float32(127) / safe)
    limit = np.float32(127)
    q = np.rint(np.clip(groups * inverse, -limit, limit)).astype(np.int8)
    return q.reshape(-1), scale.reshape(-1), q.sum(1, dtype=np.int32)


def block_quantized(quants, w_scale, q, x_scale, start):
    """[rows, 16]: quants int8 [16, cols], w_scale [16, groups], q int8 [rows, cols], x_scale
    [rows, groups], start [rows, 16]."""
    groups = w_scale.shape[1]
    w = quants.astype(np.int64).reshape(16, groups, -1)
    x = q.astype(np.int64).reshape(q.shape[0], groups, -1)
    acc = start
    for g in range(groups):
        sums = (x[:, g] @ w[:, g].T).astype(np.float32)
        acc = fma(sums, w_scale[None, :, g] * x_scale[:, None, g], acc)
    return acc


def block_float(weights, x, start):
    """[rows, 16]: weights [16, cols], x [rows, cols], start [rows, 16]."""
    acc = start
    for k in range(weights.shape[1]):
        acc = fma(weights[None, :, k], x[:, None, k], acc)
    return acc


def rms_norm(x, weight, n, eps):
    """[padded]: x and weight zero-padded to a multiple of 16, n the unpadded length."""
    lanes = np.zeros(16, np.float32)
    for begin in range(0, x.size, 16):
        lanes = fma(x[begin : begin + 16], x[begin : begin + 16], lanes)
    mean = lane_sum(lanes) / np.float32(n)
    return x * (np.float32(1) / np.sqrt(mean + np.float32(eps))) * weight


def attention(q, k, v, scale):
    """Softmax attention in float64 (not bit-exact): q [heads, dim], k and v [positions, dim]."""
    scores = (q.astype(np.float64) @ k.astype(np.float64).T) * float(scale)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights @ v.astype(np.float64) / weights.sum(1, keepdims=True)
