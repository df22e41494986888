// SPDX-License-Identifier: Apache-2.0
// Takes the place of uring_reader.cc and what it stands on in a build without liburing.
#include "runtime/io/async_reader.h"

namespace adapmoe {

bool built_with_io_uring() { return false; }

Result<std::unique_ptr<AsyncReader>> make_uring_reader(const File& /*file*/,
                                                       const ReaderOptions& /*options*/) {
  return unavailable("io_uring is not built in: install liburing-dev and build again");
}

}  // namespace adapmoe
