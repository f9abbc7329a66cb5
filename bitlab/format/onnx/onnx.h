// ONNX models (github.com/onnx/onnx): a program as a graph of ONNX's operators, which ONNX Runtime and others run.
//
// A ternary product is written out as docs/numerics.md has it: activations quantized by primitives, the exact sum of q t by a product of floats that are
// integers, then the scales and the bias, each by an operation of its own. Variants differ in how the weights are kept:
//
//   float        float32; any runtime of opset 21
//   matmulnbits  two bits: com.microsoft.MatMulNBits for linear layers, packed bytes and the operations that unpack them for all others; opset 21
//   int2         INT2 behind DequantizeLinear; opset 25
//   int8         INT8 behind DequantizeLinear, activations through QuantizeLinear and DequantizeLinear with a scale of 1; opset 21
//
// Weights kept in int8 are INT8 in all but `float`. Symbols become sizes by name. States become inputs of their name, [batch, groups, past_<context>, d],
// and outputs `<name>.next`, which hold the new positions, too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

inline constexpr const char* kVariants = "float matmulnbits int2 int8";

// The model's bytes; the same for the same program. `variant`: of kVariants; empty: the first. Errors: those of verify(), and Unsupported where ONNX
// or the variant has no form for a node, naming it, or where the file would pass protobuf's two gigabytes.
Result<std::string> serialize(const program::Program& program, std::string_view variant);

// The program of a model of opset 7 or later, whoever wrote it: readers.def lists the operators. Names of sizes become symbols, the batch first; what can be
// computed of constants and sizes is. Errors: Corrupt, saying what was expected and where; Unsupported, naming the node, its operator and why.
Result<program::Program> parse(std::span<const uint8_t> bytes);
// The same of a file, with tensors in files of its folder. Errors besides: NotFound, IoError.
Result<program::Program> load(const std::filesystem::path& path);

}  // namespace bitlab::format::onnx
