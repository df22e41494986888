// SPDX-License-Identifier: Apache-2.0
// Eviction policies, and an ExpertCache over a pack with either a FakeReader or reader threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/io/staged_reader.h"
#include "runtime/memory/arena.h"
#include "runtime/residency/expert_stream.h"
#include "tests/cpp/arrays.h"
#include "tests/cpp/fake_reader.h"
#include "tests/cpp/status_error.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

using OptionalInterrupt = std::optional<Interrupt>;

// Candidates are (layer, expert, last_use, loaded_at, uses).
size_t choose(const std::string& policy, int64_t num_layers,
              const std::vector<std::tuple<int32_t, int32_t, uint64_t, uint64_t, uint64_t>>& all,
              int32_t layer, uint64_t now, uint64_t pass_start, const std::vector<int64_t>& floors,
              const std::vector<int64_t>& resident) {
  std::vector<EvictionCandidate> list;
  for (const auto& [l, e, use, loaded, uses] : all) list.push_back({{l, e}, use, loaded, uses, {}});
  return choose_victim(*value_or_throw(make_eviction_policy(policy, num_layers)), list,
                       {layer, now, pass_start, 1}, floors, resident);
}

UseRate rate_of(const std::vector<uint64_t>& passes) {
  UseRate rate;
  for (const uint64_t pass : passes) rate.use(pass);
  return rate;
}

double use_rate(const std::vector<uint64_t>& passes, uint64_t pass) {
  return rate_of(passes).at(pass);
}

// Candidates are (layer, passes that used it).
size_t choose_next_use(int64_t num_layers,
                       const std::vector<std::pair<int32_t, std::vector<uint64_t>>>& all,
                       int32_t layer, uint64_t pass) {
  std::vector<EvictionCandidate> list;
  for (const auto& [l, passes] : all) list.push_back({{l, 0}, 0, 0, 0, rate_of(passes)});
  return value_or_throw(make_eviction_policy("next-use", num_layers))
      ->choose(list, {layer, 0, 0, pass});
}

// Without a test's own interrupt, a wait of about ten seconds is an error: better than to hang.
Interrupt or_patience(const OptionalInterrupt& interrupt) {
  if (interrupt) return *interrupt;
  return [looks = 0]() mutable { return ++looks > 500; };
}

VerifyTiles verify_of(const std::string& name) {
  if (name == "never") return VerifyTiles::kNever;
  return name == "first" ? VerifyTiles::kFirst : VerifyTiles::kAlways;
}

// One hold; empty once released.
class Hold {
 public:
  Hold(ExpertHandle handle, size_t tile_bytes)
      : handle_(std::move(handle)), tile_bytes_(tile_bytes) {}

  NumpyVector<uint8_t> tile(int64_t index, const OptionalInterrupt& interrupt) const {
    const auto* data = reinterpret_cast<const uint8_t*>([&] {
      const nb::gil_scoped_release release;
      return value_or_throw(handle_->tile(index, or_patience(interrupt)));
    }());
    return to_numpy(std::vector<uint8_t>(data, data + tile_bytes_));
  }
  int32_t expert() const { return handle_->id().expert; }
  void release() { handle_.reset(); }

 private:
  std::optional<ExpertHandle> handle_;
  size_t tile_bytes_;
};

// One hold of all experts; empty once released.
class HoldOfAll {
 public:
  HoldOfAll(EveryExpert every, size_t tile_bytes)
      : every_(std::move(every)), tile_bytes_(tile_bytes) {}

  // `at` counts tiles over all layers and experts.
  NumpyVector<uint8_t> tile(size_t at) const {
    const auto* data = reinterpret_cast<const uint8_t*>(every_->tiles()[at]);
    return to_numpy(std::vector<uint8_t>(data, data + tile_bytes_));
  }
  size_t count() const { return every_->tiles().size(); }
  uint64_t placement() const { return every_->placement(); }
  void release() { every_.reset(); }

 private:
  std::optional<EveryExpert> every_;
  size_t tile_bytes_;
};

