# SPDX-License-Identifier: Apache-2.0
# Where the CUDA compiler is looked for. `adapmoe doctor` (doctor/build.py) and jetson/check_device.sh
# look in the same order, so that what they report is what a build takes.

# Sets `out` to the path of nvcc, empty where there is none: CUDACXX, as it is; PATH; LOCAL/cuda; the
# newest LOCAL/cuda-VERSION. A bare JetPack shell has no nvcc on its PATH.
function(find_nvcc out local)
  set(${out} "$ENV{CUDACXX}" PARENT_SCOPE)
  if(NOT "$ENV{CUDACXX}" STREQUAL "")
    return()
  endif()
  file(GLOB versions "${local}/cuda-*")
  list(SORT versions COMPARE NATURAL ORDER DESCENDING)
  list(TRANSFORM versions APPEND "/bin")
  find_program(nvcc_found nvcc PATHS ENV PATH NO_DEFAULT_PATH NO_CACHE)
  find_program(nvcc_found nvcc PATHS "${local}/cuda/bin" ${versions} NO_DEFAULT_PATH NO_CACHE)
  if(nvcc_found)
    set(${out} "${nvcc_found}" PARENT_SCOPE)
  endif()
endfunction()

# Why there is none, with the folder that one would expect it in.
function(explain_no_nvcc out local)
  file(GLOB folders "${local}/cuda" "${local}/cuda-*")
  set(reason "no nvcc on PATH, in CUDACXX or in ${local}/cuda*/bin")
  if(folders)
    list(GET folders 0 folder)
    set(reason "${folder} has no bin/nvcc: the toolkit's compiler is not installed")
  endif()
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()
