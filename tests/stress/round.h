// SPDX-License-Identifier: Apache-2.0
// One round: its own random numbers, and expectations whose failure names the round's seed.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

namespace adapmoe::stress {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  // In [low, high]. The standard library's distributions differ between implementations.
  template <typename T>
  T between(T low, T high) {
    return static_cast<T>(low + static_cast<T>(engine_() % static_cast<uint64_t>(high - low + 1)));
  }
  bool chance(double probability) {
    return static_cast<double>(engine_() >> 11) * 0x1p-53 < probability;
  }
  uint64_t seed() { return engine_(); }

 private:
  std::mt19937_64 engine_;
};

// What all rounds together did.
struct Counts {
  int64_t rounds = 0;
  int64_t layers = 0;
  int64_t tiles = 0;
  int64_t faults = 0;
  int64_t cancelled = 0;
  int64_t resizes = 0;
  int64_t pool_jobs = 0;
  int64_t session_steps = 0;
};

class Round {
 public:
  Round(uint64_t seed, Counts* counts) : seed_(seed), random_(seed), counts_(counts) {}

  // Both for the thread that runs the round.
  Random& random() { return random_; }
  Counts& counts() { return *counts_; }

  // Any thread. Ends the process at once: other threads may still be running.
  void expect(bool condition, const std::string& what) const {
    if (condition) return;
    std::fprintf(stderr, "adapmoe_stress: violated: %s; again with --seed %llu\n", what.c_str(),
                 static_cast<unsigned long long>(seed_));
    std::_Exit(1);
  }

 private:
  uint64_t seed_;
  Random random_;
  Counts* counts_;
};

}  // namespace adapmoe::stress
