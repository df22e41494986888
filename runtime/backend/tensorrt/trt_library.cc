// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/tensorrt/trt_library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <sstream>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr int kMajors[] = {ADAPMOE_TRT_MAJORS};  // that this build has an adapter for

}  // namespace

std::vector<int> tensorrt_majors() { return {std::begin(kMajors), std::end(kMajors)}; }

namespace tensorrt {
namespace {

std::vector<int> numbers_of(const std::string& version) {
  std::vector<int> numbers;
  std::istringstream text(version);
  int number = 0;
  while (text >> number) {
    numbers.push_back(number);
    if (text.get() != '.') break;
  }
  return numbers;
}

// The folder of the program or module that this code is part of.
std::string own_folder() {
  static const int here = 0;
  Dl_info info{};
  if (dladdr(&here, &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::string loader_error() {
  const char* text = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc keeps it per thread
  return text == nullptr ? "unknown reason" : text;
}

Result<const TrtAdapter*> load(int major, const PlanOrigin& origin) {
  const std::string name = str_cat("libnvinfer.so.", major);
  void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return unavailable(
        str_cat("arithmetic=\"tensorrt\": ", origin.built_by, ", but TensorRT ", major,
                " is not here: ", loader_error(),
                "; install that version, or name its folder in LD_LIBRARY_PATH; or, with the one "
                "that is installed: ",
                origin.rebuild));
  }
  const std::string path = str_cat(own_folder(), "/libadapmoe_trt", major, ".so");
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return unavailable(str_cat("arithmetic=\"tensorrt\": the adapter cannot be loaded: ",
                               loader_error(), "; install adapmoe again"));
  }
  const auto get = reinterpret_cast<TrtGetAdapter>(dlsym(handle, kTrtGetAdapter));
  const TrtAdapter* adapter = get == nullptr ? nullptr : get();
  if (adapter == nullptr || adapter->abi != kTrtAbi || adapter->major != major) {
    return unavailable(str_cat("arithmetic=\"tensorrt\": ", path,
                               ": not the adapter of this build; install adapmoe again"));
  }
  if (adapter->open(library) == 0) {
    return unavailable(str_cat("arithmetic=\"tensorrt\": ", name, ": ", adapter->last_error()));
  }
  return adapter;
}

// Loads each adapter once: its open() is called once.
Result<const TrtAdapter*> load_once(int major, const PlanOrigin& origin) {
  static std::mutex mutex;
  static std::map<int, const TrtAdapter*> loaded;
  const std::lock_guard lock(mutex);
  if (const auto found = loaded.find(major); found != loaded.end()) return found->second;
  auto adapter = load(major, origin);
  if (adapter.ok()) loaded[major] = adapter.value();
  return adapter;
}

}  // namespace

bool same_version(const std::string& built, const std::string& found) {
  constexpr size_t kLeast = 3;
  const std::vector<int> a = numbers_of(built);
  const std::vector<int> b = numbers_of(found);
  const size_t count = std::min(a.size(), b.size());
  return count >= kLeast &&
         std::equal(a.begin(), a.begin() + static_cast<ptrdiff_t>(count), b.begin());
}

Result<const TrtAdapter*> load_adapter(const PlanOrigin& origin) {
  const std::vector<int> built = numbers_of(origin.version);
  const int major = built.empty() ? 0 : built[0];
  const std::vector<int> majors = tensorrt_majors();
  if (std::find(majors.begin(), majors.end(), major) == majors.end()) {
    std::string have;
    for (const int m : majors) have += str_cat(have.empty() ? "" : ", ", m);
    return unavailable(
        str_cat("arithmetic=\"tensorrt\": ", origin.built_by,
                ", but this build of adapmoe has adapters for TensorRT ", have,
                " only; build it with the headers of that version, or: ", origin.rebuild));
  }
  auto adapter = load_once(major, origin);
  if (!adapter.ok()) return adapter.status();
  if (!same_version(origin.version, adapter.value()->version())) {
    return unavailable(str_cat(
        "arithmetic=\"tensorrt\": ", origin.built_by, ", but here is TensorRT ",
        adapter.value()->version(),
        ", and a plan is only read by the version that built it; rebuild: ", origin.rebuild));
  }
  return adapter;
}

}  // namespace tensorrt
}  // namespace adapmoe
