// How the C library's heap treats memory that was freed.
#pragma once

namespace bitlab {

// Keeps freed memory for the next allocation instead of giving it back to the system at once. A training step frees and makes the same
// tensors again and again; without this the system takes their pages away and clears them anew for each, which costs a small convolution a
// tenth of its step. For programs, not libraries: it holds for the whole process, which stays as large as it ever was.
// Allocations of up to 32 MiB; nothing where the C library is not glibc.
void keep_freed_memory();

}  // namespace bitlab
