# libbitlab for phones (BITLAB_MOBILE): the runtime as one small file, which shows the C ABI alone.
#
#   Linux, Android   libbitlab.so; the build prints the size of libbitlab.so.stripped. The C++ library is a file of its own, as an app has it once
#                    for all its libraries, unless BITLAB_STATIC_STL is ON or, with Android's toolchain, ANDROID_STL is c++_static
#   Apple's systems  libbitlab.a, of which an app's linker takes what it needs
#
# cmake --install puts it, stripped, and runtime/bitlab.h below the prefix.
include(CheckLinkerFlag)

set(mobile_objects $<TARGET_OBJECTS:bitlab_core_compute> $<TARGET_OBJECTS:bitlab_core_glue>)
set_target_properties(bitlab_core PROPERTIES EXCLUDE_FROM_ALL ON)
if(APPLE)
  add_library(bitlab_runtime_shared STATIC ${mobile_objects})
else()
  add_library(bitlab_runtime_shared SHARED ${mobile_objects})
  set_target_properties(bitlab_runtime_shared PROPERTIES LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/exports_c.map)
  # What is not used goes before the linker asks for what it names.
  target_compile_definitions(bitlab_flags INTERFACE BITLAB_FORMATS_NO_FLOATS)
  # Pages of 16 KiB, which Android asks for since version 15.
  target_link_options(bitlab_runtime_shared PRIVATE -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports_c.map -Wl,--gc-sections
                      -Wl,--no-undefined -Wl,-z,max-page-size=16384)
  if(BITLAB_STATIC_STL)
    target_link_options(bitlab_runtime_shared PRIVATE -static-libstdc++ -static-libgcc)
  endif()
  # Functions with the same instructions become one, an eighth of the whole; nothing compares addresses of functions. Android's linker, lld, does that;
  # a cross-compiler finds it in its own folder alone.
  find_program(BITLAB_LLD ld.lld)
  file(REAL_PATH "${BITLAB_LLD}" lld)
  cmake_path(GET lld PARENT_PATH lld_folder)
  foreach(linker "" "-B${lld_folder};-fuse-ld=lld" -fuse-ld=gold)
    string(MAKE_C_IDENTIFIER "BITLAB_FOLDS${linker}" folds)
    check_linker_flag(CXX "${linker};-Wl,--icf=all" ${folds})
    if(${folds})
      target_link_options(bitlab_runtime_shared PRIVATE ${linker} -Wl,--icf=all)
      break()
    endif()
  endforeach()
  # A bit for each address that the loader moves, instead of 24 bytes: 6 KiB. Android's loader reads that since version 9.
  if(ANDROID AND ANDROID_NATIVE_API_LEVEL GREATER_EQUAL 28)
    target_link_options(bitlab_runtime_shared PRIVATE -Wl,--pack-dyn-relocs=relr)
  endif()
  add_custom_command(TARGET bitlab_runtime_shared POST_BUILD VERBATIM
    COMMAND ${CMAKE_STRIP} -o $<TARGET_FILE:bitlab_runtime_shared>.stripped $<TARGET_FILE:bitlab_runtime_shared>
    COMMAND ${CMAKE_COMMAND} -DFILE=$<TARGET_FILE:bitlab_runtime_shared>.stripped -P ${CMAKE_CURRENT_LIST_DIR}/print_size.cmake)
endif()
set_target_properties(bitlab_runtime_shared PROPERTIES OUTPUT_NAME bitlab LINKER_LANGUAGE CXX)
target_include_directories(bitlab_runtime_shared INTERFACE ${PROJECT_SOURCE_DIR})
target_link_libraries(bitlab_runtime_shared PRIVATE ZLIB::ZLIB Threads::Threads bitlab_flags)
install(TARGETS bitlab_runtime_shared COMPONENT runtime)
install(FILES ${PROJECT_SOURCE_DIR}/bitlab/runtime/bitlab.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/bitlab/runtime COMPONENT runtime)
