// SPDX-License-Identifier: Apache-2.0
// adapmoe_stress --pack DIR [--backend NAME] [--seed N] [--seconds N]: residency, readers, the
// thread pool and whole sessions at random until the time is up. One line of counts; the first
// violation ends it, exit status 1. Round i draws from seed + i, so a violation's seed repeats its
// round.
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tests/stress/stress.h"

namespace adapmoe::stress {
namespace {

struct Options {
  std::string pack;
  std::string backend = "cpu";  // of the sessions
  uint64_t seed = 1;
  int64_t seconds = 20;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--pack") {
      options.pack = argv[i + 1];
    } else if (name == "--backend") {
      options.backend = argv[i + 1];
    } else if (name == "--seed") {
      options.seed = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--seconds") {
      options.seconds = std::strtoll(argv[i + 1], nullptr, 10);
    } else {
      return false;
    }
  }
  return argc % 2 == 1 && !options.pack.empty();
}

int run(const Options& options) {
  Counts counts;
  Round first(options.seed, &counts);
  const auto pack = Pack::open(options.pack, /*direct_io=*/true);
  first.expect(pack.ok(), pack.status().message());
  const File& file = pack.value().expert_file();
  std::vector<std::byte> truth(static_cast<size_t>(file.size()));
  {  // the header is no whole number of pages
    const auto buffered = File::open(file.path(), /*direct=*/false);
    first.expect(buffered.ok() && buffered.value().read_at(0, truth).ok(), "the pack is readable");
  }
  const std::vector<Script> scripts = make_scripts(options.pack, first);

  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options.seconds);
  while (std::chrono::steady_clock::now() < end) {
    Round round(options.seed + static_cast<uint64_t>(counts.rounds), &counts);
    for (int i = 0; i < 4; ++i) residency_round(pack.value(), truth, round);
    thread_pool_round(round);
    session_round(options.pack, options.backend, scripts, round);
    ++counts.rounds;
  }
  std::printf("adapmoe_stress: seed %" PRIu64 ": %" PRId64 " rounds, %" PRId64 " layers, %" PRId64
              " tiles checked, %" PRId64 " faults, %" PRId64 " cancelled, %" PRId64
              " resizes, %" PRId64 " pool jobs, %" PRId64 " session steps: no violation\n",
              options.seed, counts.rounds, counts.layers, counts.tiles, counts.faults,
              counts.cancelled, counts.resizes, counts.pool_jobs, counts.session_steps);
  return 0;
}

}  // namespace
}  // namespace adapmoe::stress

int main(int argc, char** argv) {
  adapmoe::stress::Options options;
  if (!adapmoe::stress::parse(argc, argv, options)) {
    std::fprintf(stderr,
                 "usage: adapmoe_stress --pack DIR [--backend NAME] [--seed N] [--seconds N]\n");
    return 2;
  }
  return adapmoe::stress::run(options);
}
