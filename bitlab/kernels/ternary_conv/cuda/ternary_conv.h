// What a ternary convolution needs on a CUDA device beside ternary_gemm, and products of int8 weights; see CudaPlugin. Pointers are to the device's
// memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bitlab/kernels/internal/cuda_image.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"

namespace bitlab::kernels {

// A convolution of one group, in tiles that gather their patches: q is read where it lies (implicit GEMM). Weights in kMma. q
// [batch, pixels, channels], aligned to 16; of sample i the scale is a[i * a_stride].
struct CudaTernaryConv {
  TernaryGemmArgs p;
  CudaImage image;
  int64_t tokens;  // output pixels of the batch
};
const char* cuda_ternary_conv(const CudaTernaryConv& conv, void* stream);
// Whether it serves: a copy of 16 values is of one tap, and sums fit.
constexpr bool gathers_in_tiles(int64_t channels, int64_t groups, int64_t depth) {
  return groups == 1 && channels % 16 == 0 && depth > 0 && depth <= kMmaMaxDepth;
}

// Patches of the output pixels [first, first + tokens) of the batch, as rows q_stride bytes apart that are zero behind their depth, and with each the
// scale of its sample.
struct CudaPatches {
  CudaImage image;
  const int8_t* q;  // [batch, pixels, channels]
  const float* a;   // of sample i: a[i * a_stride]
  int64_t a_stride;
  int64_t first, tokens, depth;
  bool copies;  // the patches; else the scales alone, where pixels are read in place
  int8_t* patches;
  int64_t q_stride;
  float* patch_a;  // [tokens]
};
const char* cuda_patches(const CudaPatches& patches, void* stream);
// How many of so many pixels' patches are in memory at once, about 64 MiB of them.
constexpr int64_t pixels_at_once(int64_t pixels, int64_t q_stride) {
  constexpr int64_t kBytes = int64_t{64} << 20, kLeast = 1024;
  return std::min(pixels, std::max(kLeast, kBytes / q_stride));
}

// y = what follows the sum over k of q t, as in ternary_gemm, where t is int8 [rows, depth], a byte a weight: weights kept in int8, and those of channels
// in groups. With `gathers` q are patches of an image, and the scale of a token is a[sample * a_stride]; else rows q_stride apart.
struct CudaInt8Gemm {
  TernaryGemmArgs p;  // weights: int8 [rows, depth]
  int64_t tokens;
  bool gathers;
  CudaImage image;
  int64_t groups;  // of channels and rows
};
const char* cuda_int8_gemm(const CudaInt8Gemm& product, void* stream);

}  // namespace bitlab::kernels
