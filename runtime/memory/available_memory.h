// SPDX-License-Identifier: Apache-2.0
// How much memory this process may still take.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace adapmoe {

// A limit of a control group that this process is in, or of one of that group's parents.
struct MemoryLimit {
  std::string file;   // where it stands
  int64_t bytes = 0;  // v1 writes "none" as a number larger than any memory
  int64_t room = 0;   // what may still be taken below it: what can be given back counts as free
};

// All limits that can be seen, cgroup v1 and v2: memory.max, memory.high, memory.limit_in_bytes and
// memory.memsw.limit_in_bytes; where parents are hidden (v1), also what memory.stat says of them.
// `root` is "" or a tree that holds proc and sys, for tests.
std::vector<MemoryLimit> memory_limits(const std::string& root);

// Bytes this process may still take: the least of MemAvailable and of every limit's room. Swap does
// not count.
int64_t available_memory(const std::string& root);

}  // namespace adapmoe
