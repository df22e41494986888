// SPDX-License-Identifier: Apache-2.0
// adapmoe-tokens: a greedy token stream and the digest of its logits, to compare with another
// machine's.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/engine/session.h"
#include "runtime/tools/program.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-tokens PACK ID... [-n N] [--backend NAME] [--kernels NAME] [--threads N]\n"
    "                      [--memory BYTES] [--kv f16|f32] [--sequences N] [--gating T]\n"
    "                      [--warm yes] [--memory-later BYTES] [--prefetch N]\n"
    "                      [--experts NAME] [--exact yes|no] [--logits FILE]\n"
    "\n"
    "Feeds the token ids to the model in PACK and decodes N tokens greedily.\n"
    "Prints the decoded ids, the CRC32C of all logits, the prompt's included, how often the\n"
    "CPU waited for the GPU in each decode step and whether that was repeated from a CUDA graph,\n"
    "and what it took.\n"
    "\n"
    "  -n N            tokens to decode (default 16)\n"
    "  --backend NAME  auto, cpu or cuda (default auto)\n"
    "  --experts NAME  auto, w4a8, or w4a16 or tensorrt (GPU only, not exact; default auto)\n"
    "  --exact yes|no  only what gives the bits of the CPU (default yes)\n"
    "  --kernels NAME  instruction set of the CPU kernels (default auto)\n"
    "  --threads N     compute threads (default: one per core)\n"
    "  --kv TYPE       of the KV cache: f16 or f32 (default f16)\n"
    "  --memory BYTES  memory ceiling (default: 80 % of what is available)\n"
    "  --sequences N   decoded together; each lacks the first id of the one before\n"
    "  --gating T      gating=\"sensitivity\" with this threshold and sensitivity 1\n"
    "  --warm yes      read every expert first\n"
    "  --memory-later BYTES  the ceiling during the second third of the tokens\n"
    "  --logits FILE   also write all logits there: float32 [tokens, vocab_size]\n"
    "  --prefetch N    layers to look ahead and read for, 0 to 3 (default 1)\n"
    "\n"
    "Exit status: 0 done, 1 the model cannot run, 2 wrong usage.\n";

struct Options {
  std::string pack;
  std::vector<int32_t> ids;
  int64_t tokens = 16;
  std::optional<float> threshold;  // of gating="sensitivity"; empty: off
  bool warm = false;
  int64_t memory_later = 0;  // 0: the ceiling stays
  std::string logits;        // file; empty: none
  SessionConfig config;
};

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

Status set_option(std::string_view name, const std::string& value, Options& options) {
  const std::pair<std::string_view, std::string*> texts[] = {
      {"--kernels", &options.config.kernels},
      {"--backend", &options.config.backend},
      {"--experts", &options.config.arithmetic},
      {"--logits", &options.logits}};
  for (const auto& [option, text] : texts) {
    if (name != option) continue;
    *text = value;
    return {};
  }
  if (name == "--exact") {
    if (value != "yes" && value != "no") return invalid_argument("--exact takes yes or no");
    options.config.exact = value == "yes";
    return {};
  }
  if (name == "--kv") {
    if (value != "f16" && value != "f32") return invalid_argument("--kv takes f16 or f32");
    options.config.kv_f16 = value == "f16";
    return {};
  }
  if (name == "--gating") {
    options.threshold = parse_number<float>(value);
    return options.threshold ? Status() : invalid_argument("--gating takes a number");
  }
  if (name == "--warm") {
    options.warm = value == "yes";
    return options.warm ? Status() : invalid_argument("--warm takes yes");
  }
  const auto number = parse_number<int64_t>(value);
  if (!number) return invalid_argument(str_cat(name, " takes a number, not \"", value, '"'));
  const bool small = name == "--threads" || name == "--prefetch";
  const int64_t largest = small ? 1024 : int64_t{1} << 62;
  if (*number > largest) return invalid_argument(str_cat(name, " is at most ", largest));
  if (name == "-n") options.tokens = *number;
  if (name == "--memory") options.config.memory = *number;
  if (name == "--memory-later") options.memory_later = *number;
  if (name == "--sequences") options.config.max_sequences = *number;
  if (name == "--threads") options.config.threads = static_cast<int>(*number);
  if (name == "--prefetch") options.config.prefetch = static_cast<int>(*number);
  return {};
}

