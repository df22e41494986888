// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/engine/session.h"
#include "tests/stress/stress.h"

namespace adapmoe::stress {
namespace {

constexpr size_t kScripts = 3;
constexpr size_t kSequences = 2;  // of each thread
constexpr size_t kTokens = 10;
constexpr int64_t kMaxContext = 32;

std::unique_ptr<Session> open_session(const std::string& pack_dir, SessionConfig config,
                                      const Round& round) {
  config.max_context = kMaxContext;
  config.max_sequences = (kSequences + 1) * kScripts;  // one of them may be forked
  config.prefill_chunk = 4;
  auto session = Session::open(pack_dir, std::move(config));
  round.expect(session.ok(), session.status().message());
  return std::move(session).value();
}

int64_t everything(const MemorySplit& split) {
  return split.dense_bytes + split.kv_bytes + split.scratch_bytes +
         split.frames_total * split.tile_bytes;
}

// Activations of the first tokens of a script.
Capture capture(Session& session, const Script& script, const Round& round) {
  Capture captured;
  auto sequence = session.new_sequence();
  round.expect(sequence.ok(), sequence.status().message());
  std::vector<float> logits(kCaptured * static_cast<size_t>(session.model().vocab_size));
  const auto step = session.capture(sequence.value(), std::span(script.ids).first(kCaptured),
                                    logits, &captured, Interrupt());
  round.expect(step.ok(), step.status().message());
  session.close_sequence(sequence.value());
  return captured;
}

void check_capture(Session& session, const Script& script, const Round& round) {
  const Capture captured = capture(session, script, round);
  const Capture& expected = script.captured;
  round.expect(captured.hidden == expected.hidden && captured.moe_input == expected.moe_input &&
                   captured.router_logits == expected.router_logits &&
                   captured.final_hidden == expected.final_hidden,
               "activations are those of a thread alone with every expert resident");
}

// One thread with its own sequences, which it steps alone or together.
class SessionUser {
 public:
  SessionUser(Session& session, const Script& script, const Round& round, uint64_t seed)
      : session_(session),
        script_(script),
        round_(round),
        random_(seed),
        vocab_(static_cast<size_t>(session.model().vocab_size)),
        logits_(kSequences * vocab_) {}

  void run() {
    for (Sequence& sequence : sequences_) sequence = made(session_.new_sequence());
    const auto turns = 2 * script_.ids.size();
    for (size_t turn = 0; turn < turns; ++turn) {
      for (Sequence& sequence : sequences_) {
        if (position(sequence) == script_.ids.size() || random_.chance(0.1)) truncate(sequence);
        if (random_.chance(0.1)) fork(sequence);
      }
      append(random_.between<size_t>(1, kSequences));
    }
    for (Sequence& sequence : sequences_) session_.close_sequence(sequence);
  }

  int64_t steps() const { return steps_; }
  int64_t cancelled() const { return cancelled_; }

 private:
  static size_t position(const Sequence& sequence) { return static_cast<size_t>(sequence.length); }

  Sequence made(Result<Sequence> sequence) const {
    round_.expect(sequence.ok(), sequence.status().message());
    return sequence.value();
  }

  void truncate(Sequence& sequence) {
    const auto length = random_.between<int64_t>(0, sequence.length / 2);
    round_.expect(session_.truncate(sequence, length).ok(), "a sequence can be truncated");
  }

  void fork(Sequence& sequence) {
    const auto length = random_.between<int64_t>(0, sequence.length);
    Sequence copy = made(session_.fork(sequence, length));
    session_.close_sequence(sequence);
    sequence = copy;
    if (position(sequence) == script_.ids.size()) truncate(sequence);
  }

  // One step of the first `count` sequences.
  void append(size_t count) {
    std::vector<StepItem> items;
    std::vector<size_t> before;
    items.reserve(count);
    before.reserve(count);
    for (Sequence& sequence : std::span(sequences_).first(count)) {
      before.push_back(position(sequence));
      const auto rest = std::span(script_.ids).subspan(before.back());
      items.push_back(
          {&sequence, rest.first(random_.between<size_t>(1, std::min<size_t>(rest.size(), 4)))});
    }
    bool stopped = false;
    const Interrupt interrupt = [&] { return stopped = random_.chance(0.02); };
    const auto step = session_.step(items, std::span(logits_).first(count * vocab_), interrupt);
    ++steps_;
    for (size_t i = 0; i < count; ++i) check(items[i], before[i], step.ok(), i);
    if (step.ok()) return;
    round_.expect(stopped && step.status().code() == StatusCode::kCancelled,
                  "only an interrupt ends a step, not: " + step.status().message());
    ++cancelled_;
  }

