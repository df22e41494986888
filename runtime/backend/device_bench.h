// SPDX-License-Identifier: Apache-2.0
// Times the GPU's products by themselves, without a model, on weights that no cache holds. Defined
// by backend/cuda, or by backend/no_gpu where there is none.
#pragma once
#include <cstdint>
#include <string>

#include "runtime/backend/weight_reads.h"
#include "runtime/base/packed_layout.h"
#include "runtime/base/status.h"

namespace adapmoe {

enum class BenchMemory : uint8_t {
  kDevice,  // cudaMalloc
  kMapped,  // the host's, registered with CUDA, as a session's arena is
};

struct BenchDevice {
  std::string name;  // "cuda/sm_87"
  bool integrated = false;
};

struct ProductBench {
  PackedShape weights;  // int4 or int8
  int64_t rows = 1;     // of activations
  bool w4a16 = false;
  WeightReads reads = WeightReads::kByRows;
  BenchMemory memory = BenchMemory::kDevice;
  int64_t total_bytes = int64_t{256} << 20;  // of weights read in turn: more than caches hold
};

struct ProductTime {
  double seconds = 0.0;  // of one product, its activations quantized already
  uint32_t crc32c = 0;   // of the last product's result
};

// Errors of all: kUnavailable with CUDA's reason.
Result<BenchDevice> bench_device();
// Bytes per second at which a kernel that does nothing else reads `bytes`: the best of some rounds.
Result<double> read_bandwidth(BenchMemory memory, int64_t bytes);
// The best of some rounds. REQUIRES: rows >= 1; with w4a16, reads is kByRows.
Result<ProductTime> time_product(const ProductBench& bench);

}  // namespace adapmoe
