// The formats of torch_formats.def, as rows of format::format_list().
#pragma once

namespace bitlab::deploy {

// Adds them, once, for all threads. deploy::save() does, as do the command line and the Python package; a program that writes such a file by format::save() or
// format::convert() calls it before.
void register_formats();

}  // namespace bitlab::deploy
