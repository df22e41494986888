// SPDX-License-Identifier: Apache-2.0
// manifest.json: parsed, and checked against the size formulas of
// export/FORMAT.md.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "runtime/base/model_config.h"
#include "runtime/base/packed_layout.h"
#include "runtime/base/status.h"

namespace adapmoe {

struct DenseTensor {
  bool is_matrix = false;
  PackedShape shape;   // of a matrix
  int64_t length = 0;  // of a vector, unpadded
  int64_t offset = 0;  // in the data buffer of dense.safetensors
  int64_t bytes = 0;
  uint32_t crc32c = 0;
};

struct ExpertGeometry {
  DType dtype = DType::kInt4;
  int64_t group_size = 0;
  int64_t data_offset = 0;  // of expert (0, 0) in experts.safetensors
  int64_t tiles = 0;        // per expert
  int64_t tile_width = 0;   // columns of intermediate_size per tile
  int64_t tile_bytes = 0;
  int64_t expert_bytes = 0;
};

struct Manifest {
  ModelConfig config;
  ExpertGeometry experts;
  int64_t dense_data_offset = 0;
  std::map<std::string, DenseTensor> dense;
  std::vector<uint32_t> tile_crc32c;          // [layers * experts * tiles], layer-major
  std::map<std::string, int64_t> file_bytes;  // every file but the manifest
};

// Refuses a text whose checksum is wrong. Errors: kPackError naming `path`, the
// field, what was expected and what to do.
Result<Manifest> parse_manifest(const std::string& text, const std::string& path);

}  // namespace adapmoe
