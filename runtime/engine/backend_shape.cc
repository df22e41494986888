// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/backend_shape.h"

#include "runtime/base/strings.h"

namespace adapmoe {

BackendShape backend_shape(const Pack& pack, int64_t max_rows, bool kv_f16, ExpertPath path) {
  const ExpertGeometry& e = pack.experts();
  return {.config = pack.config(),
          .tile = TileLayout::make(e.dtype, e.group_size, pack.config().hidden_size, e.tile_width),
          .tiles = e.tiles,
          .max_rows = max_rows,
          .kv_f16 = kv_f16,
          .expert_path = path};
}

Result<ExpertPath> choose_expert_path(std::string_view arithmetic, bool exact, DType dtype) {
  if (arithmetic == "auto" || arithmetic == "w4a8") return ExpertPath::kW4A8;
  if (arithmetic != "w4a16") {
    return invalid_argument(
        str_cat("arithmetic=\"", arithmetic, "\": expected one of auto, w4a8, w4a16"));
  }
  if (exact) {
    return invalid_argument(
        "arithmetic=\"w4a16\" does not give the bits of the CPU; allow that with exact=False");
  }
  if (!is_quantized(dtype)) {
    return invalid_argument(str_cat("arithmetic=\"w4a16\": the experts of this pack are ",
                                    dtype_name(dtype), ", which have one path; use \"auto\""));
  }
  return ExpertPath::kW4A16;
}

}  // namespace adapmoe
