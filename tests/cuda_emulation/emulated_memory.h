// SPDX-License-Identifier: Apache-2.0
// Memory that only kernels and copies may touch.
#pragma once

// While one lives, the device works: its memory can be reached. At other times a touch is a fault,
// as it would be from the CPU of a machine whose GPU has memory of its own. One at a time.
class DeviceAtWork {
 public:
  DeviceAtWork();
  ~DeviceAtWork();
  DeviceAtWork(const DeviceAtWork&) = delete;
  DeviceAtWork& operator=(const DeviceAtWork&) = delete;
};