// An ExpertCache with everything that it stands on.
class CacheRig {
 public:
  CacheRig(const std::string& pack, int32_t frames, const std::string& policy,
           const std::string& verify, const std::string& reader, int readers, int64_t request_bytes,
           bool registered, int32_t capacity, bool evict_tiles, bool direct_io, int staging)
      : pack_(value_or_throw(Pack::open(pack, direct_io))),
        arena_(
            value_or_throw(Arena::reserve((std::max(frames, capacity) + staging) * tile_bytes()))),
        region_(arena_.carve(std::max(frames, capacity) * tile_bytes())) {
    std::unique_ptr<AsyncReader> made;
    if (reader == "fake") {
      auto fake = std::make_unique<FakeReader>(pack_.expert_file());
      fake_ = fake.get();
      made = std::move(fake);
    } else {
      ChosenReader chosen = value_or_throw(make_reader(reader, pack_.expert_file(),
                                                       {.depth = readers,
                                                        .request_bytes = request_bytes,
                                                        .frames = {region_, tile_bytes()},
                                                        .register_frames = registered}));
      reader_name_ = chosen.name;
      made = std::move(chosen.reader);
    }
    ExpertCacheConfig config{.verify = verify_of(verify), .evict_tiles = evict_tiles};
    if (staging > 0) {
      std::vector<std::span<std::byte>> places;
      for (int i = 0; i < staging; ++i) places.push_back(arena_.carve(tile_bytes()));
      made = std::make_unique<StagedReader>(std::move(made), places);
      config.land = [this](std::span<const std::byte> read, std::byte* frame) {
        if (refuse_landing_.load()) return unavailable("injected");
        std::memcpy(frame, read.data(), read.size());
        return Status();
      };
    }
    cache_ = std::make_unique<ExpertCache>(
        pack_, FramePool(region_, tile_bytes(), frames), std::move(made),
        value_or_throw(make_eviction_policy(policy, pack_.config().num_hidden_layers)),
        std::move(config));
  }

  bool resident(int32_t layer, int32_t expert) const { return cache_->resident({layer, expert}); }
  std::optional<Hold> acquire(int32_t layer, int32_t expert, const OptionalInterrupt& interrupt) {
    const nb::gil_scoped_release release;
    return to_hold(value_or_throw(cache_->acquire({layer, expert}, or_patience(interrupt))));
  }
  std::optional<HoldOfAll> hold_every() {
    auto every = cache_->hold_every();
    if (!every) return std::nullopt;
    return HoldOfAll(*std::move(every), static_cast<size_t>(tile_bytes()));
  }
  // The first `most` tiles; 0: all.
  bool hint(int32_t layer, int32_t expert, int32_t current, int64_t most) {
    return cache_->hint({layer, expert}, current, most > 0 ? most : cache_->tiles());
  }
  void cancel_hints(int32_t layer, const std::vector<int32_t>& but) {
    cache_->cancel_hints(layer, but);
  }
  bool warm(int32_t layer, int32_t expert) { return cache_->warm({layer, expert}); }
  void resize(int32_t frames) {
    const Status status = cache_->resize(frames, Interrupt());
    if (!status.ok()) throw StatusError(status);
  }
  std::optional<Hold> to_hold(std::optional<ExpertHandle> handle) const {
    if (!handle) return std::nullopt;
    return Hold(*std::move(handle), static_cast<size_t>(tile_bytes()));
  }
  // (layer, expert, tile, frame) of every read under way, in the order of submission. With staging
  // those handed on; frames are then places, numbered after the frames.
  std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>> queued() const {
    std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>> list;
    const int64_t experts = pack_.config().num_local_experts;
    const int64_t tiles = pack_.experts().tiles;
    for (const ReadRequest& r : fake_->queued()) {
      const int64_t at = (r.offset - pack_.experts().data_offset) / tile_bytes();
      list.emplace_back(at / tiles / experts, at / tiles % experts, at % tiles,
                        (r.into.data() - region_.data()) / tile_bytes());
    }
    return list;
  }
  const std::string& reader_name() const { return reader_name_; }
  FakeReader& reader() { return *fake_; }
  // With staging: whether tiles cannot be moved to their frames from now on.
  void refuse_landing(bool refuse) { refuse_landing_.store(refuse); }
  ExpertCache& cache() { return *cache_; }
  std::tuple<int64_t, int64_t, int64_t, int64_t> stats() const {
    const ResidencyStats s = cache_->stats();
    return {s.visits, s.hits, s.bytes_read, s.stall_ns};
  }

 private:
  int64_t tile_bytes() const { return pack_.experts().tile_bytes; }

  Pack pack_;
  Arena arena_;
  std::span<std::byte> region_;
  FakeReader* fake_ = nullptr;
  std::string reader_name_ = "fake";
  std::atomic<bool> refuse_landing_{false};
  std::unique_ptr<ExpertCache> cache_;
};

