// libbitlab.so is made of the static libraries; CMake wants a source of its own.
