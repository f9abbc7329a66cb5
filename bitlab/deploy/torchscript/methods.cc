// Methods that forward() calls: what ATen has no operator for, and, in the portable variant, BitLab's operators with their arguments. Their lines are TorchScript
// and Python. Dtypes are LibTorch's numbers: 6 is float32, 7 float64.
#include "bitlab/deploy/torchscript/internal/methods.h"

#include <algorithm>
#include <array>

namespace bitlab::deploy::torchscript {
namespace {

constexpr std::array kScriptMethods{
    Method{"from_front", R"(
def from_front(self, indices: Tensor, n: int) -> Tensor:
    return torch.where(torch.lt(indices, 0), indices + n, indices)
)"},
    Method{"written", R"(
def written(self, x: Tensor, source: Tensor, dim: int, start: int, step: int) -> Tensor:
    if start < 0:
        start = start + x.size(dim)
    return torch.slice_scatter(x, source, dim, start, start + source.size(dim) * step, step)
)"},
    Method{"sorted", R"(
def sorted(self, x: Tensor, length: int, descending: bool) -> Tuple[Tensor, Tensor]:
    values, places = torch.sort(x, stable=True, dim=-1, descending=descending)
    return torch.slice(values, -1, 0, length), torch.slice(places, -1, 0, length)
)"},
    // Query i of t sees the keys up to past + i. A query that sees none is NaN.
    Method{"attention", R"(
def attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], causal: bool, scale: float, past: int) -> Tensor:
    times = q.size(1) // k.size(1)
    if times != 1:
        k = torch.repeat_interleave(k, times, 1)
        v = torch.repeat_interleave(v, times, 1)
    scores = torch.matmul(q, torch.transpose(k, 2, 3)) * scale
    if mask is not None:
        if torch.is_floating_point(mask):
            scores = scores + mask
        else:
            scores = torch.masked_fill(scores, torch.logical_not(mask), -float("inf"))
    if causal:
        queries = torch.arange(past, past + q.size(2), device=q.device)
        seen = torch.le(torch.arange(k.size(2), device=q.device), torch.unsqueeze(queries, 1))
        scores = torch.masked_fill(scores, torch.logical_not(seen), -float("inf"))
    weights = torch.softmax(scores, -1)
    if mask is not None:
        hidden = torch.eq(torch.amax(scores, [-1], True), -float("inf"))
        weights = torch.masked_fill(weights, hidden, 0.0)
    return torch.matmul(weights, v)
)"},
    Method{"sigmoid", R"(
def sigmoid(self, x: Tensor) -> Tensor:
    return torch.sigmoid(x)
)"},
    Method{"tanh", R"(
def tanh(self, x: Tensor) -> Tensor:
    return torch.tanh(x)
)"},
    Method{"rotary", R"(
def rotary(self, x: Tensor, positions: Tensor, theta: float) -> Tensor:
    half = x.size(-1) // 2
    rates = torch.pow(theta, torch.to(torch.arange(half, device=x.device), 7) * (-1.0 / float(half)))
    angles = torch.unsqueeze(torch.to(positions, 7), 1) * rates
    c = torch.to(torch.cos(angles), 6)
    s = torch.to(torch.sin(angles), 6)
    a = torch.slice(x, -1, 0, half)
    b = torch.slice(x, -1, half)
    return torch.cat([a * c - b * s, b * c + a * s], -1)
)"},
    // t [rows, depth] of two bits each, four a byte, or of int8.
    Method{"unpacked", R"(
def unpacked(self, codes: Tensor, depth: int) -> Tensor:
    if torch.is_signed(codes):
        return torch.to(codes, 6)
    fields = torch.stack([torch.bitwise_and(torch.bitwise_right_shift(codes, 2 * i), 3) for i in range(4)], -1)
    return torch.to(torch.slice(torch.flatten(fields, 1), 1, 0, depth), 6) - 1.0
)"},
    // t s of scales of groups.
    Method{"scaled", R"(
def scaled(self, t: Tensor, scale: Tensor, group: int) -> Tensor:
    return t * torch.slice(torch.repeat_interleave(torch.to(scale, 6), group, 1), 1, 0, t.size(1))
)"},
    // q and what a unit of it stands for, with one dynamic scale for each `largest`.
    Method{"quantized", R"(
def quantized(self, x: Tensor, largest: Tensor, act_scale: Optional[Tensor], activation: str) -> Tuple[Tensor, Tensor]:
    if activation == "none":
        return x, torch.ones_like(largest)
    limit = 7.0 if activation.startswith("int4") else 127.0
    if act_scale is not None:
        inv = torch.reciprocal(act_scale)
    else:
        inv = torch.div(torch.full_like(largest, limit), torch.clamp(largest, 1e-5))
    return torch.clamp(torch.round(x * inv), -limit, limit), torch.reciprocal(inv)
)"},
    // Whether sums of q t may pass 2^24, where float32 skips integers.
    Method{"is_deep", R"(
def is_deep(self, codes: Tensor, depth: int, activation: str) -> bool:
    return activation != "none" and depth * 127 * (127 if torch.is_signed(codes) else 1) > 16777216
)"},
    Method{"row_sums", R"(
def row_sums(self, q: Tensor, t: Tensor, deep: bool) -> Tensor:
    if deep:
        return torch.to(torch.matmul(torch.to(q, 7), torch.to(torch.t(t), 7)), 6)
    return torch.matmul(q, torch.t(t))
)"},
    Method{"ternary_linear", R"(
def ternary_linear(self, x: Tensor, codes: Tensor, scale: Tensor, scale_neg: Optional[Tensor], bias: Optional[Tensor], act_scale: Optional[Tensor], activation: str, group: int) -> Tensor:
    q, a = self.quantized(x, torch.amax(torch.abs(x), [-1], True), act_scale, activation)
    t = self.unpacked(codes, x.size(-1))
    deep = self.is_deep(codes, x.size(-1), activation)
    if group != 0:
        y = torch.matmul(q, torch.t(self.scaled(t, scale, group))) * a
    elif scale_neg is None:
        y = self.row_sums(q, t, deep) * a * scale
    else:
        y = self.row_sums(q, torch.clamp(t, 0), deep) * a * scale - self.row_sums(q, torch.clamp(-t, 0), deep) * a * scale_neg
    if bias is not None:
        y = y + bias
    return y
)"},
    // Filters as LibTorch has them, of [rows, kernel..., channels / groups].
    Method{"filters", R"(
def filters(self, t: Tensor, kernel_size: List[int], transposed: bool, groups: int) -> Tensor:
    if transposed:
        return torch.flatten(torch.movedim(torch.reshape(t, [groups, t.size(0) // groups] + kernel_size + [-1]), -1, 1), 0, 1)
    return torch.movedim(torch.reshape(t, [t.size(0)] + kernel_size + [-1]), -1, 1)
)"},
    // Sums of integers are integers, whichever algorithm adds them.
    Method{"convolved", R"(
def convolved(self, q: Tensor, t: Tensor, kernel_size: List[int], stride: List[int], padding: List[int], dilation: List[int], transposed: bool, output_padding: List[int], groups: int, whole: bool, deep: bool) -> Tensor:
    weight = self.filters(t, kernel_size, transposed, groups)
    if deep:
        q = torch.to(q, 7)
        weight = torch.to(weight, 7)
    y = torch.convolution(q, weight, None, stride, padding, dilation, transposed, output_padding, groups)
    if whole:
        y = torch.to(torch.round(y), 6)
    return y
)"},
    Method{"ternary_conv", R"(
def ternary_conv(self, x: Tensor, codes: Tensor, scale: Tensor, scale_neg: Optional[Tensor], bias: Optional[Tensor], act_scale: Optional[Tensor], kernel_size: List[int], stride: List[int], padding: List[int], dilation: List[int], transposed: bool, output_padding: List[int], groups: int, activation: str, group: int) -> Tensor:
    ones = [1 for i in kernel_size]
    largest = torch.reshape(torch.amax(torch.flatten(torch.abs(x), 1), [1]), [-1, 1] + ones)
    q, a = self.quantized(x, largest, act_scale, activation)
    depth = x.size(1) // groups
    for size in kernel_size:
        depth = depth * size
    t = self.unpacked(codes, depth)
    whole = activation != "none"
    deep = self.is_deep(codes, depth, activation)
    if group != 0:
        y = self.convolved(q, self.scaled(t, scale, group), kernel_size, stride, padding, dilation, transposed, output_padding, groups, False, False) * a
    elif scale_neg is None:
        y = self.convolved(q, t, kernel_size, stride, padding, dilation, transposed, output_padding, groups, whole, deep) * a * torch.reshape(scale, [-1] + ones)
    else:
        plus = self.convolved(q, torch.clamp(t, 0), kernel_size, stride, padding, dilation, transposed, output_padding, groups, whole, deep) * a
        minus = self.convolved(q, torch.clamp(-t, 0), kernel_size, stride, padding, dilation, transposed, output_padding, groups, whole, deep) * a
        y = plus * torch.reshape(scale, [-1] + ones) - minus * torch.reshape(scale_neg, [-1] + ones)
    if bias is not None:
        y = y + torch.reshape(bias, [-1] + ones)
    return y
)"},
    Method{"ternary_embedding", R"(
def ternary_embedding(self, codes: Tensor, scale: Tensor, scale_neg: Optional[Tensor], indices: Tensor, depth: int, group: int) -> Tensor:
    rows = torch.flatten(indices)
    t = self.unpacked(torch.index_select(codes, 0, rows), depth)
    if group != 0:
        y = self.scaled(t, torch.index_select(scale, 0, rows), group)
    else:
        factor = torch.unsqueeze(self.row_scales(scale, rows), 1)
        if scale_neg is not None:
            factor = torch.where(torch.lt(t, 0), torch.unsqueeze(self.row_scales(scale_neg, rows), 1), factor)
        y = t * factor
    return torch.reshape(y, list(indices.size()) + [depth])
)"},
    Method{"row_scales", R"(
def row_scales(self, scale: Tensor, rows: Tensor) -> Tensor:
    if scale.size(0) == 1:
        return scale
    return torch.index_select(scale, 0, rows)
)"},
    Method{"recurrent_step", R"(
def recurrent_step(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor, cell: str) -> Tuple[Tensor, Tensor]:
    if cell == "lstm":
        parts = torch.chunk(x + u, 4, 1)
        c = torch.sigmoid(parts[1]) * c + torch.sigmoid(parts[0]) * torch.tanh(parts[2])
        return torch.sigmoid(parts[3]) * torch.tanh(c), c
    inputs = torch.chunk(x, 3, 1)
    parts = torch.chunk(u, 3, 1)
    update = torch.sigmoid(inputs[1] + parts[1])
    new = torch.tanh(inputs[2] + torch.sigmoid(inputs[0] + parts[0]) * parts[2])
    return new + update * (h - new), c
)"},
    Method{"ternary_recurrent", R"(
def ternary_recurrent(self, x: Tensor, codes: Tensor, scale: Tensor, scale_neg: Optional[Tensor], bias: Optional[Tensor], h0: Optional[Tensor], c0: Optional[Tensor], act_scale: Optional[Tensor], cell: str, reverse: bool, activation: str, group: int) -> Tuple[Tensor, Tensor, Tensor]:
    hidden = x.size(2) // (4 if cell == "lstm" else 3)
    h = h0 if h0 is not None else torch.zeros([x.size(0), hidden], device=x.device)
    c = c0 if c0 is not None else torch.zeros([x.size(0), hidden], device=x.device)
    states: List[Tensor] = []
    for i in range(x.size(1)):
        gates = torch.select(x, 1, x.size(1) - 1 - i if reverse else i)
        u = self.ternary_linear(h, codes, scale, scale_neg, bias, act_scale, activation, group)
        h, c = self.recurrent_step(gates, u, h, c, cell)
        states.append(h)
    if reverse:
        states.reverse()
    return torch.stack(states, 1), h, c
)"},
    Method{"recurrent", R"(
def recurrent(self, x: Tensor, weight: Tensor, bias: Optional[Tensor], h0: Optional[Tensor], c0: Optional[Tensor], cell: str, reverse: bool) -> Tuple[Tensor, Tensor, Tensor]:
    h = h0 if h0 is not None else torch.zeros([x.size(0), weight.size(1)], device=x.device)
    c = c0 if c0 is not None else torch.zeros([x.size(0), weight.size(1)], device=x.device)
    states: List[Tensor] = []
    for i in range(x.size(1)):
        gates = torch.select(x, 1, x.size(1) - 1 - i if reverse else i)
        h, c = self.recurrent_step(gates, torch.linear(h, weight, bias), h, c, cell)
        states.append(h)
    if reverse:
        states.reverse()
    return torch.stack(states, 1), h, c
)"},
    Method{"recurrent_layer", R"(
def recurrent_layer(self, x: Tensor, weights: List[Tensor], h0: Optional[Tensor], c0: Optional[Tensor], cell: str, reverse: bool) -> Tuple[Tensor, Tensor, Tensor]:
    shape = [x.size(0), weights[1].size(1)]
    h = torch.unsqueeze(h0 if h0 is not None else torch.zeros(shape, device=x.device), 0)
    c = torch.unsqueeze(c0 if c0 is not None else torch.zeros(shape, device=x.device), 0)
    y = torch.flip(x, [1]) if reverse else x
    if cell == "lstm":
        y, h, c = torch.lstm(y, [h, c], weights, len(weights) == 4, 1, 0.0, False, False, True)
    else:
        y, h = torch.gru(y, h, weights, len(weights) == 4, 1, 0.0, False, False, True)
    if reverse:
        y = torch.flip(y, [1])
    return y, torch.squeeze(h, 0), torch.squeeze(c, 0)
)"},
};

}  // namespace

const Method* find_method(std::string_view name) {
  const auto* const found =
      std::find_if(kScriptMethods.begin(), kScriptMethods.end(), [&](const Method& method) { return method.name == name; });
  return found == kScriptMethods.end() ? nullptr : &*found;
}

}  // namespace bitlab::deploy::torchscript
