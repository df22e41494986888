// SPDX-License-Identifier: Apache-2.0
// A reader of files, with delays, failures and damaged bytes put between it and its user.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>

#include "runtime/io/async_reader.h"
#include "tests/stress/round.h"

namespace adapmoe::stress {

// Probabilities, per read.
struct Faults {
  double slow = 0.0;    // up to 40 ms: longer than the cache waits between two interrupt checks
  double fail = 0.0;    // kReadError
  double damage = 0.0;  // one bit of the tile flipped
};

class FaultyReader final : public AsyncReader {
 public:
  // The file outlives the reader.
  FaultyReader(const File& file, const std::string& reader, const ReaderOptions& options,
               const Faults& faults, uint64_t seed);

  void set_completion(Completion completion) override;
  void submit(const ReadRequest& request) override;
  bool cancel(uint64_t tag) override;
  bool promote(uint64_t tag) override { return reader_->promote(tag); }
  void forget(std::span<std::byte> frame) override { reader_->forget(frame); }
  Registration registration() const override { return reader_->registration(); }

  // No read fails or is damaged from now on, those under way included; delays stay.
  void calm();

  struct Totals {
    int64_t submitted = 0;
    int64_t succeeded = 0;  // as far as the reader's user was told
    int64_t faults = 0;
  };
  Totals totals() const;

 private:
  struct Plan {
    std::span<std::byte> into;
    std::chrono::microseconds delay{0};
    bool fail = false;
    bool damage = false;
  };

  void finish(uint64_t tag, const Status& read);

  mutable std::mutex mutex_;
  std::condition_variable delivered_;
  Random random_;
  Faults faults_;
  std::unordered_map<uint64_t, Plan> plans_;  // of the reads under way
  int delivering_ = 0;                        // faults decided, not yet reported
  Totals totals_;
  Completion completion_;
  std::unique_ptr<AsyncReader> reader_;  // last member: destroyed first
};

}  // namespace adapmoe::stress
