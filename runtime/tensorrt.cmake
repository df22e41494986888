# SPDX-License-Identifier: Apache-2.0
# Decides from ADAPMOE_TENSORRT for which TensorRT versions there is an adapter: sets trt_folder, and
# defines use_tensorrt(target), which adds them. After cuda.cmake.
set(ADAPMOE_TENSORRT "AUTO" CACHE STRING
    "Run experts as TensorRT engines: AUTO (where headers are), ON, OFF")
check_choice(ADAPMOE_TENSORRT AUTO ON OFF)
set(trt_known_majors 10 11)
foreach(major IN LISTS trt_known_majors)
  set(ADAPMOE_TENSORRT${major}_INCLUDE "" CACHE PATH "Folder of the headers of TensorRT ${major}")
endforeach()
set(trt_folder no_tensorrt)
set(trt_majors "")
set(trt_problem "")

# The version of the headers in `folder`, such as "10.3"; empty where there are none.
function(read_trt_version out folder)
  set(${out} "" PARENT_SCOPE)
  if(NOT EXISTS "${folder}/NvInferRuntime.h" OR NOT EXISTS "${folder}/NvInferVersion.h")
    return()
  endif()
  file(READ "${folder}/NvInferVersion.h" text)
  if(text MATCHES "define (NV_TENSORRT|TRT)_MAJOR(_ENTERPRISE)? +([0-9]+)")
    set(major "${CMAKE_MATCH_3}")
    if(text MATCHES "define (NV_TENSORRT|TRT)_MINOR(_ENTERPRISE)? +([0-9]+)")
      set(${out} "${major}.${CMAKE_MATCH_3}" PARENT_SCOPE)
    endif()
  endif()
endfunction()

# Sets trt_majors, and for each of them trt_include_MAJOR and trt_version_MAJOR.
function(find_trt_headers)
  set(majors "")
  # Where JetPack and Debian put them; they serve whichever version they are of.
  find_path(trt_system NvInferRuntime.h PATH_SUFFIXES "${CMAKE_SYSTEM_PROCESSOR}-linux-gnu" NO_CACHE)
  read_trt_version(system_version "${trt_system}")
  foreach(major IN LISTS trt_known_majors)
    set(folder "${ADAPMOE_TENSORRT${major}_INCLUDE}")
    if(folder)
      read_trt_version(version "${folder}")
      if(NOT version MATCHES "^${major}\\.")
        message(FATAL_ERROR "ADAPMOE_TENSORRT${major}_INCLUDE=${folder}: no headers of TensorRT "
                            "${major} (found: ${version})")
      endif()
    elseif(system_version MATCHES "^${major}\\.")
      set(folder "${trt_system}")
      set(version "${system_version}")
    else()
      continue()
    endif()
    list(APPEND majors ${major})
    set(trt_include_${major} "${folder}" PARENT_SCOPE)
    set(trt_version_${major} "${version}" PARENT_SCOPE)
  endforeach()
  set(trt_majors "${majors}" PARENT_SCOPE)
endfunction()

if(ADAPMOE_CUDA STREQUAL "EMULATED")
  set(trt_majors ${trt_known_majors})
elseif(NOT ADAPMOE_TENSORRT)
  set(trt_problem "")
elseif(gpu_folder STREQUAL "no_gpu")
  set(trt_problem "needs GPU kernels")
else()
  find_trt_headers()
  if(NOT trt_majors)
    string(CONCAT trt_problem "no headers; install libnvinfer-headers-dev, or give their "
                              "folder: -DADAPMOE_TENSORRT10_INCLUDE=DIR")
  endif()
endif()

if(trt_majors)
  set(trt_folder tensorrt)
  set(found "")
  set(missing "")
  foreach(major IN LISTS trt_known_majors)
    if(NOT major IN_LIST trt_majors)
      string(APPEND missing "; none for ${major}: -DADAPMOE_TENSORRT${major}_INCLUDE=DIR")
    elseif(ADAPMOE_CUDA STREQUAL "EMULATED")
      string(APPEND found " ${major} (stand-in)")
    else()
      string(APPEND found " ${trt_version_${major}}")
    endif()
  endforeach()
  message(STATUS "AdapMoE: TensorRT adapters for${found}${missing}")
elseif(ADAPMOE_TENSORRT AND NOT ADAPMOE_TENSORRT STREQUAL "AUTO")
  message(FATAL_ERROR "ADAPMOE_TENSORRT=ON: ${trt_problem}; or configure with "
                      "-DADAPMOE_TENSORRT=AUTO")
else()
  message(STATUS "AdapMoE: no TensorRT adapters (ADAPMOE_TENSORRT=${ADAPMOE_TENSORRT}) "
                 "${trt_problem}")
endif()

# Adapters lie beside what loads them: the programs of runtime/tools, or the Python module.
function(add_trt_adapter major source)
  add_library(adapmoe_trt${major} MODULE "${source}")
  target_include_directories(adapmoe_trt${major} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(adapmoe_trt${major} PRIVATE adapmoe_flags ${CMAKE_DL_LIBS})
  set_target_properties(adapmoe_trt${major} PROPERTIES
                        LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/runtime/tools")
  install(TARGETS adapmoe_trt${major} LIBRARY DESTINATION adapmoe)
endfunction()

function(use_tensorrt target)
  target_link_libraries(${target} PUBLIC ${CMAKE_DL_LIBS})
  list(JOIN trt_majors "," majors)
  set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/backend/tensorrt/trt_library.cc"
                              PROPERTIES COMPILE_DEFINITIONS "ADAPMOE_TRT_MAJORS=${majors}")
  foreach(major IN LISTS trt_majors)
    if(ADAPMOE_CUDA STREQUAL "EMULATED")
      set(stand_in "${PROJECT_SOURCE_DIR}/tests/tensorrt_emulation")
      add_trt_adapter(${major} "${stand_in}/adapter.cc")
      target_include_directories(adapmoe_trt${major} SYSTEM PRIVATE
                                 "${PROJECT_SOURCE_DIR}/tests/cuda_emulation")
      target_compile_definitions(adapmoe_trt${major} PRIVATE TRT_MAJOR=${major})
      # Each in a folder of its own: a machine has one of them, or none.
      add_library(nvinfer${major} MODULE "${stand_in}/nvinfer.cc")
      set_target_properties(nvinfer${major} PROPERTIES
                            PREFIX "" OUTPUT_NAME "libnvinfer.so" SUFFIX ".${major}"
                            LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tensorrt/${major}")
      target_compile_definitions(nvinfer${major} PRIVATE TRT_MAJOR=${major})
    else()
      add_trt_adapter(${major} "${CMAKE_CURRENT_SOURCE_DIR}/backend/tensorrt/adapter/adapter.cc")
      target_include_directories(adapmoe_trt${major} SYSTEM PRIVATE
                                 "${trt_include_${major}}" ${CUDAToolkit_INCLUDE_DIRS})
    endif()
    add_dependencies(${target} adapmoe_trt${major})
  endforeach()
endfunction()
