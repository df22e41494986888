// SPDX-License-Identifier: Apache-2.0
// Every operator of a backend on inputs that are the same on every machine, in all the shapes for
// which a backend may have kernels of their own.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/backend/backend.h"
#include "runtime/memory/arena.h"
#include "runtime/tools/kernel_inputs.h"

namespace adapmoe {

// A backend with memory of its own, as a session gives it, and inputs drawn into it.
class OperatorBench {
 public:
  static constexpr int64_t kBytes = int64_t{32} << 20;  // for what a case draws

  // Errors: the backend's own.
  static Result<OperatorBench> make(const std::string& backend, const BackendShape& shape);

  Backend& backend() { return *backend_; }
  const BackendShape& shape() const { return shape_; }
  Random& random() { return random_; }

  template <typename T>
  std::span<T> take(int64_t count) {
    const std::span<std::byte> bytes = arena_.carve(count * static_cast<int64_t>(sizeof(T)));
    return {reinterpret_cast<T*>(bytes.data()), static_cast<size_t>(count)};
  }
  // Values around 1; the padding is zero.
  Rows rows(int64_t count, int64_t width);
  // Any weights, with scales below 2^-5.
  Matrix matrix(const PackedShape& shape);
  std::span<std::byte> tile();  // of an expert

  // Waits for the backend, then adds to the result. Errors of the device are kept: see status().
  void keep(std::span<const std::byte> bytes);
  void keep(Rows rows);
  const Status& status() const { return status_; }
  std::vector<std::byte> take_result() { return std::move(result_); }

 private:
  OperatorBench(const BackendShape& shape, Arena arena, std::unique_ptr<Backend> backend)
      : shape_(shape), arena_(std::move(arena)), backend_(std::move(backend)) {}
  void fill(const PackedShape& shape, std::span<std::byte> data);

  BackendShape shape_;
  Arena arena_;
  std::unique_ptr<Backend> backend_;  // uses the arena until its end
  Random random_{1};
  Status status_;
  std::vector<std::byte> result_;
};

struct OperatorCase {
  std::string name;
  BackendShape shape;
  void (*run)(OperatorBench& bench);
};

std::vector<OperatorCase> operator_cases();

}  // namespace adapmoe
