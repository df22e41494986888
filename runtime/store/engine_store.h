// SPDX-License-Identifier: Apache-2.0
// The TensorRT plans of a pack's experts for one device: engines/TAG/engines.json, validated, and
// the files that it lists (export/FORMAT.md, "Sidecars for TensorRT"). Immutable and thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/base/engine_device.h"
#include "runtime/base/model_config.h"
#include "runtime/base/sha256.h"
#include "runtime/base/status.h"
#include "runtime/io/file.h"

namespace adapmoe {

class EngineStore {
 public:
  // The plans that the library "tensorrt" built for `device`. Refuses a list of another pack or
  // format, one that leaves an expert out, plans built for or on another device, and a file whose
  // size is not the recorded one. `pack_dir` is a pack that was opened. Every plan stays open, and
  // the process's limit on open files is raised where that takes much of it. Errors: kEngineError
  // naming the file, what is there and the command that builds what is missing.
  static Result<EngineStore> open(const std::string& pack_dir, const ModelConfig& config,
                                  const EngineDevice& device, bool direct_io);

  const std::string& version() const { return version_; }  // of the TensorRT that built them
  std::string built_by() const;                            // for messages
  const std::string& rebuild() const { return rebuild_; }  // the command that builds them again

  // Experts are numbered layer by layer.
  const File& file(size_t expert) const { return plans_[expert].file; }
  int64_t largest_bytes() const { return plans_[largest_].file.size(); }
  // A plan, checked. Errors: kEngineError, kReadError.
  Result<std::vector<std::byte>> read(size_t expert) const;
  Result<std::vector<std::byte>> read_largest() const { return read(largest_); }
  // Whether `plan` is what was built. Errors: kEngineError.
  Status check(size_t expert, std::span<const std::byte> plan) const;
  // An error about a plan whose bytes are right.
  Status refused(size_t expert, const std::string& reason) const;

 private:
  struct Plan {
    File file;
    std::string sha256;  // 64 hexadecimal digits
  };
  struct Record;
  using Records = std::map<std::pair<int64_t, int64_t>, Record>;  // by layer and expert

  EngineStore() = default;
  Status open_plans(const std::string& folder, const Records& records, bool direct_io);
  Status open_plan(const std::string& path, const Record& record, bool direct_io);
  Status check_origin(const std::string& path, const Record& record) const;
  Status unopened(const std::string& path, const Status& reason) const;

  std::string path_;  // of engines.json
  std::string version_;
  EngineDevice device_;
  std::string rebuild_;
  std::vector<Plan> plans_;
  size_t largest_ = 0;
};

}  // namespace adapmoe