Result<Options> parse(const std::vector<std::string>& arguments) {
  constexpr std::string_view kNames[] = {"-n",       "--backend",      "--kernels",  "--threads",
                                         "--memory", "--kv",           "--gating",   "--sequences",
                                         "--warm",   "--memory-later", "--prefetch", "--experts",
                                         "--exact",  "--logits"};
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (std::find(std::begin(kNames), std::end(kNames), argument) != std::end(kNames)) {
      if (i + 1 == arguments.size()) return invalid_argument(argument + " needs a value");
      ADAPMOE_RETURN_IF_ERROR(set_option(argument, arguments[++i], options));
    } else if (argument.starts_with('-')) {
      return invalid_argument("unknown option " + argument);
    } else if (options.pack.empty()) {
      options.pack = argument;
    } else if (const auto id = parse_number<int32_t>(argument)) {
      options.ids.push_back(*id);
    } else {
      return invalid_argument(str_cat("\"", argument, "\" is not a token id"));
    }
  }
  if (options.ids.empty()) return invalid_argument("a pack and at least one token id are needed");
  if (static_cast<int64_t>(options.ids.size()) < options.config.max_sequences) {
    return invalid_argument("--sequences: as many token ids are needed");
  }
  options.config.max_context = static_cast<int64_t>(options.ids.size()) + options.tokens;
  return options;
}

// Takes the logits as they come: their CRC32C, and a file where one is wanted.
class LogitSink {
 public:
  explicit LogitSink(const std::string& path) {
    if (!path.empty()) file_.open(path, std::ios::binary);
    ok_ = path.empty() || file_.is_open();
  }

  void add(const std::vector<float>& logits) {
    const size_t bytes = logits.size() * sizeof(float);
    digest_ = crc32c(logits.data(), bytes, digest_);
    if (file_.is_open()) {
      file_.write(reinterpret_cast<const char*>(logits.data()),
                  static_cast<std::streamsize>(bytes));
    }
  }
  uint32_t digest() const { return digest_; }
  // Whether everything was written.
  bool close() {
    if (!file_.is_open()) return ok_;
    file_.close();
    return ok_ && !file_.fail();
  }

 private:
  std::ofstream file_;
  bool ok_ = false;
  uint32_t digest_ = 0;
};

// Of this program since it began; 0 where the system does not say.
int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int64_t kib = 0;
  while (status >> word) {
    if (word == "VmHWM:" && status >> kib) break;
  }
  return kib * 1024;
}

// Reads every expert before the first step, so that which of them are found resident is not a
// matter of time.
Status warm_all(Session& session) {
  std::vector<ExpertId> all;
  for (int32_t layer = 0; layer < session.model().num_hidden_layers; ++layer) {
    for (int32_t e = 0; e < session.model().num_local_experts; ++e) all.push_back({layer, e});
  }
  if (session.warm(all) < static_cast<int64_t>(all.size())) {
    return budget_error("--warm: the memory does not hold every expert");
  }
  while (session.resident_set().size() < all.size()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return {};
}

// Sequences that are decoded together. The ids of each are those of the one before without the
// first, so that no two are of the same length.
class Batch {
 public:
  // All logits go to `sink`.
  Batch(Session& session, int64_t sequences, LogitSink& sink)
      : session_(session), count_(sequences), sink_(sink) {}

  Status prefill(std::vector<int32_t> ids) {
    const auto vocab = static_cast<size_t>(session_.model().vocab_size);
    for (int64_t i = 0; i < count_; ++i) {
      auto made = session_.new_sequence();
      if (!made.ok()) return made.status();
      sequences_.push_back(made.value());
      std::vector<float> logits(ids.size() * vocab);
      const StepItem item{&sequences_.back(), ids, LogitsOf::kAll};
      const auto done = session_.step(std::span(&item, 1), logits, Interrupt());
      if (!done.ok()) return done.status();
      sink_.add(logits);
      last_.insert(last_.end(), logits.end() - static_cast<ptrdiff_t>(vocab), logits.end());
      ids.erase(ids.begin());
    }
    return {};
  }

  // The most likely token of every sequence.
  Result<StepStats> decode(std::vector<int32_t>& tokens) {
    const auto vocab = static_cast<ptrdiff_t>(session_.model().vocab_size);
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count_; ++i) {
      const auto first = last_.begin() + static_cast<ptrdiff_t>(i) * vocab;
      ids.push_back(static_cast<int32_t>(std::max_element(first, first + vocab) - first));
    }
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    std::vector<StepItem> items;
    items.reserve(sequences_.size());
    for (size_t i = 0; i < sequences_.size(); ++i) {
      items.push_back({&sequences_[i], std::span(ids).subspan(i, 1)});
    }
    auto done = session_.step(items, last_, Interrupt());
    sink_.add(last_);
    if (!done.ok()) return done.status();
    return done.value()[0];
  }

 private:
  Session& session_;
  int64_t count_;
  LogitSink& sink_;
  std::vector<Sequence> sequences_;
  std::vector<float> last_;  // [sequences][vocab_size]
};

