# SPDX-License-Identifier: Apache-2.0
# Prints the nvcc that a build takes, or says in one line why there is none.
# Usage: cmake [-D local=DIR] -P check_nvcc.cmake   (DIR stands for /usr/local)
cmake_minimum_required(VERSION 3.22...4.0)
include("${CMAKE_CURRENT_LIST_DIR}/../../../runtime/find_nvcc.cmake")
if(NOT local)
  set(local /usr/local)
endif()
find_nvcc(nvcc "${local}")
if(NOT nvcc)
  explain_no_nvcc(reason "${local}")
  message(FATAL_ERROR "${reason}")
endif()
execute_process(COMMAND "${CMAKE_COMMAND}" -E echo "${nvcc}")  # message() would write to stderr
