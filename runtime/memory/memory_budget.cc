// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/memory_budget.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "runtime/base/packed_layout.h"  // kPageBytes
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? std::optional<int64_t>(value) : std::nullopt;  // "max" is not a number
}

// `field` of a "name value" file such as memory.stat.
int64_t read_field(const std::string& path, const std::string& field) {
  std::ifstream in(path);
  std::string name;
  int64_t value = 0;
  while (in >> name >> value) {
    if (name == field) return value;
  }
  return 0;
}

int64_t mem_available(const std::string& proc) {
  std::ifstream in(proc + "/meminfo");
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    std::string name;
    int64_t kib = 0;
    if (fields >> name >> kib && name == "MemAvailable:") return kib * 1024;
  }
  return kUnlimited;
}

// Room of one cgroup directory: limit minus usage, page cache that can be dropped not counted as
// usage.
int64_t room_of(const std::string& dir, const char* limit_file, const char* usage_file,
                const char* cache_field) {
  const auto limit = read_number(dir + "/" + limit_file);
  const auto usage = read_number(dir + "/" + usage_file);
  if (!limit || !usage) return kUnlimited;
  const int64_t cache = read_field(dir + "/memory.stat", cache_field);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, *usage - cache));
}

// The smallest room from `path` up to the hierarchy's root: a parent's limit binds too.
int64_t room_up_to_root(const std::string& mount, std::string path, const char* limit_file,
                        const char* usage_file, const char* cache_field) {
  int64_t room = kUnlimited;
  while (true) {
    room = std::min(room, room_of(mount + path, limit_file, usage_file, cache_field));
    const size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return room;
    path.erase(slash);
  }
}

int64_t cgroup_room(const std::string& proc, const std::string& cgroup) {
  std::ifstream in(proc + "/self/cgroup");
  std::string line;
  int64_t room = kUnlimited;
  while (std::getline(in, line)) {  // "ID:controllers:/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) {
      room = std::min(
          room, room_up_to_root(cgroup, path, "memory.max", "memory.current", "inactive_file"));
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      room = std::min(room, room_up_to_root(cgroup + "/memory", path, "memory.limit_in_bytes",
                                            "memory.usage_in_bytes", "total_inactive_file"));
    }
  }
  return room;
}

int64_t fixed_bytes(const MemoryNeeds& n) {
  return align_up(n.dense_bytes, kPageBytes) + align_up(n.kv_bytes, kPageBytes) +
         align_up(n.scratch_bytes, kPageBytes);
}

// top_k experts and one staging tile, but never more than all experts.
int64_t floor_frames(const MemoryNeeds& n) {
  return std::min(n.top_k * n.tiles_per_expert + 1, n.num_experts * n.tiles_per_expert);
}

}  // namespace

int64_t available_memory(const std::string& proc, const std::string& cgroup) {
  return std::min(mem_available(proc), cgroup_room(proc, cgroup));
}

Result<MemorySplit> split_memory(const MemoryNeeds& n, int64_t memory_bytes) {
  MemorySplit split;
  split.memory_bytes = memory_bytes;
  split.dense_bytes = align_up(n.dense_bytes, kPageBytes);
  split.kv_bytes = align_up(n.kv_bytes, kPageBytes);
  split.scratch_bytes = align_up(n.scratch_bytes, kPageBytes);
  split.tile_bytes = n.tile_bytes;
  split.frames_total = n.num_experts * n.tiles_per_expert;
  split.floor_bytes = fixed_bytes(n) + floor_frames(n) * n.tile_bytes;
  split.cycle_bytes = n.num_layers * n.top_k * n.tiles_per_expert * n.tile_bytes;
  if (memory_bytes < split.floor_bytes) {
    return budget_error(
        str_cat("memory of ", format_bytes(memory_bytes), " is below the floor: at least ",
                format_bytes(split.floor_bytes), " needed = dense ",
                format_bytes(split.dense_bytes), " + KV ", format_bytes(split.kv_bytes),
                " + scratch ", format_bytes(split.scratch_bytes), " + ", n.top_k,
                " experts and one staging tile ", format_bytes(floor_frames(n) * n.tile_bytes),
                "; raise memory, or lower max_context, max_sequences or prefill_chunk"));
  }
  split.frames = std::min((memory_bytes - fixed_bytes(n)) / n.tile_bytes, split.frames_total);
  split.expert_bytes = split.frames * n.tile_bytes;
  return split;
}

int64_t memory_for_fraction(const MemoryNeeds& n, double fraction) {
  const double total = static_cast<double>(n.num_experts * n.tiles_per_expert);
  const int64_t frames = std::max<int64_t>(std::llround(total * fraction), floor_frames(n));
  return fixed_bytes(n) + frames * n.tile_bytes;
}

}  // namespace adapmoe
