# Every option, with a sentence each.
option(BITLAB_TRAIN "Build the part above the torch line: layers, trainer, deployment, the bitlab program" ON)
option(BITLAB_TORCH_OPS "Build LibTorch's operators, libbitlab_ops; training has them" OFF)
option(BITLAB_CONFIGS "Build the configuration files' reader, which training needs (yaml-cpp)" ON)
option(BITLAB_FORMATS "Build the writers and readers of other formats than .bit; deployment needs them" ON)
option(BITLAB_MOBILE "Build libbitlab alone, for its size, with nothing to see but the C ABI: what phones get" OFF)
option(BITLAB_STATIC_STL "With BITLAB_MOBILE: have the C++ library inside of libbitlab" OFF)
option(BITLAB_SHARED_CORE "Make what is below the torch line one shared library; OFF: a static one, and programs of one file" ON)
option(BITLAB_PYTHON "Build the Python package's modules (nanobind)" OFF)
option(BITLAB_TESTS "Build the tests" ON)
option(BITLAB_UNITY "Compile each target as one unit, but for kernels of an instruction set: a whole build is faster, a change of one file slower" ON)
option(BITLAB_FUZZ "Build the fuzzers for libFuzzer, with clang" OFF)
option(BITLAB_BENCHMARKS "Build the micro-benchmarks (google-benchmark)" OFF)
option(BITLAB_CUDA "Build the kernels for NVIDIA GPUs, libbitlab_cuda.so, which needs nvcc 13 and no GPU" OFF)
option(BITLAB_WERROR "Treat compiler warnings as errors" OFF)
option(BITLAB_COVERAGE "Instrument for gcov" OFF)
set(BITLAB_ISA "" CACHE STRING "Instruction sets to have kernels for, as in cmake/library.cmake: arm_neon;arm_dotprod; empty: all of the architecture's")
set(BITLAB_OPS "" CACHE STRING "Operations of bitlab/program/ops.def to have in libbitlab: those of an app's networks; empty: all")
set(BITLAB_SANITIZE "" CACHE STRING "Sanitizers to build with, as for -fsanitize: address,undefined or thread")
set(BITLAB_TORCH_DIR "" CACHE PATH "A LibTorch folder (holds share/cmake/Torch); empty: the one in .venv")

if(BITLAB_TRAIN)
  set(BITLAB_TORCH_OPS ON)
endif()

# Headers cost most of the time: LibTorch's 25 to 35 s a unit, the JSON library's and CLI11's 5 to 10, GoogleTest's and fmt's 2 to 3
# (docs/decisions/0014). CMake leaves sources with flags of their own out of the unit.
set(CMAKE_UNITY_BUILD ${BITLAB_UNITY})
set(CMAKE_UNITY_BUILD_BATCH_SIZE 0)
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
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

add_library(bitlab_flags INTERFACE)
target_include_directories(bitlab_flags INTERFACE ${PROJECT_SOURCE_DIR})
# One rounding per operation, everywhere: the numeric contract (docs/numerics.md).
target_compile_options(bitlab_flags INTERFACE -ffp-contract=off -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                              -Wno-sign-conversion)
if(BITLAB_WERROR)
  target_compile_options(bitlab_flags INTERFACE -Werror)
endif()
foreach(list BITLAB_ISA BITLAB_OPS)
  if(${list})
    string(REPLACE ";" " " words "${${list}}")
    target_compile_definitions(bitlab_flags INTERFACE ${list}="${words}")
  endif()
endforeach()
if(BITLAB_MOBILE)
  set(CMAKE_CXX_VISIBILITY_PRESET hidden)
  set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
  target_compile_definitions(bitlab_flags INTERFACE BITLAB_FEW_TILES)
  # What is not used goes; so do exceptions, with the tables that they need in every function, the chain of frames, which without those tables
  # profilers alone would follow, and the names of types, which nothing asks for.
  target_compile_options(bitlab_flags INTERFACE -fomit-frame-pointer -ffunction-sections -fdata-sections
                                                $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions> $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti>
                                                -fno-unwind-tables -fno-asynchronous-unwind-tables)
endif()
set(BITLAB_FIXED_ADDRESSES ${PROJECT_SOURCE_DIR}/tools/fixed_addresses.sh)  # runs programs with sanitizers
if(BITLAB_SANITIZE)
  # Without checks that double what the compiler writes: a null pointer that is used stops the program anyway, no class is cast down, AddressSanitizer
  # sees what is read through a pointer that wrapped or beyond an object, and the compiler warns of a function without return.
  # Of the folder, and so in front of what targets leave out of it.
  add_compile_options(-fsanitize=${BITLAB_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all
                      -fno-sanitize=null,vptr,pointer-overflow,object-size,return,unreachable,nonnull-attribute,returns-nonnull-attribute)
  add_link_options(-fsanitize=${BITLAB_SANITIZE})
  set(CMAKE_CROSSCOMPILING_EMULATOR ${BITLAB_FIXED_ADDRESSES})
endif()
if(BITLAB_FUZZ)
  target_compile_options(bitlab_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(BITLAB_COVERAGE)
  target_compile_options(bitlab_flags INTERFACE --coverage -fprofile-update=atomic)
  target_link_options(bitlab_flags INTERFACE --coverage)
endif()

# Of what is above the torch line and libraries that say so (UNIT glue), where nothing runs for long: -Og costs a seventh less of the
# compiler's time than -O1, and that a fifth less than -O2. Nothing there reads numbers at odd addresses, which costs as much to check.
add_library(bitlab_glue INTERFACE)
target_link_libraries(bitlab_glue INTERFACE bitlab_flags)
target_compile_options(bitlab_glue INTERFACE $<$<NOT:$<CONFIG:Debug>>:$<IF:$<BOOL:${BITLAB_MOBILE}>,-Os,-Og>>)
if(BITLAB_SANITIZE)
  target_compile_options(bitlab_glue INTERFACE -fno-sanitize=alignment)
endif()

# Of programs and of tests above the torch line, which call what does the work: where they are built to be tested, optimizing costs
# a third of the compiler's time.
add_library(bitlab_shell INTERFACE)
target_link_libraries(bitlab_shell INTERFACE bitlab_flags)
target_compile_options(bitlab_shell INTERFACE $<$<NOT:$<CONFIG:Debug>>:$<IF:$<BOOL:${BITLAB_TESTS}>,-O0,-Og>>)

# Of the other tests: UBSan's checks of what they do themselves would cost them as much again.
add_library(bitlab_test_flags INTERFACE)
target_link_libraries(bitlab_test_flags INTERFACE bitlab_glue)
target_compile_options(bitlab_test_flags INTERFACE -fno-sanitize=undefined)
