// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/usable_cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "runtime/base/cgroup.h"

namespace adapmoe {
namespace {

// v2: "QUOTA PERIOD" in one file, "max" for none. v1: a file each, -1 for none.
std::optional<double> quota_of(const CgroupDirectory& group) {
  double quota = 0.0;
  double period = 0.0;
  if (group.unified) {
    std::ifstream in(group.path + "/cpu.max");
    in >> quota >> period;
  } else {
    std::ifstream(group.path + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(group.path + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0.0 && period > 0.0 ? std::optional(quota / period) : std::nullopt;
}

}  // namespace

std::optional<double> cpu_quota(const std::string& root) {
  std::optional<double> least;
  for (const CgroupDirectory& group : cgroup_directories(root, "cpu")) {
    const std::optional<double> quota = quota_of(group);
    if (quota && (!least || *quota < *least)) least = quota;
  }
  return least;
}

int cpus_within(int cores, std::optional<double> quota) {
  if (!quota || *quota >= cores) return std::max(1, cores);
  return std::max(1, static_cast<int>(*quota));
}

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on a machine with more cores than `set` holds.
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0
                        ? CPU_COUNT(&set)
                        : static_cast<int>(std::thread::hardware_concurrency());
  return cpus_within(cores, cpu_quota(""));
}

}  // namespace adapmoe
