// SPDX-License-Identifier: Apache-2.0
// What a program of this folder does around its work.
#pragma once
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "runtime/base/status.h"

namespace adapmoe {

// The exit code of `run`, which is given the arguments; with --help alone prints `usage` instead.
template <typename Run>
int run_program(const char* name, const char* usage, int argc, char** argv, const Run& run) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    if (arguments != std::vector<std::string>{"--help"}) return run(arguments);
    std::fputs(usage, stdout);
    return 0;
  } catch (const std::exception& error) {  // out of memory
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

// The exit code for work that ended so; says why it failed.
inline int exit_code(const char* name, const Status& status) {
  if (!status.ok()) std::fprintf(stderr, "%s: %s\n", name, status.message().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace adapmoe
