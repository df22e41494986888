// SPDX-License-Identifier: Apache-2.0
// adapmoe-tokens: a greedy token stream and the digest of its logits, to compare with another
// machine's.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <exception>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/crc32c.h"
#include "runtime/base/strings.h"
#include "runtime/engine/session.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-tokens PACK ID... [-n N] [--backend NAME] [--kernels NAME] [--threads N]\n"
    "                      [--memory BYTES] [--kv f16|f32] [--prefetch N]\n"
    "                      [--experts NAME] [--exact yes|no] [--logits FILE]\n"
    "\n"
    "Feeds the token ids to the model in PACK and decodes N tokens greedily.\n"
    "Prints the decoded ids, the CRC32C of all logits, the prompt's included, and what it took.\n"
    "\n"
    "  -n N            tokens to decode (default 16)\n"
    "  --backend NAME  auto, cpu or cuda (default auto)\n"
    "  --experts NAME  auto, w4a8, or w4a16 or tensorrt (GPU only, not exact; default auto)\n"
    "  --exact yes|no  only what gives the bits of the CPU (default yes)\n"
    "  --kernels NAME  instruction set of the CPU kernels (default auto)\n"
    "  --threads N     compute threads (default: one per core)\n"
    "  --kv TYPE       of the KV cache: f16 or f32 (default f16)\n"
    "  --memory BYTES  memory ceiling (default: 80 % of what is available)\n"
    "  --logits FILE   also write all logits there: float32 [tokens, vocab_size]\n"
    "  --prefetch N    layers to look ahead and read for, 0 to 3 (default 1)\n"
    "\n"
    "Exit status: 0 done, 1 the model cannot run, 2 wrong usage.\n";

struct Options {
  std::string pack;
  std::vector<int32_t> ids;
  int64_t tokens = 16;
  std::string logits;  // file; empty: none
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
  const std::pair<std::string_view, std::string*> texts[] = {{"--kernels", &options.config.kernels},
                                                             {"--backend", &options.config.backend},
                                                             {"--experts", &options.config.experts},
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
  const auto number = parse_number<int64_t>(value);
  if (!number) return invalid_argument(str_cat(name, " takes a number, not \"", value, '"'));
  const bool small = name == "--threads" || name == "--prefetch";
  const int64_t largest = small ? 1024 : int64_t{1} << 62;
  if (*number > largest) return invalid_argument(str_cat(name, " is at most ", largest));
  if (name == "-n") options.tokens = *number;
  if (name == "--memory") options.config.memory_bytes = *number;
  if (name == "--threads") options.config.threads = static_cast<int>(*number);
  if (name == "--prefetch") options.config.prefetch_depth = static_cast<int>(*number);
  return {};
}

Result<Options> parse(const std::vector<std::string>& arguments) {
  constexpr std::string_view kNames[] = {"-n",       "--backend", "--kernels",  "--threads",
                                         "--memory", "--kv",      "--prefetch", "--experts",
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

Status run(const Options& options) {
  auto opened = Session::open(options.pack, options.config);
  if (!opened.ok()) return opened.status();
  Session& session = *opened.value();
  for (const std::string& note : session.notes()) std::fprintf(stderr, "note: %s\n", note.c_str());
  auto sequence = session.new_sequence();
  if (!sequence.ok()) return sequence.status();

  const auto vocab = static_cast<size_t>(session.model().vocab_size);
  std::vector<float> logits(options.ids.size() * vocab);
  const auto prefilled =
      session.prefill(sequence.value(), options.ids, /*all_logits=*/true, logits, Interrupt());
  if (!prefilled.ok()) return prefilled.status();
  LogitSink sink(options.logits);
  sink.add(logits);
  logits.erase(logits.begin(), logits.end() - static_cast<ptrdiff_t>(vocab));

  std::printf("backend %s\ntokens", session.backend().c_str());
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.tokens; ++i) {
    const auto best = std::max_element(logits.begin(), logits.end());
    const auto id = static_cast<int32_t>(best - logits.begin());
    std::printf(" %d", id);
    Sequence* const sequences[] = {&sequence.value()};
    const auto decoded = session.decode(sequences, {&id, 1}, logits, Interrupt());
    if (!decoded.ok()) return decoded.status();
    sink.add(logits);
    seconds.push_back(decoded.value().wall_s);
  }
  std::printf("\nlogits %08x\n", sink.digest());
  if (!seconds.empty()) {
    const auto middle = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    std::printf("decode_median_s %.6g\n", *middle);
  }
  const StepStats stats = session.totals();
  const std::pair<const char*, int64_t> counts[] = {
      {"bytes_read", stats.bytes_read},
      {"experts_used", stats.experts_used},
      {"expert_hits", stats.expert_hits},
      {"prefetched", stats.prefetched},
      {"floor_bytes", session.memory_split().floor_bytes},
      {"peak_rss_bytes", peak_rss_bytes()}};
  for (const auto& [name, count] : counts) {
    std::printf("%s %lld\n", name, static_cast<long long>(count));
  }
  if (!sink.close()) return read_error(options.logits + ": cannot be written");
  return {};
}

int run_program(const std::vector<std::string>& arguments) {
  if (arguments == std::vector<std::string>{"--help"}) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  const auto options = parse(arguments);
  if (!options.ok()) {
    std::fprintf(stderr, "adapmoe-tokens: %s\n%s", options.status().message().c_str(), kUsage);
    return 2;
  }
  const Status status = run(options.value());
  if (!status.ok()) std::fprintf(stderr, "adapmoe-tokens: %s\n", status.message().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) {
  try {
    return adapmoe::run_program(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::exception& error) {  // out of memory
    std::fprintf(stderr, "adapmoe-tokens: %s\n", error.what());
    return 1;
  }
}
