// SPDX-License-Identifier: Apache-2.0
// For .cu files: values of the KV cache, f16 as uint16_t or f32.
#pragma once
#include <cuda_fp16.h>

#include <cstdint>

namespace adapmoe::cuda {

__device__ inline void store_kv(uint16_t* p, float value) {
  *p = __half_as_ushort(__float2half_rn(value));
}
__device__ inline void store_kv(float* p, float value) { *p = value; }

// The values in 4 bytes of the cache.
__device__ inline void unpack(uint32_t word, float (&values)[2]) {
  values[0] = __half2float(__ushort_as_half(static_cast<uint16_t>(word & 0xffffU)));
  values[1] = __half2float(__ushort_as_half(static_cast<uint16_t>(word >> 16)));
}
__device__ inline void unpack(uint32_t word, float (&values)[1]) {
  values[0] = __uint_as_float(word);
}

}  // namespace adapmoe::cuda