// The experts of one layer in the order in which a step computes them.
class StreamRig {
 public:
  StreamRig(CacheRig& rig, int32_t layer, const std::vector<int32_t>& experts)
      : rig_(rig),
        stream_(value_or_throw(ExpertStream::begin(rig.cache(), layer, experts, or_patience({})))) {
  }
  StreamRig(const StreamRig&) = delete;
  StreamRig& operator=(const StreamRig&) = delete;

  std::vector<int32_t> residents() const {
    std::vector<int32_t> experts;
    for (const ExpertHandle& handle : stream_.residents()) experts.push_back(handle.id().expert);
    return experts;
  }
  void release_residents() { stream_.release_residents(); }
  std::optional<Hold> next() { return rig_.to_hold(value_or_throw(stream_.next(or_patience({})))); }

 private:
  CacheRig& rig_;
  ExpertStream stream_;
};

}  // namespace

void export_residency(nb::module_& m) {
  nb::exception<StatusError>(m, "StatusError");
  m.def("choose_victim", &choose, nb::arg("policy"), nb::arg("num_layers"), nb::arg("candidates"),
        nb::arg("layer"), nb::arg("now") = uint64_t{0}, nb::arg("pass_start") = uint64_t{0},
        nb::arg("floors") = std::vector<int64_t>(), nb::arg("resident") = std::vector<int64_t>());
  m.def("use_rate", &use_rate, nb::arg("passes"), nb::arg("pass_"));
  m.def("choose_next_use", &choose_next_use, nb::arg("num_layers"), nb::arg("candidates"),
        nb::arg("layer"), nb::arg("pass_"));
  nb::class_<Hold>(m, "Hold")
      .def("tile", &Hold::tile, nb::arg("index"), nb::arg("interrupt") = nb::none())
      .def_prop_ro("expert", &Hold::expert)
      .def("release", &Hold::release);
  nb::class_<HoldOfAll>(m, "HoldOfAll")
      .def("tile", &HoldOfAll::tile)
      .def("__len__", &HoldOfAll::count)
      .def_prop_ro("placement", &HoldOfAll::placement)
      .def("release", &HoldOfAll::release);
  nb::class_<CacheRig>(m, "CacheRig")
      .def(nb::init<const std::string&, int32_t, const std::string&, const std::string&,
                    const std::string&, int, int64_t, bool, int32_t, bool, bool, int>(),
           nb::arg("pack"), nb::arg("frames"), nb::arg("policy") = "farthest-layer",
           nb::arg("verify") = "always", nb::arg("reader") = "fake", nb::arg("readers") = 2,
           nb::arg("request_bytes") = int64_t{0}, nb::arg("registered") = false,
           nb::arg("capacity") = 0, nb::arg("evict_tiles") = false, nb::arg("direct_io") = false,
           nb::arg("staging") = 0)
      .def_prop_ro("reader_name", &CacheRig::reader_name)
      .def("hint", &CacheRig::hint, nb::arg("layer"), nb::arg("expert"), nb::arg("current"),
           nb::arg("most") = int64_t{0})
      .def("cancel_hints", &CacheRig::cancel_hints, nb::arg("layer"), nb::arg("but"))
      .def("warm", &CacheRig::warm)
      .def("resident", &CacheRig::resident)
      .def("acquire", &CacheRig::acquire, nb::arg("layer"), nb::arg("expert"),
           nb::arg("interrupt") = nb::none(), nb::keep_alive<0, 1>())
      .def("hold_every", &CacheRig::hold_every, nb::keep_alive<0, 1>())
      .def("resize", &CacheRig::resize)
      .def("queued", &CacheRig::queued)
      .def("complete", [](CacheRig& rig, size_t at) { rig.reader().complete(at); })
      .def("complete_damaged", [](CacheRig& rig, size_t at) { rig.reader().complete_damaged(at); })
      .def("fail", [](CacheRig& rig, size_t at,
                      const std::string& why) { rig.reader().fail(at, read_error(why)); })
      .def("refuse_landing", &CacheRig::refuse_landing)
      .def_prop_ro("registration",
                   [](CacheRig& rig) {
                     const Registration r = rig.cache().registration();
                     return std::tuple(r.file, r.frames, r.problem);
                   })
      .def("stats", &CacheRig::stats);
  nb::class_<StreamRig>(m, "StreamRig")
      .def(nb::init<CacheRig&, int32_t, const std::vector<int32_t>&>(), nb::keep_alive<1, 2>())
      .def("residents", &StreamRig::residents)
      .def("release_residents", &StreamRig::release_residents)
      .def("next", &StreamRig::next, nb::keep_alive<0, 1>());
}

}  // namespace adapmoe
