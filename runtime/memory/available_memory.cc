// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/available_memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "runtime/base/cgroup.h"

namespace adapmoe {
namespace {

constexpr int64_t kMost = INT64_MAX / 4;  // so that sums of a few numbers do not overflow

// Negative numbers, "max", and what does not fit into 64 bits are no number.
std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value && value >= 0 ? std::optional<int64_t>(value) : std::nullopt;
}

// A memory.stat: lines of "name value".
class Stat {
 public:
  explicit Stat(const std::string& path) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
      std::istringstream words(line);
      std::string name;
      int64_t value = 0;
      if (words >> name >> value && value >= 0) values_[name] = value;
    }
  }

  std::optional<int64_t> find(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::nullopt : std::optional<int64_t>(found->second);
  }

  // 0 where it is absent; at most `most`.
  int64_t get(const std::string& name, int64_t most) const {
    return std::min(find(name).value_or(0), most);
  }

 private:
  std::map<std::string, int64_t> values_;
};

// What the kernel gives back by itself when a group reaches its limit. Only pages on the two lists
// of files count: tmpfs and shared memory are on those of anonymous memory, mlocked pages on
// neither. Both lists count: files that were read twice are on the active one, and the kernel takes
// from it what it does not find on the other. Pages not yet written to disk cannot be dropped yet.
int64_t reclaimable(const Stat& stat, bool unified, int64_t usage) {
  const std::string prefix = unified ? "" : "total_";  // v1: with the groups below
  const std::string dirty = unified ? "file_" : "total_";
  const int64_t files =
      stat.get(prefix + "active_file", usage) + stat.get(prefix + "inactive_file", usage);
  const int64_t unwritten = stat.get(dirty + "dirty", usage) + stat.get(dirty + "writeback", usage);
  // Some of the kernel's own caches is in use; v1 does not tell their size.
  const int64_t slab = unified ? stat.get("slab_reclaimable", usage) / 2 : 0;
  return std::min(std::max<int64_t>(files - unwritten, 0) + slab, usage);
}

void add_limits(const CgroupDirectory& group, std::vector<MemoryLimit>* found) {
  const std::string at = group.path + "/";
  const Stat stat(at + "memory.stat");
  const auto add = [&](const std::string& file, std::optional<int64_t> limit,
                       const char* usage_file) {
    if (!limit) return;
    const int64_t usage = std::min(read_number(at + usage_file).value_or(0), kMost);
    const int64_t kept = usage - reclaimable(stat, group.unified, usage);
    found->push_back(
        {.file = at + file, .bytes = *limit, .room = std::max<int64_t>(*limit - kept, 0)});
  };
  if (group.unified) {
    // Above memory.high nothing is killed, but every allocation waits for the kernel to reclaim.
    for (const char* file : {"memory.max", "memory.high"}) {
      add(file, read_number(at + file), "memory.current");
    }
    return;
  }
  const char* usage = "memory.usage_in_bytes";
  const char* with_swap = "memory.memsw.usage_in_bytes";
  add("memory.limit_in_bytes", read_number(at + "memory.limit_in_bytes"), usage);
  add("memory.memsw.limit_in_bytes", read_number(at + "memory.memsw.limit_in_bytes"), with_swap);
  if (group.topmost) {  // the least limit of parents that a container does not show
    add("memory.stat", stat.find("hierarchical_memory_limit"), usage);
    add("memory.stat", stat.find("hierarchical_memsw_limit"), with_swap);
  }
}

int64_t mem_available(const std::string& root) {
  std::ifstream in(root + "/proc/meminfo");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string name;
    int64_t kib = 0;
    if (fields >> name >> kib && name == "MemAvailable:" && kib >= 0) {
      return std::min(kib, INT64_MAX / 1024) * 1024;
    }
  }
  return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);  // no /proc: what is free
}

}  // namespace

std::vector<MemoryLimit> memory_limits(const std::string& root) {
  std::vector<MemoryLimit> found;
  for (const CgroupDirectory& group : cgroup_directories(root, "memory")) {
    add_limits(group, &found);
  }
  return found;
}

int64_t available_memory(const std::string& root) {
  int64_t least = mem_available(root);
  for (const MemoryLimit& limit : memory_limits(root)) least = std::min(least, limit.room);
  return least;
}

}  // namespace adapmoe
