// SPDX-License-Identifier: Apache-2.0
// An exported model on disk: validated manifest, open files, and where every
// expert tile lies. Immutable and thread-safe.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "runtime/base/interrupt.h"
#include "runtime/base/status.h"
#include "runtime/base/types.h"
#include "runtime/io/file.h"
#include "runtime/store/manifest.h"

namespace adapmoe {

class Pack {
 public:
  // Reads and checks `dir`/manifest.json, then that every file it lists is a
  // regular file of the size it says, and the headers of the two safetensors
  // files. Errors: kPackError naming the file and the remedy; kReadError.
  static Result<Pack> open(const std::string& dir, bool direct_io);

  const Manifest& manifest() const { return manifest_; }
  const ModelConfig& config() const { return manifest_.config; }
  const ExpertGeometry& experts() const { return manifest_.experts; }
  const File& expert_file() const { return expert_file_; }
  const File& dense_file() const { return dense_file_; }

  // Bytes of the data buffer of dense.safetensors, rounded up to a page.
  int64_t dense_bytes() const;
  // Takes a piece of that buffer, which begins at byte `at`, on to where it belongs.
  using DenseSink = std::function<Status(int64_t at, std::span<const std::byte> piece)>;
  // Reads that buffer into `into` (page-aligned, dense_bytes() long) or, with `sink`, piece by
  // piece through `into`, of any length. With `verify`, a tensor whose CRC32C is wrong is a
  // kPackError naming it. Errors: kReadError, kCancelled, those of the sink.
  Status read_dense(std::span<std::byte> into, bool verify, const Interrupt& interrupt,
                    const DenseSink& sink = nullptr) const;

  int64_t tile_offset(ExpertId id, int64_t tile) const {
    return manifest_.experts.data_offset + flat(id) * manifest_.experts.expert_bytes +
           tile * manifest_.experts.tile_bytes;
  }
  // Whether `data` is what was exported. Errors: kPackError naming the place.
  Status check_tile(ExpertId id, int64_t tile, std::span<const std::byte> data) const;

 private:
  Pack(Manifest manifest, File dense, File experts)
      : manifest_(std::move(manifest)),
        dense_file_(std::move(dense)),
        expert_file_(std::move(experts)) {}

  int64_t flat(ExpertId id) const { return id.layer * config().num_local_experts + id.expert; }

  Manifest manifest_;
  File dense_file_;
  File expert_file_;
};

// The text of `dir`/manifest.json. Errors: kPackError when `dir` is not a pack.
Result<std::string> read_manifest_text(const std::string& dir);

}  // namespace adapmoe
