// SPDX-License-Identifier: Apache-2.0
// The types of CUDA that TensorRT's headers name, so that they can be compiled without CUDA.
#pragma once
typedef struct CUstream_st* cudaStream_t;
typedef struct CUevent_st* cudaEvent_t;
