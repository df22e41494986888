// SPDX-License-Identifier: Apache-2.0
// Where the control groups of this process can be read, versions 1 and 2.
#pragma once
#include <string>
#include <vector>

namespace adapmoe {

struct CgroupDirectory {
  std::string path;
  bool unified = true;  // version 2
  bool topmost = true;  // its parents, if it has any, cannot be seen from here
};

// The groups of this process in each hierarchy that has `controller` ("memory", "cpu"), each
// followed by its parents: their limits bind too. Directories may lack the controller's files, or
// not exist. `root` is "" or a tree that holds proc and sys, for tests.
std::vector<CgroupDirectory> cgroup_directories(const std::string& root,
                                                const std::string& controller);

}  // namespace adapmoe
