# Installation: cmake --install <build> --prefix <prefix>
#
#   find_package(BitLab COMPONENTS runtime)   BitLab::runtime, BitLab::kernels, …: libbitlab_core; BitLab::runtime_shared: libbitlab.so
#   find_package(BitLab COMPONENTS train)     BitLab::models, BitLab::train, BitLab::deploy, …: needs LibTorch
#   pkg-config bitlab                         libbitlab.so
include(CMakePackageConfigHelpers)

set(core_parts base ternary kernels program format_safetensors format_bit runtime profile data)
if(BITLAB_FORMATS)
  list(APPEND core_parts format_decoder format_c format_gguf format_hf format_onnx format)
endif()
if(BITLAB_CONFIGS)
  list(APPEND core_parts config)
endif()
set(train_parts ops torch nn convert models train deploy)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/BitLab)

# For deployment the runtime alone as one file; everything but the documented interface is hidden.
add_library(bitlab_runtime_shared SHARED $<TARGET_OBJECTS:bitlab_core_compute> $<TARGET_OBJECTS:bitlab_core_glue>)
set_target_properties(bitlab_runtime_shared PROPERTIES OUTPUT_NAME bitlab EXPORT_NAME runtime_shared SOVERSION 0 LINKER_LANGUAGE CXX
                      VERSION ${BITLAB_VERSION_NUMBER} LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/exports.map)
target_include_directories(bitlab_runtime_shared PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_features(bitlab_runtime_shared PUBLIC cxx_std_20)
target_link_libraries(bitlab_runtime_shared PUBLIC fmt::fmt PRIVATE ZLIB::ZLIB Threads::Threads $<BUILD_INTERFACE:bitlab_flags>)
target_link_options(bitlab_runtime_shared PRIVATE -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/exports.map -Wl,--gc-sections
                    -Wl,--no-undefined)
add_custom_command(TARGET bitlab_runtime_shared POST_BUILD VERBATIM
  COMMAND ${CMAKE_STRIP} -o $<TARGET_FILE:bitlab_runtime_shared>.stripped $<TARGET_FILE:bitlab_runtime_shared>
  COMMAND ${CMAKE_COMMAND} -DFILE=$<TARGET_FILE:bitlab_runtime_shared>.stripped -P ${CMAKE_CURRENT_LIST_DIR}/print_size.cmake)

function(bitlab_install_component component)
  foreach(part ${ARGN})
    install(TARGETS bitlab_${part} EXPORT BitLab-${component} COMPONENT ${component})
    string(REPLACE "_" "/" folder ${part})
    if(IS_DIRECTORY ${PROJECT_SOURCE_DIR}/bitlab/${folder})
      install(DIRECTORY ${PROJECT_SOURCE_DIR}/bitlab/${folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/bitlab/${folder}
              COMPONENT ${component} FILES_MATCHING PATTERN "*.h" PATTERN "*.def" PATTERN "*test*" EXCLUDE
              PATTERN "internal" EXCLUDE PATTERN "cuda" EXCLUDE)
    endif()
  endforeach()
  install(EXPORT BitLab-${component} NAMESPACE BitLab:: DESTINATION ${package_dir} COMPONENT ${component})
endfunction()

bitlab_install_component(runtime core ${core_parts} runtime_shared)
set_target_properties(bitlab-run PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
install(TARGETS bitlab-run COMPONENT runtime)
if(BITLAB_TRAIN)
  bitlab_install_component(train ${train_parts})
  set_target_properties(bitlab bitlab_ops PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  if(NOT SKBUILD)  # where a package is built, LibTorch's place is a temporary one
    set_property(TARGET bitlab bitlab_ops APPEND PROPERTY INSTALL_RPATH ${TORCH_INSTALL_PREFIX}/lib)
  endif()
  install(TARGETS bitlab COMPONENT train)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/data ${PROJECT_SOURCE_DIR}/presets DESTINATION ${CMAKE_INSTALL_DATADIR}/bitlab COMPONENT train)
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/BitLabConfig.cmake.in ${CMAKE_BINARY_DIR}/BitLabConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/BitLabConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(${CMAKE_CURRENT_LIST_DIR}/bitlab.pc.in ${CMAKE_BINARY_DIR}/bitlab.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/BitLabConfig.cmake ${CMAKE_BINARY_DIR}/BitLabConfigVersion.cmake ${CMAKE_CURRENT_LIST_DIR}/FindPCRE2.cmake DESTINATION ${package_dir}
        COMPONENT runtime)
install(FILES ${CMAKE_BINARY_DIR}/bitlab.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT runtime)
