// SPDX-License-Identifier: Apache-2.0
// adapmoe-expert: what one expert of a pack computes.
#include <charconv>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/strings.h"
#include "runtime/engine/backend_shape.h"
#include "runtime/engine/expert_bench.h"
#include "runtime/tools/program.h"

namespace adapmoe {
namespace {

constexpr char kUsage[] =
    "usage: adapmoe-expert PACK LAYER EXPERT BACKEND PATH <INPUT >OUTPUT\n"
    "\n"
    "Runs one expert of PACK on BACKEND: cpu or cuda. PATH: w4a8, or w4a16 (GPU only), which does\n"
    "not give the CPU's bits. INPUT and OUTPUT: float32 rows of hidden_size values.\n"
    "\n"
    "Exit status: 0 done, 1 it cannot run, 2 wrong usage.\n";

std::optional<int32_t> parse_index(std::string_view text) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::vector<float> read_floats(std::FILE* file) {
  std::vector<float> values;
  float chunk[4096];
  while (const size_t n = std::fread(chunk, sizeof(float), std::size(chunk), file)) {
    values.insert(values.end(), chunk, chunk + n);
  }
  return values;
}

Status run(const Pack& pack, ExpertId id, const std::string& backend, const std::string& path) {
  const ModelConfig& c = pack.config();
  if (id.layer >= c.num_hidden_layers || id.expert >= c.num_local_experts) {
    return invalid_argument(str_cat("the model has ", c.num_hidden_layers, " layers of ",
                                    c.num_local_experts, " experts"));
  }
  const auto chosen = choose_expert_path(path, /*exact=*/path != "w4a16", pack.experts().dtype);
  if (!chosen.ok()) return chosen.status();
  const std::vector<float> x = read_floats(stdin);
  const auto width = static_cast<size_t>(c.hidden_size);
  if (x.empty() || x.size() % width != 0) {
    return invalid_argument(str_cat("the input has ", x.size(), " values, not rows of ", width));
  }
  const auto rows = static_cast<int64_t>(x.size() / width);
  auto made = ExpertBench::make(pack, {&id, 1}, rows, backend, chosen.value());
  if (!made.ok()) return made.status();
  ExpertBench& bench = made.value();
  for (int64_t i = 0; i < rows; ++i) {
    std::copy_n(x.data() + i * c.hidden_size, width, bench.input().row(i));
  }
  ADAPMOE_RETURN_IF_ERROR(bench.send_input());
  ADAPMOE_RETURN_IF_ERROR(bench.run(0, rows));
  for (int64_t i = 0; i < rows; ++i) {
    if (std::fwrite(bench.output().row(i), sizeof(float), width, stdout) != width) {
      return unavailable("the output cannot be written");
    }
  }
  return {};
}

int run_with(const std::vector<std::string>& arguments) {
  const auto layer = arguments.size() == 5 ? parse_index(arguments[1]) : std::nullopt;
  const auto expert = arguments.size() == 5 ? parse_index(arguments[2]) : std::nullopt;
  if (!layer || !expert) {
    std::fprintf(stderr, "adapmoe-expert: a pack, two numbers and two names are needed\n%s",
                 kUsage);
    return 2;
  }
  const auto pack = Pack::open(arguments[0], /*direct_io=*/true);
  const Status status =
      pack.ok() ? run(pack.value(), {*layer, *expert}, arguments[3], arguments[4]) : pack.status();
  return exit_code("adapmoe-expert", status);
}

}  // namespace
}  // namespace adapmoe

int main(int argc, char** argv) {
  return adapmoe::run_program("adapmoe-expert", adapmoe::kUsage, argc, argv, adapmoe::run_with);
}
