# SPDX-License-Identifier: Apache-2.0
# CMake toolchain file: builds for 64-bit Arm Linux with Debian's and Ubuntu's cross compiler
# (g++-aarch64-linux-gnu) and runs what it built under qemu-user. For the baseline Armv8.0; the
# kernels of newer extensions are compiled for those, file by file.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
