# SPDX-License-Identifier: Apache-2.0
# Decides from ADAPMOE_CUDA whether there are GPU kernels: sets gpu_folder, and defines
# use_cuda(target), which adds them.
include(find_nvcc.cmake)
set(gpu_folder no_gpu)
set(cuda_problem "")

# Whether nvcc takes C++20 for Orin; older toolkits do not. Sets cuda_problem where it does not.
function(probe_nvcc)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/probe.cu")
  file(WRITE "${source}" "template <typename T> concept Any = true;\n__global__ void kernel() {}\n")
  execute_process(COMMAND "${nvcc}" -std=c++20 -arch=sm_87 --cubin -o "${source}.cubin" "${source}"
                  RESULT_VARIABLE failed OUTPUT_QUIET ERROR_VARIABLE reason)
  if(failed)
    string(STRIP "${reason}" reason)
    if(reason STREQUAL "")
      set(reason "${failed}")  # such as: No such file or directory
    endif()
    set(cuda_problem "${nvcc} cannot compile C++20 for sm_87: ${reason}" PARENT_SCOPE)
  endif()
endfunction()

if(ADAPMOE_CUDA STREQUAL "EMULATED")
  set(gpu_folder cuda)
elseif(ADAPMOE_CUDA)
  find_nvcc(nvcc /usr/local)
  if(CMAKE_CUDA_COMPILER)
    set(nvcc "${CMAKE_CUDA_COMPILER}")
  endif()
  if(nvcc)
    probe_nvcc()
  else()
    explain_no_nvcc(cuda_problem /usr/local)
  endif()
  if(cuda_problem STREQUAL "")
    set(CMAKE_CUDA_COMPILER "${nvcc}")
    find_package(CUDAToolkit QUIET)
    if(NOT TARGET CUDA::cudart_static)
      set(cuda_problem "no static CUDA runtime beside ${nvcc}")
    endif()
  endif()
  if(cuda_problem STREQUAL "")
    set(gpu_folder cuda)
  elseif(NOT ADAPMOE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ADAPMOE_CUDA=ON: ${cuda_problem}; or configure with -DADAPMOE_CUDA=AUTO")
  endif()
endif()

set(ADAPMOE_GPU_FOLDER "${gpu_folder}" CACHE INTERNAL "For the Makefile")

file(GLOB cuda_kernels CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/backend/cuda/*.cu")

# Each memory access is announced to race_check.cc; a misaligned one, or one outside of its array,
# ends the process.
set(emulated_kernel_flags -fsanitize=thread -fsanitize=alignment,bounds
                          -fsanitize-undefined-trap-on-error CACHE INTERNAL "")

if(ADAPMOE_CUDA STREQUAL "EMULATED")
  tell("GPU kernels emulated on the CPU")
elseif(gpu_folder STREQUAL "cuda")
  # Orin is 87. Of the others, what is common; JetPack 6's nvcc 12.6 has no 120.
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 87-real 89-real 90)
    if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 120-real)
    endif()
  endif()
  enable_language(CUDA)
  list(JOIN CMAKE_CUDA_ARCHITECTURES " " architectures)
  tell("GPU kernels for sm ${architectures}, CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
else()
  tell("no GPU kernels (ADAPMOE_CUDA=${ADAPMOE_CUDA}) ${cuda_problem}")
endif()

function(use_cuda target)
  if(gpu_folder STREQUAL "no_gpu")
    return()
  endif()
  target_sources(${target} PRIVATE ${cuda_kernels})
  if(ADAPMOE_CUDA STREQUAL "EMULATED")
    set(emulation "${PROJECT_SOURCE_DIR}/tests/cuda_emulation")
    set_source_files_properties(${cuda_kernels} PROPERTIES LANGUAGE CXX
                                COMPILE_OPTIONS "-Wno-unknown-pragmas;${emulated_kernel_flags}")
    target_sources(${target} PRIVATE "${emulation}/emulation.cc"
                                     "${emulation}/emulated_memory.cc"
                                     "${emulation}/race_check.cc")
    # For what programs load: stand-ins for libraries that use the GPU.
    set_source_files_properties("${emulation}/emulation.cc" "${emulation}/emulated_memory.cc"
                                PROPERTIES COMPILE_OPTIONS "-fvisibility=default")
    target_include_directories(${target} SYSTEM PRIVATE "${emulation}")
    return()
  endif()
  # --fmad=false is -ffp-contract=off: an fma happens only where the source says so. The standard
  # is given by hand because CMake before 3.25.2 knows no CUDA20.
  set_source_files_properties(${cuda_kernels} PROPERTIES COMPILE_OPTIONS
                              "--std=c++20;--fmad=false;--expt-relaxed-constexpr")
  set_target_properties(${target} PROPERTIES CUDA_STANDARD_REQUIRED OFF)
  # Static: nothing links against libcuda, which only a machine with a driver has.
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()
