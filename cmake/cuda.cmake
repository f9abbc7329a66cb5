# Kernels for NVIDIA GPUs: the *.cu below bitlab/ as one shared library that needs nothing of the rest, nor a CUDA runtime beside it.
if(NOT CMAKE_CUDA_COMPILER)
  # On PATH, where the toolkit puts it, or as Python packages (tools/setup.sh --cuda).
  file(GLOB _wheel ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13/bin)
  find_program(BITLAB_NVCC nvcc HINTS ${_wheel} /usr/local/cuda/bin)
  if(NOT BITLAB_NVCC)
    message(FATAL_ERROR "nvcc expected on PATH, in /usr/local/cuda/bin or in .venv, found none. Run tools/setup.sh --cuda, or build without "
                        "BITLAB_CUDA.")
  endif()
  set(CMAKE_CUDA_COMPILER ${BITLAB_NVCC})
endif()
# Machine code of Ampere, Ada and Hopper, whose own instructions (90a) no other has; newer devices compile the PTX.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90a-real 90-virtual)
endif()
enable_language(CUDA)

file(GLOB _sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bitlab/kernels/*.cu
     ${PROJECT_SOURCE_DIR}/bitlab/kernels/*/cuda/*.cu)
# C++17, since nvcc's C++20 and fmt's headers do not go together: the sources include plain headers, as kernels of an instruction set do.
add_library(bitlab_cuda SHARED ${_sources})
set_target_properties(bitlab_cuda PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static UNITY_BUILD OFF
                                             CUDA_VISIBILITY_PRESET hidden VERSION ${BITLAB_VERSION_NUMBER} SOVERSION ${BITLAB_VERSION_NUMBER})
target_include_directories(bitlab_cuda PRIVATE ${PROJECT_SOURCE_DIR})
# The numeric contract: one rounding an operation. C7519 tells of a fence that the assembler adds where one is meant to be.
target_compile_options(bitlab_cuda PRIVATE -O3 -fmad=false --expt-relaxed-constexpr
                       -Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas,-ffp-contract=off)
target_link_options(bitlab_cuda PRIVATE -Wl,--exclude-libs,ALL)
install(TARGETS bitlab_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
