// SPDX-License-Identifier: Apache-2.0
// Stands in for libnvinfer.so.MAJOR of tests/tensorrt_emulation/adapter.cc: a version, no more.
extern "C" __attribute__((visibility("default"))) int nvinfer_stand_in_version() {
  return TRT_MAJOR * 10000 + 300;  // 10.3.0 or 11.3.0
}
