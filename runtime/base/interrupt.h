// SPDX-License-Identifier: Apache-2.0
// Asked between layers and while waiting for the disk, on the thread that runs the step: true means
// stop now.
#pragma once
#include <functional>

namespace adapmoe {

using Interrupt = std::function<bool()>;

}  // namespace adapmoe
