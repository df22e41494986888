# SPDX-License-Identifier: Apache-2.0
# Decides from ADAPMOE_CUDA whether there are GPU kernels: sets gpu_folder, and defines
# use_cuda(target), which adds them.
include(CheckLanguage)
set(gpu_folder no_gpu)
if(ADAPMOE_CUDA STREQUAL "EMULATED")
  set(gpu_folder cuda)
elseif(ADAPMOE_CUDA)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(gpu_folder cuda)
  elseif(NOT ADAPMOE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ADAPMOE_CUDA=ON: no nvcc; put it on PATH, set CUDACXX, or configure with "
                        "-DADAPMOE_CUDA=AUTO")
  endif()
endif()

file(GLOB cuda_kernels CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/*.cu")

if(ADAPMOE_CUDA STREQUAL "EMULATED")
  message(STATUS "AdapMoE: GPU kernels emulated on the CPU")
elseif(gpu_folder STREQUAL "cuda")
  # Orin is 87. Whatever else this nvcc knows of the usual ones; 12.6, JetPack 6's, has no 120.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 87-real 89-real 90)
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8 AND
     CMAKE_CUDA_ARCHITECTURES STREQUAL "80-real;86-real;87-real;89-real;90")
    list(APPEND CMAKE_CUDA_ARCHITECTURES 120-real)
  endif()
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "AdapMoE: GPU kernels for sm_{${CMAKE_CUDA_ARCHITECTURES}}, "
                 "CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
else()
  message(STATUS "AdapMoE: no GPU kernels (ADAPMOE_CUDA=${ADAPMOE_CUDA})")
endif()

function(use_cuda target)
  if(gpu_folder STREQUAL "no_gpu")
    return()
  endif()
  target_sources(${target} PRIVATE ${cuda_kernels})
  if(ADAPMOE_CUDA STREQUAL "EMULATED")
    set(emulation "${PROJECT_SOURCE_DIR}/tests/cuda_emulation")
    set_source_files_properties(${cuda_kernels} PROPERTIES LANGUAGE CXX
                                COMPILE_OPTIONS "-Wno-unknown-pragmas")
    target_sources(${target} PRIVATE "${emulation}/emulation.cc")
    target_include_directories(${target} SYSTEM PRIVATE "${emulation}")
    return()
  endif()
  # Like -ffp-contract=off: an fma happens only where the source says so.
  set_source_files_properties(${cuda_kernels} PROPERTIES COMPILE_OPTIONS
                              "--fmad=false;--expt-relaxed-constexpr")
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON)
  # Static: nothing links against libcuda, which only a machine with a driver has.
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()