void print_line(const char* name, const std::vector<int32_t>& numbers) {
  std::fputs(name, stdout);
  for (const int32_t n : numbers) std::printf(" %d", n);
  std::putchar('\n');
}

void print_totals(Session& session) {
  const StepStats s = session.totals();
  const std::pair<const char*, int64_t> counts[] = {
      {"bytes_read", s.bytes_read},  // by the steps; not what arrived between them
      {"resident", static_cast<int64_t>(session.resident_set().size())},
      {"experts_used", s.experts_used},
      {"expert_hits", s.expert_hits},
      {"experts_activated", s.experts_activated},
      {"gated", s.gated},
      {"on_cpu", s.experts_on_cpu},
      {"prefetched", s.prefetched},
      {"floor_bytes", session.memory_split().floor_bytes},
      {"peak_rss_bytes", peak_rss_bytes()}};
  for (const auto& [name, count] : counts) {
    std::printf("%s %lld\n", name, static_cast<long long>(count));
  }
  std::printf("dropped_share_sq %a\n", s.dropped_share_sq);
  uint32_t trace = 0;
  for (const TraceVisit& visit : session.trace()) {
    trace = crc32c(&visit.pass, sizeof(visit.pass), trace);
    trace = crc32c(&visit.layer, sizeof(visit.layer), trace);
    trace = crc32c(visit.experts.data(), visit.experts.size() * sizeof(int32_t), trace);
  }
  std::printf("trace %08x\n", trace);
  for (const std::string& note : session.notes()) std::printf("note %s\n", note.c_str());
}

Status run(const Options& options) {
  auto opened = Session::open(options.pack, options.config);
  if (!opened.ok()) return opened.status();
  Session& session = *opened.value();
  for (const std::string& note : session.notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
  session.record_trace(true);
  if (options.threshold) {
    const auto layers = static_cast<size_t>(session.model().num_hidden_layers);
    ADAPMOE_RETURN_IF_ERROR(session.set_gating(
        {GatingMode::kSensitivity, *options.threshold, std::vector<float>(layers, 1.0F)}));
  }
  if (options.warm) ADAPMOE_RETURN_IF_ERROR(warm_all(session));
  LogitSink sink(options.logits);
  Batch batch(session, options.config.max_sequences, sink);
  ADAPMOE_RETURN_IF_ERROR(batch.prefill(options.ids));

  std::vector<int32_t> tokens;
  std::vector<int32_t> waits;
  std::vector<int32_t> replays;
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (i == options.tokens / 3 && options.memory_later > 0) {
      auto split = session.set_memory(options.memory_later);
      if (!split.ok()) return split.status();
    }
    if (i == 2 * options.tokens / 3 && options.memory_later > 0) {
      auto split = session.set_memory(options.config.memory);
      if (!split.ok()) return split.status();
      if (options.warm) ADAPMOE_RETURN_IF_ERROR(warm_all(session));
    }
    const auto step = batch.decode(tokens);
    if (!step.ok()) return step.status();
    waits.push_back(static_cast<int32_t>(step.value().device_waits));
    replays.push_back(static_cast<int32_t>(step.value().device_replays));
    seconds.push_back(step.value().wall_s);
  }
  std::printf("backend %s\n", session.backend().c_str());
  print_line("tokens", tokens);
  std::printf("logits %08x\n", sink.digest());
  print_line("waits", waits);
  print_line("replays", replays);
  if (!seconds.empty()) {
    const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    std::printf("decode_median_s %.6g\n", *middle);
  }
  print_totals(session);
  if (!sink.close()) return read_error(options.logits + ": cannot be written");
  return {};
}

int run_with(const std::vector<std::string>& arguments) {
  const auto options = parse(arguments);
  if (!options.ok()) {
    std::fprintf(stderr, "adapmoe-tokens: %s\n%s", options.status().message().c_str(), kUsage);
    return 2;
  }
  const Status status = run(options.value());
  return exit_code("adapmoe-tokens", status);
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) {
  return adapmoe::run_program("adapmoe-tokens", adapmoe::kUsage, argc, argv, adapmoe::run_with);
}
