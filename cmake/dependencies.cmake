# Third-party libraries; why each was chosen is written in docs/decisions/.
find_package(Threads REQUIRED)
find_package(ZLIB REQUIRED)
find_package(fmt REQUIRED)
set(BITLAB_FMT fmt::fmt)
find_package(nlohmann_json REQUIRED)
if(BITLAB_CONFIGS)
  find_package(yaml-cpp REQUIRED)
endif()
if(NOT BITLAB_MOBILE)
  find_package(PNG REQUIRED)
  find_package(JPEG REQUIRED)
  find_package(PCRE2 REQUIRED)
  find_package(CLI11 REQUIRED)
endif()
if(BITLAB_TESTS AND NOT BITLAB_MOBILE)
  find_package(GTest REQUIRED)
endif()
if(BITLAB_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()

if(BITLAB_TORCH_OPS)
  find_package(OpenMP REQUIRED)  # LibTorch's at::parallel_for is a template over it
  include(torch)
endif()

if(BITLAB_MOBILE)
  # Phones have no libfmt. As it is its header brings the C++ library's locales and ways to print floats along, of which messages have none.
  set(BITLAB_FMT fmt::fmt-header-only)
  target_compile_definitions(fmt::fmt-header-only INTERFACE FMT_STATIC_THOUSANDS_SEPARATOR=','
                             FMT_USE_FLOAT=0 FMT_USE_DOUBLE=0 FMT_USE_LONG_DOUBLE=0 FMT_USE_INT128=0)
endif()
