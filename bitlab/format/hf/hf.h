// Folders of Hugging Face's transformers with BitNet's quantization: decoders with ternary weights (decoder.h), read and written.
//
//   config.json                    architectures BitNetForCausalLM (with sub-norms) or LlamaForCausalLM; quantization_config with quant_method bitnet
//   model.safetensors              or shards, which model.safetensors.index.json lists
//
// A packed weight [rows, depth] is U8 [R, depth] with R = ceil(rows / 4): bits 2 j and 2 j + 1 of row r hold t + 1 of row j R + r. Its `weight_scale` [1] is
// multiplied with (linear_class autobitlinear) or divided by (bitlinear). In the mode `online` weights are floats, from which codes and scale follow by
// `absmean` (ternary/methods.def). Modules in modules_to_not_convert, and the head, are float. Tokenizers are files beside these (formats.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::format::hf {

struct File {
  std::string name, bytes;
};

// config.json and model.safetensors, of autobitlinear, which keeps scales as they are. Errors: those of verify(); Unsupported: a program that is none of
// these decoders, naming the node; weights with more than one scale, rows that 4 does not divide, a ternary table or head, naming the part.
Result<std::vector<File>> serialize(const program::Program& program);

// Reads and verifies; copies what it needs. Errors: NotFound, IoError, Corrupt, Unsupported (another architecture or quantization, no linear_class).
Result<program::Program> load(const std::filesystem::path& folder);

// The same of a config and one file of tensors in memory.
Result<program::Program> parse(std::string_view config, std::span<const uint8_t> tensors);

}  // namespace bitlab::format::hf
