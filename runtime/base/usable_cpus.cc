// SPDX-License-Identifier: Apache-2.0
#include "runtime/base/usable_cpus.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace adapmoe {
namespace {

// v2: "QUOTA PERIOD" in one file, "max" for none. v1: a file each, -1 for none.
std::optional<double> quota_of(const std::string& dir, bool unified) {
  double quota = 0.0;
  double period = 0.0;
  if (unified) {
    std::ifstream in(dir + "/cpu.max");
    in >> quota >> period;
  } else {
    std::ifstream(dir + "/cpu.cfs_quota_us") >> quota;
    std::ifstream(dir + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0.0 && period > 0.0 ? std::optional(quota / period) : std::nullopt;
}

void take_less(std::optional<double>& least, std::optional<double> other) {
  if (other && (!least || *other < *least)) least = other;
}

}  // namespace

std::optional<double> cpu_quota(const std::string& proc, const std::string& cgroup) {
  std::ifstream in(proc + "/self/cgroup");
  std::string line;
  std::optional<double> least;
  while (std::getline(in, line)) {  // "ID:controllers:/path"
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool unified = controllers.empty();
    if (!unified && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string mount = unified ? cgroup : cgroup + "/cpu";
    std::string path = line.substr(second + 1);
    while (true) {  // up to the root of the hierarchy: a parent's limit binds too
      take_less(least, quota_of(mount + path, unified));
      const size_t slash = path.rfind('/');
      if (slash == std::string::npos) break;
      path.erase(slash);
    }
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
  return cpus_within(cores, cpu_quota("/proc", "/sys/fs/cgroup"));
}

}  // namespace adapmoe
