// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <thread>

#include "runtime/backend/cpu/thread_pool.h"
#include "tests/stress/stress.h"

namespace adapmoe::stress {

void thread_pool_round(Round& round) {
  Random& random = round.random();
  const int threads = random.between(1, 5);
  ThreadPool pool(threads);
  const int jobs = random.between(1, 60);
  for (int job = 0; job < jobs; ++job) {
    const auto items = random.between<int64_t>(0, random.chance(0.1) ? 5000 : 60);
    const auto grain = random.between<int64_t>(1, 20);
    std::vector<int> computed(static_cast<size_t>(items), 0);  // plain: a race on it is a finding
    pool.run(items, grain, [&](int64_t begin, int64_t end, int thread) {
      round.expect(0 <= thread && thread < threads, "a worker has a number in [0, threads)");
      for (int64_t i = begin; i < end; ++i) ++computed[static_cast<size_t>(i)];
    });
    for (const int times : computed) round.expect(times == 1, "every item is computed once");
    ++round.counts().pool_jobs;
    // Long enough for the workers to fall asleep now and then.
    if (random.chance(0.1)) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

}  // namespace adapmoe::stress