  void check(const StepItem& item, size_t before, bool appended, size_t row) const {
    if (!appended) {
      round_.expect(position(*item.sequence) == before,
                    "a cancelled step leaves the sequence as it was");
      return;
    }
    const size_t length = before + item.ids.size();
    round_.expect(position(*item.sequence) == length, "a step appends its tokens");
    round_.expect(std::ranges::equal(std::span(logits_).subspan(row * vocab_, vocab_),
                                     script_.logits[length - 1]),
                  "logits are those of a thread alone with every expert resident");
  }

  Session& session_;
  const Script& script_;
  const Round& round_;
  Random random_;
  size_t vocab_;
  std::vector<float> logits_;  // [kSequences][vocab_]
  std::array<Sequence, kSequences> sequences_;
  int64_t steps_ = 0;
  int64_t cancelled_ = 0;
};

// Moves the ceiling and reads facts until stopped.
int64_t move_memory(Session& session, const Round& round, uint64_t seed,
                    const std::atomic<bool>& stop) {
  Random random(seed);
  int64_t moves = 0;
  const MemorySplit first = session.memory_split();
  // What a GPU has reserved cannot grow.
  const int64_t most =
      session.config().backend == "cpu" ? everything(first) : first.reserved_bytes();
  while (!stop.load()) {
    const auto memory = random.between(first.floor_bytes, most);
    const auto split = session.set_memory(memory);
    round.expect(split.ok(), split.status().message());
    round.expect(split.value().reserved_bytes() <= memory, "the split stays below the ceiling");
    round.expect(session.memory_split().reserved_bytes() <= memory, "the split is what was set");
    const StepStats totals = session.totals();
    round.expect(totals.expert_hits <= totals.experts_used, "hits are visits");
    round.expect(!session.set_memory(first.floor_bytes - 1).ok(), "below the floor is refused");
    ++moves;
    std::this_thread::sleep_for(std::chrono::milliseconds(random.between(0, 20)));
  }
  return moves;
}

}  // namespace

std::vector<Script> make_scripts(const std::string& pack_dir, Round& round) {
  SessionConfig config;
  config.backend = "cpu";
  config.threads = 1;
  config.experts_resident = 1.0;
  const auto session = open_session(pack_dir, config, round);
  std::vector<Script> scripts(kScripts);
  for (Script& script : scripts) {
    Sequence sequence = session->new_sequence().value();
    for (size_t i = 0; i < kTokens; ++i) {
      const auto last_id = static_cast<int32_t>(session->model().vocab_size - 1);
      script.ids.push_back(round.random().between<int32_t>(0, last_id));
      script.logits.emplace_back(static_cast<size_t>(session->model().vocab_size));
      const StepItem item{&sequence, std::span(script.ids).last(1)};
      const auto step = session->step(std::span(&item, 1), script.logits.back(), Interrupt());
      round.expect(step.ok(), step.status().message());
    }
    session->close_sequence(sequence);
    script.captured = capture(*session, script, round);
  }
  return scripts;
}

void session_round(const std::string& pack_dir, const std::string& backend,
                   const std::vector<Script>& scripts, Round& round) {
  SessionConfig config;
  config.backend = backend;
  config.threads = round.random().between(1, 3);
  config.reader = round.random().chance(0.5) ? "auto" : "pread";
  config.read_depth = round.random().between(1, 4);
  config.experts_resident = round.random().chance(0.5) ? 0.5 : 0.05;
  config.policy = round.random().chance(0.5) ? "lru" : "next-use";
  const auto session = open_session(pack_dir, config, round);

  check_capture(*session, scripts[0], round);

  std::vector<SessionUser> users;
  for (const Script& script : scripts) {
    users.emplace_back(*session, script, round, round.random().seed());
  }
  std::atomic<bool> stop{false};
  const uint64_t seed = round.random().seed();
  int64_t moves = 0;
  std::jthread mover([&] { moves = move_memory(*session, round, seed, stop); });
  std::vector<std::jthread> threads;
  for (SessionUser& user : users) threads.emplace_back([&user] { user.run(); });
  threads.clear();  // joins
  stop.store(true);
  mover.join();
  round.counts().resizes += moves;
  for (const SessionUser& user : users) {
    round.counts().session_steps += user.steps();
    round.counts().cancelled += user.cancelled();
  }
}

}  // namespace adapmoe::stress
