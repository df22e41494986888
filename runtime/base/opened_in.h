// SPDX-License-Identifier: Apache-2.0
// Remembers the process in which something was opened. A fork has a copy of its memory, but none of
// its threads: locks that they held stay locked, and what they were to do is never done.
#pragma once
#include <sys/types.h>

#include <cstdint>

namespace adapmoe {

class OpenedIn {
 public:
  OpenedIn();  // this process

  // False in every fork of that process.
  bool here() const;
  pid_t process() const { return process_; }

 private:
  pid_t process_;
  uint64_t forks_;  // process ids are used again, and repeat in containers
};

}  // namespace adapmoe
