// SPDX-License-Identifier: Apache-2.0
// Bursts of reads from a pack's own file, for the probe of the queue depth.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <utility>

#include "runtime/base/opened_in.h"
#include "runtime/bindings/errors.h"
#include "runtime/bindings/gil.h"
#include "runtime/io/burst.h"
#include "runtime/memory/arena.h"

namespace nb = nanobind;

namespace adapmoe {
namespace {

class ReadProbe {
 public:
  ReadProbe(const std::string& path, const std::string& reader, int64_t bytes)
      : file_(value_or_raise(File::open(path, /*direct=*/true))),
        arena_(value_or_raise(Arena::reserve(bytes))),
        memory_(arena_.carve(bytes)),
        reader_(value_or_raise(make_reader(reader, file_, {.depth = 1})).name) {
    std::memset(memory_.data(), 0, memory_.size());  // page faults are not the disk's
  }

  bool direct() const { return file_.direct(); }
  const std::string& reader() const { return reader_; }

  double seconds(int read_depth, int64_t request_bytes, int64_t offset, int64_t tile_bytes,
                 int64_t tiles) const {
    raise_if_forked(opened_in_, "ReadProbe");
    if (read_depth < 1 || tiles < 1 || tile_bytes < 1 ||
        tiles > static_cast<int64_t>(memory_.size()) / tile_bytes) {
      throw nb::value_error("a burst needs a read_depth and tiles that fit the probe's memory");
    }
    auto time = [&]() -> Result<double> {
      const WithoutGil without;
      auto made =
          make_reader(reader_, file_, {.depth = read_depth, .request_bytes = request_bytes});
      if (!made.ok()) return made.status();
      return time_burst(*made.value().reader, offset, tile_bytes,
                        memory_.first(static_cast<size_t>(tiles * tile_bytes)));
    }();
    return value_or_raise(std::move(time));
  }

 private:
  OpenedIn opened_in_;
  File file_;
  Arena arena_;
  std::span<std::byte> memory_;
  std::string reader_;
};

}  // namespace

void export_read_probe(nb::module_& m) {
  nb::class_<ReadProbe>(m, "ReadProbe", "Times bursts of reads from one file.")
      .def(nb::init<const std::string&, const std::string&, int64_t>(), nb::arg("path"),
           nb::arg("reader"), nb::arg("bytes"))
      .def_prop_ro("direct", &ReadProbe::direct)
      .def_prop_ro("reader", &ReadProbe::reader)
      .def("seconds", &ReadProbe::seconds, nb::arg("read_depth"), nb::arg("request_bytes"),
           nb::arg("offset"), nb::arg("tile_bytes"), nb::arg("tiles"),
           "From submitting the reads of `tiles` tiles to the arrival of the last.");
}

}  // namespace adapmoe
