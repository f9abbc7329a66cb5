// Elements of one dtype as those of another.
#pragma once

#include "bitlab/program/shape.h"

namespace bitlab::runtime {

// Floats become narrower floats by rounding to the nearest, halves to even, and integers by cutting off their fraction; what an integer type cannot
// hold becomes its nearest value, and NaN 0. Integers wrap. bool is whether an element is other than 0.
void cast(program::DType from, const void* source, program::DType to, void* target, int64_t count);

}  // namespace bitlab::runtime
