// A program as text: one line a value that enters, one a node.
#pragma once

#include <string>

#include "bitlab/program/program.h"

namespace bitlab::program {

std::string print(const Program& program);

}  // namespace bitlab::program
