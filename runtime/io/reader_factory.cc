// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/io/async_reader.h"

namespace adapmoe {

Result<ChosenReader> make_reader(const std::string& wanted, const File& file,
                                 const ReaderOptions& options) {
  if (wanted != "auto" && wanted != "io_uring" && wanted != "pread") {
    return invalid_argument(
        str_cat("reader=\"", wanted, "\": expected one of auto, io_uring, pread"));
  }
  std::string note;
  if (wanted != "pread") {
    auto made = make_uring_reader(file, options);
    if (made.ok()) return ChosenReader{std::move(made).value(), "io_uring", ""};
    if (wanted != "auto") note = str_cat(made.status().message(), "; reading with pread");
  }
  return ChosenReader{make_pread_reader(file, options), "pread", note};
}

}  // namespace adapmoe
