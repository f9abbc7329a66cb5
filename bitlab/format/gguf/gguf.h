// GGUF files of llama.cpp and its relatives: decoders and encoders with ternary weights (decoder.h), read and written.
//
// Architectures: `llama`, whose rotary embeddings turn neighbours in place of halves, so that rows of queries and keys stand in another order; `bitnet`,
// with sub-norms and SiLU; `bitnet-b1.58` and `bitnet-25`, the same with squared ReLU, which bitnet.cpp alone has; `bert`, encoders, which
// llama.cpp runs for embeddings, and whose tokens all have its first type. Types of tensors: types.def.
// Ternary weights keep codes and scales; activations are int8 by token, where llama.cpp multiplies TQ1_0, TQ2_0 and Q2_0 by int8 with a scale for 256 or
// fewer values of a token: results agree within the rounding of activations.
//
// Tokenizers travel as the keys "tokenizer.ggml.…", from which llama.cpp encodes text: byte-pair encoding on bytes, SentencePiece's, WordPiece and Unigram.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "bitlab/data/tokenizer.h"
#include "bitlab/program/program.h"

namespace bitlab::format::gguf {

// The file's bytes; the same for the same program. `type` of ternary weights: "tq2_0", "tq1_0", "q2_0" or "i2_s". Errors: those of verify(); Unsupported: a
// program that is none of these, naming the node; weights that the type cannot hold without rounding, naming the tensor; a tokenizer that llama.cpp
// would encode text with in another way, naming what it lacks; those of parse_tokenizer(); InvalidArgument (a tokenizer of more tokens than the table has).
Result<std::string> serialize(const program::Program& program, std::string_view type,
                              const data::TokenizerFiles& tokenizer = {});

// Reads and verifies; copies what it needs. Errors: Corrupt, UnsupportedVersion, Unsupported (an architecture, a type of tensors, a tensor that the
// architecture here does not have).
Result<program::Program> parse(std::span<const uint8_t> bytes);

// What a user may do about a tokenizer that is refused, where a network is written.
inline constexpr std::string_view kLeftOut = "a tokenizer of 'none' leaves it out";

// The tokenizer of a file; empty where it has none. Errors: those of the container; Corrupt (sizes, numbers, texts and merges that contradict each other);
// Unsupported (another kind than those above, another way of cutting text than those of pre_tokenizers.def); those of parse_tokenizer().
Result<data::TokenizerFiles> parse_tokenizer_files(std::span<const uint8_t> bytes);
Result<data::TokenizerFiles> load_tokenizer_files(const std::filesystem::path& path);

// Maps the file and parses it. Errors: as parse(), NotFound, IoError, each naming the path.
Result<program::Program> load(const std::filesystem::path& path);

}  // namespace bitlab::format::gguf
