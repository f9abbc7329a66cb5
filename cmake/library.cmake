# The libraries below the torch line are parts of one library, bitlab_core, so that nothing is twice in a process that loads it through
# libbitlab_ops, too (docs/decisions/0016). bitlab::<name> links all of it.
set(core_kind STATIC)
if(BITLAB_SHARED_CORE)
  set(core_kind SHARED)
elseif(BITLAB_TORCH_OPS)
  message(FATAL_ERROR "BITLAB_SHARED_CORE expected to be ON with BITLAB_TRAIN and BITLAB_TORCH_OPS, got OFF: programs and libbitlab_ops would each hold a core")
endif()
set(core_link ${BITLAB_FMT} Threads::Threads)  # what headers below the torch line use
add_library(bitlab_core ${core_kind})
set_target_properties(bitlab_core PROPERTIES EXPORT_NAME core VERSION ${BITLAB_VERSION_NUMBER} SOVERSION ${BITLAB_VERSION_NUMBER})
target_compile_features(bitlab_core PUBLIC cxx_std_20)
target_include_directories(bitlab_core PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_link_libraries(bitlab_core PUBLIC ${core_link} PRIVATE $<BUILD_INTERFACE:bitlab_flags>)

# Likewise those above it, but for libbitlab_ops, are parts of bitlab_torch, and their tests of torch_test (bitlab/CMakeLists.txt): LibTorch's
# headers, which cost 30 s, are read once for all of them.

# bitlab_library(<name> [SHARED] [TORCH] [UNIT compute|glue|host] [DEPS <bitlab libraries>] [PRIVATE_LINK <third-party targets>]
#                [TEST_DEPS <libraries whose headers the tests include, too>] [TEST_SHARDS <n>])
#
# Makes the library bitlab::<name> from the folder bitlab/<name> (which may hold folders: kernels/ternary_gemm), and its test
# program <name>_test from the *_test.cc and test.cc files there; each <folder>/bench.cc makes <folder>_bench. Headers, sources and tests stand side by side.
#   TORCH         above the torch line: a part of bitlab_torch, and its tests of torch_test; without it: of bitlab_core
#   UNIT          what it is compiled with, where it is a part of bitlab_core: compute; glue, where nothing computes for long, with less optimization
#                 (cmake/options.cmake), as all with TORCH is; host: as glue, and no part of libbitlab.so
#   SHARED        a shared library of its own (for registrations that a static library would lose)
function(bitlab_library name)
  cmake_parse_arguments(ARG "SHARED;TORCH" "TEST_SHARDS;UNIT" "DEPS;PRIVATE_LINK;TEST_DEPS" ${ARGN})
  if(BITLAB_MOBILE AND ARG_UNIT STREQUAL "host")
    return()
  endif()
  string(REPLACE "/" "_" id ${name})
  set(folder ${PROJECT_SOURCE_DIR}/bitlab/${name})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${folder}/*.cc)
  file(GLOB_RECURSE templates CONFIGURE_DEPENDS ${folder}/*.cc.in)
  get_property(inner GLOBAL PROPERTY BITLAB_LIBRARY_FOLDERS)
  foreach(path ${inner})  # a library inside this one's folder, named before it
    list(FILTER sources EXCLUDE REGEX "^${path}/")
    list(FILTER templates EXCLUDE REGEX "^${path}/")
  endforeach()
  set_property(GLOBAL APPEND PROPERTY BITLAB_LIBRARY_FOLDERS ${folder})
  foreach(template ${templates})
    get_filename_component(file ${template} NAME_WLE)
    configure_file(${template} ${CMAKE_CURRENT_BINARY_DIR}/${id}/${file} @ONLY)
    list(APPEND sources ${CMAKE_CURRENT_BINARY_DIR}/${id}/${file})
  endforeach()
  set(tests ${sources})
  set(benches ${sources})
  list(FILTER tests INCLUDE REGEX "(/|_)test\\.cc$")
  list(FILTER benches INCLUDE REGEX "(/|_)bench\\.cc$")
  list(FILTER sources EXCLUDE REGEX "(/|_)(test|bench|main)\\.cc$")
  bitlab_isa_flags(${sources})

  if(ARG_SHARED)
    add_library(bitlab_${id} SHARED ${sources})
    bitlab_torch_library(bitlab_${id})
    target_link_libraries(bitlab_${id} PUBLIC bitlab_core)
  elseif(ARG_TORCH)
    target_sources(bitlab_torch PRIVATE ${sources})
    bitlab_part(${id} bitlab_torch)
  else()
    bitlab_core_part(${id})
  endif()
  add_library(bitlab::${id} ALIAS bitlab_${id})
  set_target_properties(bitlab_${id} PROPERTIES EXPORT_NAME ${id})
  if(BITLAB_TESTS AND tests AND NOT BITLAB_MOBILE)
    if(TARGET torch_test AND ARG_TORCH)
      target_sources(torch_test PRIVATE ${tests})
    elseif(NOT ARG_TORCH)
      bitlab_test(${id}_test SHARDS ${ARG_TEST_SHARDS} SOURCES ${tests} LINK bitlab::${id} ${ARG_PRIVATE_LINK})
    endif()
  endif()
  # Each one is a program: micro-benchmarks have a main() of their own.
  foreach(bench ${benches})
    if(BITLAB_BENCHMARKS)
      get_filename_component(bench_folder ${bench} DIRECTORY)
      get_filename_component(bench_name ${bench_folder} NAME)
      add_executable(${bench_name}_bench ${bench})
      target_link_libraries(${bench_name}_bench PRIVATE bitlab_flags bitlab::${id} benchmark::benchmark)
    endif()
  endforeach()
endfunction()

# Called by bitlab_library, whose variables it sees: the sources as objects, which libbitlab.so takes, too.
macro(bitlab_core_part id)
  target_sources(bitlab_core_${ARG_UNIT} PRIVATE ${sources})
  target_link_libraries(bitlab_core_${ARG_UNIT} PRIVATE ${ARG_PRIVATE_LINK})
  bitlab_part(${id} bitlab_core)
endmacro()

# Likewise: a name for what is inside the library `whole`.
macro(bitlab_part id whole)
  target_link_libraries(${whole} PRIVATE ${ARG_PRIVATE_LINK})
  add_library(bitlab_${id} INTERFACE)
  target_link_libraries(bitlab_${id} INTERFACE ${whole})
endmacro()

# What the two libraries above the torch line have in common.
function(bitlab_torch_library target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
  # LibTorch brings headers of fmt, without the library that Debian's fmt::fmt is.
  target_compile_definitions(${target} PUBLIC FMT_HEADER_ONLY)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:bitlab_glue>)
  bitlab_use_torch(${target})
endfunction()

# bitlab_test(<name> [TORCH] [SHARDS <n>] SOURCES <files> LINK <targets>): a GoogleTest program, one entry of ctest, or n that run its tests in
# turn.
function(bitlab_test name)
  cmake_parse_arguments(ARG "TORCH" "SHARDS" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE $<IF:$<BOOL:${ARG_TORCH}>,bitlab_shell,bitlab_test_flags> ${ARG_LINK} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE BITLAB_SOURCE_DIR="${PROJECT_SOURCE_DIR}" BITLAB_BIN_DIR="${CMAKE_BINARY_DIR}/bin")
  if(NOT ARG_SHARDS)
    add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
    return()
  endif()
  math(EXPR last "${ARG_SHARDS} - 1")
  foreach(shard RANGE ${last})
    add_test(NAME ${name}_${shard} COMMAND ${name} --gtest_brief=1)
    set_tests_properties(${name}_${shard} PROPERTIES ENVIRONMENT "GTEST_TOTAL_SHARDS=${ARG_SHARDS};GTEST_SHARD_INDEX=${shard}")
  endforeach()
endfunction()

# A file named for an instruction set, x86_<name>.cc or arm_<name>_<variant>.cc, is compiled for it and always optimized, so that nothing but its
# kernels is emitted. On another architecture it is left out, and where BITLAB_ISA lists others.
function(bitlab_isa_flags)
  set(isa_x86_avx2 -mavx2 -mf16c -mno-fma)
  set(isa_x86_avx2fma -mavx2 -mfma)  # for kernels that ask for fused products by name
  # AVX-512 has fused instructions of its own (clang takes -mno-fma for -mno-avx512f); -ffp-contract=off keeps them away.
  set(isa_x86_avx512 -mavx512f -mavx512bw -mavx512vl)
  set(isa_x86_avx512vnni -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mbmi2)
  set(isa_arm_neon -march=armv8-a)
  set(isa_arm_dotprod -march=armv8.2-a+dotprod)
  set(isa_arm_i8mm -march=armv8.2-a+dotprod+i8mm)
  set(here x86)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
    set(here arm)
  endif()
  foreach(isa ${BITLAB_ISA})
    if(NOT DEFINED isa_${isa})
      message(FATAL_ERROR "BITLAB_ISA expected to list instruction sets of bitlab_isa_flags (cmake/library.cmake), got '${isa}'")
    endif()
  endforeach()
  foreach(source ${ARGN})
    get_filename_component(stem ${source} NAME_WE)
    string(REGEX REPLACE "^([^_]+_[^_]+)_.*" "\\1" stem ${stem})
    if(NOT DEFINED isa_${stem})
      continue()
    elseif(stem MATCHES "^${here}_" AND (NOT BITLAB_ISA OR stem IN_LIST BITLAB_ISA))
      # g++ 12 finds its own intrinsics' undefined values uninitialized.
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
        "$<IF:$<BOOL:${BITLAB_MOBILE}>,-O2,-O3>;${isa_${stem}};-fno-sanitize=all;$<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>;$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>")
    else()
      set_source_files_properties(${source} PROPERTIES HEADER_FILE_ONLY ON)
    endif()
  endforeach()
endfunction()

function(bitlab_use_torch target)
  if(NOT TARGET bitlab_torch_flags)
    add_library(bitlab_torch_flags INTERFACE)
    # OpenMP by its flag, not by its target, which names the compiler's libgomp by path: LibTorch brings its own. LibTorch brings headers of fmt,
    # too, without a library.
    target_compile_options(bitlab_torch_flags INTERFACE ${OpenMP_CXX_FLAGS} -Wno-conversion -Wno-shadow -Wno-unused-parameter)
    # NDEBUG in every build type: without it LibTorch's headers give some classes members that its release binaries lack.
    target_compile_definitions(bitlab_torch_flags INTERFACE FMT_HEADER_ONLY NDEBUG)
    target_link_options(bitlab_torch_flags INTERFACE ${OpenMP_CXX_FLAGS})
  endif()
  # LibTorch shows the C++ library's functions too, some of them in part: the loader shall find those of the C++ library first (docs/decisions/0060).
  # As an option, which stands in front of all libraries, in programs that use an installation, too.
  target_link_options(${target} PUBLIC LINKER:--push-state,--no-as-needed,-lstdc++,--pop-state)
  target_link_libraries(${target} PUBLIC torch PRIVATE $<BUILD_INTERFACE:bitlab_torch_flags>)
endfunction()
