// SPDX-License-Identifier: Apache-2.0
// Watches every memory access of the emulated kernels, and ends the process with one line on stderr
// where a GPU's threads, which run at once, could disagree: where two threads of a block touch the
// same byte with no barrier between and one writes, where two blocks of a launch do, and where
// shared memory is read that its block has not written.
//
// The .cu files are compiled with -fsanitize=thread for this. Its calls before each access end up
// here: nothing links against ThreadSanitizer. Watching takes time, and 16 bytes for each byte that
// a launch touches; ADAPMOE_EMULATED_RACES=unwatched in the environment turns it off.
#pragma once
#include <cstddef>

// Whose accesses come next: thread `thread` of block `block`, whose locals are on `stack`.
struct RaceThread {
  unsigned block = 0;
  unsigned thread = 0;
  const char* stack = nullptr;
  size_t stack_bytes = 0;
};
extern RaceThread race_thread;

// What the emulation itself reads or writes for that thread.
void race_read(const void* at, size_t bytes);
void race_write(const void* at, size_t bytes);

// Blocks run one after another. What earlier launches did cannot race with this one.
void race_begin_launch();
void race_begin_block();
void race_pass_barrier();
void race_end_launch();
