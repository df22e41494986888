// SPDX-License-Identifier: Apache-2.0
// The gate and the routing plan. A decision is the pair (experts, weights).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "runtime/gate/gate.h"
#include "runtime/model/expert_split.h"
#include "runtime/model/routing_plan.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using Decision = std::pair<std::vector<int32_t>, std::vector<float>>;

Decision to_pair(RoutingDecision decision) {
  return {std::move(decision.experts), std::move(decision.weights)};
}

RouterSpec spec_of(int32_t top_k, const std::string& score, bool renormalize, float scale) {
  return {score == "sigmoid" ? RouterScore::kSigmoid : RouterScore::kSoftmax, top_k, renormalize,
          scale};
}

nb::dict plan(const std::vector<Decision>& pairs, int64_t num_experts, int64_t top_k) {
  std::vector<RoutingDecision> decisions;
  for (const Decision& pair : pairs)
    decisions.push_back({.experts = pair.first, .weights = pair.second});
  const RoutingPlan p = plan_routing(decisions, num_experts, top_k);
  nb::dict out;
  out["experts"] = p.experts;
  out["rows"] = p.rows;
  out["first_output"] = p.first_output;
  out["outputs"] = p.outputs;
  out["weights"] = p.weights;
  out["activations"] = p.activations;
  std::vector<size_t> found;
  for (const int32_t expert : p.experts) found.push_back(p.find(expert));
  out["found"] = found;
  return out;
}

}  // namespace

void export_gate(nb::module_& m) {
  m.def(
      "select_top_k",
      [](const std::vector<float>& logits, int32_t top_k, const std::string& score,
         bool renormalize, float scale) {
        return to_pair(select_top_k(logits, spec_of(top_k, score, renormalize, scale)));
      },
      nb::arg("logits"), nb::arg("top_k"), nb::arg("score") = "softmax",
      nb::arg("renormalize") = true, nb::arg("scale") = 1.0F);
  m.def("drop_insensitive",
        [](const Decision& decision, bool renormalize, float sensitivity, float threshold) {
          return to_pair(drop_insensitive({.experts = decision.first, .weights = decision.second},
                                          renormalize, sensitivity, threshold));
        });
  m.def(
      "route",
      [](const std::vector<float>& logits, int64_t layer, int32_t top_k, bool gated,
         float threshold, const std::vector<float>& sensitivity) {
        const GatingConfig gating{gated ? GatingMode::kSensitivity : GatingMode::kOff, threshold,
                                  sensitivity};
        return to_pair(
            route(logits, layer, spec_of(top_k, "softmax", true, 1.0F), gating, ResidencyView()));
      },
      nb::arg("logits"), nb::arg("layer"), nb::arg("top_k"), nb::arg("gated"), nb::arg("threshold"),
      nb::arg("sensitivity"));
  m.def("plan_routing", &plan);
  m.def("cpu_is_sooner", [](double cpu, double gpu, int64_t busy, int64_t tiles) {
    return cpu_is_sooner({.cpu = cpu, .gpu = gpu}, busy, tiles);
  });
}

}  // namespace adapmoe
