// The container of a .bit file: safetensors, with 64-byte alignment and checksums.
#pragma once

#include "bitlab/format/safetensors/safetensors.h"

namespace bitlab::format::bit {

// Writes the tensors in the given order. `metadata` must not use the keys of the checksums.
std::string write_container(std::span<const safetensors::NamedTensor> tensors, std::map<std::string, std::string> metadata);

// Views into `bytes`, without the padding. Error: Corrupt.
Result<safetensors::Contents> read_container(std::span<const uint8_t> bytes);

}  // namespace bitlab::format::bit
