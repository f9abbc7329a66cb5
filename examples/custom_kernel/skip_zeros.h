// A ternary_gemm kernel for weights that are mostly zero.
#pragma once

#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

// The row to add to ternary_gemm's list in a Policy.
const bitlab::kernels::TernaryGemmRow& skip_zeros_row();
