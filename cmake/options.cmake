# Every option, with a sentence each.
option(BITLAB_TRAIN "Build the part above the torch line: layers, trainer, deployment, the bitlab program" ON)
option(BITLAB_TESTS "Build the tests" ON)
option(BITLAB_BENCHMARKS "Build the micro-benchmarks (google-benchmark)" OFF)
option(BITLAB_WERROR "Treat compiler warnings as errors" OFF)
option(BITLAB_COVERAGE "Instrument for gcov" OFF)
set(BITLAB_SANITIZE "" CACHE STRING "Sanitizers to build with, as for -fsanitize: address,undefined or thread")
set(BITLAB_TORCH_DIR "" CACHE PATH "A LibTorch folder (holds share/cmake/Torch); empty: the one in .venv")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  # The sloppiness is what ccache asks for where precompiled headers are used.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE_PROGRAM})
endif()

add_library(bitlab_flags INTERFACE)
target_include_directories(bitlab_flags INTERFACE ${PROJECT_SOURCE_DIR})
# One rounding per operation, everywhere: the numeric contract (docs/numerics.md).
target_compile_options(bitlab_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                              -Wno-sign-conversion)
if(BITLAB_WERROR)
  target_compile_options(bitlab_flags INTERFACE -Werror)
endif()
if(BITLAB_SANITIZE)
  target_compile_options(bitlab_flags INTERFACE -fsanitize=${BITLAB_SANITIZE} -fno-omit-frame-pointer
                                                -fno-sanitize-recover=all)
  target_link_options(bitlab_flags INTERFACE -fsanitize=${BITLAB_SANITIZE})
endif()
if(BITLAB_COVERAGE)
  target_compile_options(bitlab_flags INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(bitlab_flags INTERFACE --coverage)
endif()
