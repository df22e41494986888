// SPDX-License-Identifier: Apache-2.0
// Copies to shared memory that a thread queues and waits for. They are done as late as a GPU may do
// them, when their thread waits. Until then the place holds bytes that mean nothing, written when
// the copy is queued, as early as a GPU may write there.
#pragma once
#include <cstddef>

void __pipeline_memcpy_async(void* to, const void* from, size_t bytes);
void __pipeline_commit();
void __pipeline_wait_prior(size_t prior);
