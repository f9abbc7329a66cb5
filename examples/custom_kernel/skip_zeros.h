// A ternary_gemm kernel for weights that are mostly zero.
#pragma once

#include "bitlab/kernels/ternary_gemm/ternary_gemm.h"

// The row to put into Policy::extra_rows.
const bitlab::kernels::TernaryGemmRow& skip_zeros_row();
