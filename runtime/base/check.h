// SPDX-License-Identifier: Apache-2.0
// A broken invariant is a bug: say where and stop. Never used on user input.
#pragma once
#include <cstdio>
#include <cstdlib>

#define ADAPMOE_CHECK(condition)                                                           \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "adapmoe: bug at %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (false)
