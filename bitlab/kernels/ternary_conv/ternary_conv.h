// A ternary convolution of one to three dimensions, with stride, padding, dilation, groups, transposed or depthwise: patches gathered in
// tiles (there is no full im2col buffer), then ternary_gemm; depthwise ones go to ternary_depthwise, weights kept in int8 to int8_conv, float
// activations to ternary_gemm_f32. The one implementation behind bitlab::ternary_conv of LibTorch and of the runtime.
//
//   x [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, rows], both channels last
//   weight [rows, K] with K in the order (kd, kh, kw, c); padding with zeros; scales of groups of k: a group lies within one tap
//
// Input and results are float32 (x is quantized per sample, or stays as it is) or int8 with a static scale.
#pragma once

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::kernels {

// What of a layer decides which kernels serve it.
struct TernaryConvWeight {
  int64_t rows;
  int64_t group = 0;        // k that share a scale
  bool asymmetric = false;  // two scales
  ternary::ActKind activation = ternary::ActKind::kInt8;
};

// Whether a pixel is its own patch, readable as ternary_gemm wants it.
bool is_pointwise(const ConvGeometry& geometry);

// What a tile of patches asks of ternary_gemm.
TernaryGemmProblem ternary_conv_problem(const ConvGeometry& geometry, const TernaryConvWeight& weight);

// The layout to pack the weight in, with geometry.groups groups. At load; the batch does not matter. Error: NoKernel.
Result<TernaryLayout> select_ternary_conv_layout(const ConvGeometry& geometry, const TernaryConvWeight& weight,
                                                 const Machine& machine, const Policy& policy);
Result<TernaryKernels> select_ternary_conv(const ConvGeometry& geometry, const TernaryConvWeight& weight,
                                           TernaryLayout layout, const Machine& machine, const Policy& policy);

int64_t ternary_conv_scratch_bytes(const TernaryKernels& kernels, const TernaryWeight& weight, const ConvGeometry& geometry,
                                   int threads);

// Results: y, or y_q with y_inv and y_limit, in `results`, and the residual; its other fields are not used. `after`, where it is given, is called for
// ranges of the results that are written, while they are in the cache; together they are all of them. `scratch` is aligned to 64 and holds
// ternary_conv_scratch_bytes for at least pool.threads() threads. `input` is per sample. Errors: NotFinite; InvalidArgument: a kernel, stride, dilation or padding
// that is none; Unsupported: scales of groups of k where channels are in groups.
Status ternary_conv(const TernaryKernels& kernels, const TernaryWeight& weight, const ConvGeometry& geometry,
                    const LayerInput& input, const TernaryGemmArgs& results, uint8_t* scratch, ThreadPool& pool,
                    const RangeTask* after = nullptr);

}  // namespace bitlab::kernels
