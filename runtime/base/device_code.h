// SPDX-License-Identifier: Apache-2.0
// Marks the few inline functions that GPU kernels share with the CPU.
#pragma once

#if defined(__CUDACC__)
#define ADAPMOE_HOST_DEVICE __host__ __device__
#else
#define ADAPMOE_HOST_DEVICE
#endif
