// SPDX-License-Identifier: Apache-2.0
// adapmoe-gpu-bench: one figure of the GPU, for benchmarks/gpu_speed.py.
#include <charconv>
#include <cstdio>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/backend/device_bench.h"
#include "runtime/base/strings.h"
#include "runtime/engine/backend_shape.h"
#include "runtime/engine/expert_bench.h"
#include "runtime/tools/program.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-gpu-bench bandwidth MEMORY BYTES\n"
    "       adapmoe-gpu-bench product TYPE OUTPUTS INPUTS GROUP ROWS PATH READS MEMORY BYTES\n"
    "       adapmoe-gpu-bench expert PACK BACKEND PATH\n"
    "\n"
    "bandwidth: at which BYTES are read by a kernel that does nothing else.\n"
    "product: the seconds of a packed matrix OUTPUTS x INPUTS times ROWS rows, BYTES of such\n"
    "matrices being read in turn, and the CRC32C of the result.\n"
    "expert: the seconds of one expert of PACK for one row; PATH may be tensorrt too.\n"
    "\n"
    "  MEMORY   device, or mapped: the host's, registered with CUDA\n"
    "  TYPE     int4 or int8      PATH  w4a8 or w4a16\n"
    "  READS    by-rows, again or once: how weights are read for several rows\n"
    "\n"
    "Exit status: 0 done, 1 it cannot run here, 2 wrong usage.\n";

using Arguments = std::vector<std::string>;

std::optional<int64_t> parse_count(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && value > 0 && value <= int64_t{1} << 40 ? std::optional(value) : std::nullopt;
}

template <size_t N>
std::optional<size_t> parse_name(std::string_view text, const std::string_view (&names)[N]) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == text) return i;
  }
  return std::nullopt;
}

constexpr std::string_view kMemories[] = {"device", "mapped"};       // BenchMemory
constexpr std::string_view kReads[] = {"by-rows", "again", "once"};  // WeightReads
constexpr std::string_view kPaths[] = {"w4a8", "w4a16"};             // ExpertPath

Status print_device() {
  const auto device = bench_device();
  if (!device.ok()) return device.status();
  std::printf("backend %s\nintegrated %d\n", device.value().name.c_str(),
              device.value().integrated ? 1 : 0);
  return {};
}

// Nothing where the usage is wrong.
std::optional<Status> bandwidth(const Arguments& a) {
  if (a.size() != 3) return std::nullopt;
  const auto memory = parse_name(a[1], kMemories);
  const auto bytes = parse_count(a[2]);
  if (!memory || !bytes) return std::nullopt;
  ADAPMOE_RETURN_IF_ERROR(print_device());
  const auto speed = read_bandwidth(static_cast<BenchMemory>(*memory), align_up(*bytes, 64));
  if (!speed.ok()) return speed.status();
  std::printf("bytes_per_second %.6g\n", speed.value());
  return Status();
}

std::optional<Status> product(const Arguments& a) {
  if (a.size() != 10) return std::nullopt;
  const auto type = parse_dtype(a[1]);
  const auto path = parse_name(a[6], kPaths);
  const auto reads = parse_name(a[7], kReads);
  const auto memory = parse_name(a[8], kMemories);
  std::vector<int64_t> counts;
  for (const size_t i : {2U, 3U, 4U, 5U, 9U}) {
    const auto count = parse_count(a[i]);
    if (!count) return std::nullopt;
    counts.push_back(*count);
  }
  const bool group_fits = counts[2] == 32 || counts[2] == 64 || counts[2] == 128;
  if (!type || !is_quantized(*type) || !path || !reads || !memory || !group_fits) {
    return std::nullopt;
  }
  const ProductBench bench{.weights = {*type, counts[0], counts[1], counts[2]},
                           .rows = counts[3],
                           .w4a16 = *path == 1,
                           .reads = static_cast<WeightReads>(*reads),
                           .memory = static_cast<BenchMemory>(*memory),
                           .total_bytes = counts[4]};
  ADAPMOE_RETURN_IF_ERROR(print_device());
  const auto time = time_product(bench);
  if (!time.ok()) return time.status();
  std::printf("weight_bytes %lld\nseconds %.6g\ncrc32c %08x\n",
              static_cast<long long>(bench.weights.bytes()), time.value().seconds,
              time.value().crc32c);
  return Status();
}

std::optional<Status> expert(const Arguments& a) {
  if (a.size() != 4) return std::nullopt;
  const auto seconds = time_expert(a[1], a[2], a[3]);
  if (!seconds.ok()) return seconds.status();
  std::printf("seconds %.6g\n", seconds.value());
  return Status();
}

int run_with(const Arguments& arguments) {
  const std::string what = arguments.empty() ? "" : arguments[0];
  std::optional<Status> status;
  if (what == "bandwidth") status = bandwidth(arguments);
  if (what == "product") status = product(arguments);
  if (what == "expert") status = expert(arguments);
  if (!status) {
    std::fprintf(stderr, "adapmoe-gpu-bench: wrong arguments\n%s", kUsage);
    return 2;
  }
  return exit_code("adapmoe-gpu-bench", *status);
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) {
  return adapmoe::run_program("adapmoe-gpu-bench", adapmoe::kUsage, argc, argv, adapmoe::run_with);
}
