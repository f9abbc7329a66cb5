# Cross-compilation to 64-bit Arm with Debian's packages: g++-aarch64-linux-gnu, libraries as :arm64 (tools/setup.sh --aarch64).
# Tests run under qemu, as a CPU with every extension; BITLAB_QEMU_CPU=cortex-a53 runs them on one without.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_CROSSCOMPILING_EMULATOR ${CMAKE_CURRENT_LIST_DIR}/../tools/qemu-aarch64.sh)
