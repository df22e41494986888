// SPDX-License-Identifier: Apache-2.0
// How many cores this process may use.
#pragma once
#include <optional>
#include <string>

namespace adapmoe {

// Its affinity mask, and no more than the CPU time that its cgroups allow; at least 1.
int usable_cpus();

// Cores' worth of time that the cgroups of this process and their parents allow, the least of them
// (v1 cpu.cfs_quota_us, v2 cpu.max); empty where there is no limit. `root`: see cgroup_directories.
std::optional<double> cpu_quota(const std::string& root);

// `cores`, or fewer where `quota` allows less, rounded down: a thread more than the quota pays for
// is stopped in every period while the others wait for it.
int cpus_within(int cores, std::optional<double> quota);

}  // namespace adapmoe
