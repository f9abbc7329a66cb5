// GGUF files of llama.cpp and its relatives: decoders with ternary weights (decoder.h), read and written.
//
// Architectures: `llama`, whose rotary embeddings turn neighbours in place of halves, so that rows of queries and keys stand in another order; `bitnet`,
// with sub-norms and SiLU; `bitnet-b1.58` and `bitnet-25`, the same with squared ReLU, which bitnet.cpp alone has. Types of tensors: types.def.
// Ternary weights keep codes and scales; activations are int8 by token, where llama.cpp multiplies TQ1_0, TQ2_0 and Q2_0 by int8 with a scale for 256 or
// fewer values of a token: results agree within the rounding of activations. Tokenizers are left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "bitlab/program/program.h"

namespace bitlab::format::gguf {

// The file's bytes; the same for the same program. `type` of ternary weights: "tq2_0", "tq1_0", "q2_0" or "i2_s". Errors: those of verify(); Unsupported: a
// program that is none of these decoders, naming the node; weights that the type cannot hold without rounding, naming the tensor.
Result<std::string> serialize(const program::Program& program, std::string_view type);

// Reads and verifies; copies what it needs. Errors: Corrupt, UnsupportedVersion, Unsupported (an architecture, a type of tensors, a tensor that the
// architecture here does not have).
Result<program::Program> parse(std::span<const uint8_t> bytes);

// Maps the file and parses it. Errors: as parse(), NotFound, IoError, each naming the path.
Result<program::Program> load(const std::filesystem::path& path);

}  // namespace bitlab::format::gguf
