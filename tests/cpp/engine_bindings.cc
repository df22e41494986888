// SPDX-License-Identifier: Apache-2.0
// What TensorRT engines need around them: plans and their hashes, memory, staged reads.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/backend/tensorrt/engine_memory.h"
#include "runtime/base/packed_layout.h"
#include "runtime/base/sha256.h"
#include "runtime/io/file_record_reader.h"
#include "runtime/store/pack.h"
#include "runtime/store/plan_checker.h"
#include "tests/cpp/status_error.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

std::span<const std::byte> bytes_of(const nb::bytes& data) {
  return {static_cast<const std::byte*>(data.data()), data.size()};
}

// EngineMemory over addresses that nobody follows; tells offsets.
class MemoryRig {
 public:
  explicit MemoryRig(size_t bytes) { reset(bytes); }
  void reset(size_t bytes) { memory_.reset({begin(), bytes}); }
  std::optional<uint64_t> allocate(uint64_t bytes, uint64_t alignment) {
    void* at = allocator_.allocate(allocator_.context, bytes, alignment);
    if (at == nullptr) return std::nullopt;
    return static_cast<uint64_t>(static_cast<std::byte*>(at) - begin());
  }
  void release(uint64_t offset) { allocator_.release(allocator_.context, begin() + offset); }
  int64_t wanted() const { return memory_.wanted(); }

 private:
  static std::byte* begin() { return reinterpret_cast<std::byte*>(uintptr_t{1} << 20); }
  tensorrt::EngineMemory memory_;
  TrtAllocator allocator_ = memory_.allocator();
};

// The plans of a pack, and a checker of them.
class StoreRig {
 public:
  StoreRig(const std::string& pack, const EngineDevice& device, bool always)
      : store_(value_or_throw(EngineStore::open(
            pack, value_or_throw(Pack::open(pack, false)).config(), device, /*direct_io=*/false))),
        checker_(store_, always) {}

  void check(size_t expert, const nb::bytes& plan) {
    const Status status = checker_.check(expert, bytes_of(plan));
    if (!status.ok()) throw StatusError(status);
  }
  nb::bytes read_largest() const {
    const std::vector<std::byte> plan = value_or_throw(store_.read_largest());
    return nb::bytes(plan.data(), plan.size());
  }

 private:
  EngineStore store_;
  PlanChecker checker_;
};

struct RecordFiles {
  std::vector<File> files;
  std::vector<std::vector<std::byte>> records;
  std::vector<std::string> errors;  // empty where there is none
  std::mutex mutex;
  std::condition_variable changed;
  size_t done = 0;
};

FileRecords records_of(RecordFiles& s) {
  return {.file = [&s](uint64_t tag) -> const File& { return s.files[tag]; },
          .place = [](uint64_t /*tag*/, std::span<const std::byte> record,
                      std::span<std::byte> into) -> Status {
            if (record.front() == std::byte{'!'}) return engine_error("refused");
            std::copy(record.begin(), record.end(), into.begin());
            return {};
          }};
}

// What a staged reader makes of whole files: (bytes, error) of each. A file that begins with "!" is
// refused when it is placed.
std::vector<std::pair<nb::bytes, std::string>> read_file_records(
    const std::vector<std::string>& paths, const std::string& kind, int places) {
  RecordFiles s;
  size_t largest = 0;
  for (const std::string& path : paths) {
    s.files.push_back(value_or_throw(File::open(path, /*direct=*/true)));
    const auto size = static_cast<size_t>(s.files.back().size());
    s.records.emplace_back(size);
    largest = std::max(largest, size);
  }
  s.errors.resize(paths.size());
  const size_t part = static_cast<size_t>(align_up(static_cast<int64_t>(largest), kPageBytes));
  const std::unique_ptr<std::byte[], void (*)(void*)> staging(
      static_cast<std::byte*>(std::aligned_alloc(kPageBytes, part * static_cast<size_t>(places))),
      std::free);
  auto inner = value_or_throw(make_reader(kind, s.files[0], {.depth = places}));
  auto reader = make_file_record_reader(std::move(inner.reader),
                                        {staging.get(), part * static_cast<size_t>(places)}, places,
                                        records_of(s));
  reader->set_completion(
      [&s](uint64_t tag, const Status& status, std::span<const std::byte> /*read*/) {
        const std::lock_guard lock(s.mutex);
        s.errors[tag] = status.message();
        ++s.done;
        s.changed.notify_all();
      });
  {
    const nb::gil_scoped_release release;
    for (size_t i = 0; i < paths.size(); ++i) {
      reader->submit({.into = s.records[i],
                      .priority = i % 2 == 0 ? ReadPriority::kDemand : ReadPriority::kPrefetch,
                      .tag = i});
    }
    std::unique_lock lock(s.mutex);
    s.changed.wait(lock, [&] { return s.done == paths.size(); });
  }
  reader.reset();
  std::vector<std::pair<nb::bytes, std::string>> found;
  for (size_t i = 0; i < paths.size(); ++i) {
    found.emplace_back(nb::bytes(s.records[i].data(), s.records[i].size()), s.errors[i]);
  }
  return found;
}

}  // namespace

void export_engines(nb::module_& m) {
  m.def("sha256", [](const nb::bytes& data) { return to_hex(sha256(bytes_of(data))); });
  m.def("sha256_portable",
        [](const nb::bytes& data) { return to_hex(sha256_portable(bytes_of(data))); });
  m.def("read_file_records", &read_file_records);
  nb::class_<StoreRig>(m, "EngineStore")
      .def(
          "__init__",
          [](StoreRig* self, const std::string& pack, const std::string& target,
             const std::string& name, int64_t multiprocessors,
             bool always) { new (self) StoreRig(pack, {target, name, multiprocessors}, always); },
          nb::arg("pack"), nb::arg("target"), nb::arg("name") = "emulated",
          nb::arg("multiprocessors") = 1, nb::arg("always") = true)
      .def("check", &StoreRig::check)
      .def("read_largest", &StoreRig::read_largest);
  nb::class_<MemoryRig>(m, "EngineMemory")
      .def(nb::init<size_t>())
      .def("allocate", &MemoryRig::allocate)
      .def("release", &MemoryRig::release)
      .def("reset", &MemoryRig::reset)
      .def_prop_ro("wanted", &MemoryRig::wanted);
}

}  // namespace adapmoe
