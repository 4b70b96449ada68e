"""The element-wise work of a fused training step as Triton kernels: one pass over memory each. `fused.ops` picks these on a GPU.

Rows are tokens. Inputs and outputs may be wider in memory than their H columns (the extended buffers of `fused.projections`), so every
kernel takes the distance from row to row. Arithmetic is in float32, rounded once, when stored.
"""

# a kernel's arguments are pointers, numbers and (in capitals) constants that it is compiled for; Triton itself has no types
# ruff: noqa: ANN001, ANN201, N803
# mypy: disable-error-code="import-untyped, untyped-decorator, no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def add_norm(
    residual, y, weight, total, out, rstd, eps, width, y_row, out_row, ADD: tl.constexpr, STORE: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Total = residual + y; out = RMSNorm(total) * weight; rstd, 1 / root mean square of total."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    value = tl.load(y + row * y_row + cols, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + row * width + cols, mask=inside, other=0.0).to(tl.float32)
    value = value.to(out.dtype.element_ty)
    if STORE:
        tl.store(total + row * width + cols, value, mask=inside)
    value = value.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / width + eps)
    tl.store(rstd + row, scale)
    gain = tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + cols, (value * scale * gain).to(out.dtype.element_ty), mask=inside)


@triton.jit
def norm_backward(
    gradient, total, rstd, weight, passed, out, width, gradient_row, passed_row, out_row, ADD: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Out = gradient of RMSNorm's input, plus `passed`, the gradient that came along the residual."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK)
    inside = cols < width
    value = tl.load(total + row * width + cols, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(gradient + row * gradient_row + cols, mask=inside, other=0.0).to(tl.float32)
    grad *= tl.load(weight + cols, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(rstd + row)
    normed = value * scale
    result = scale * (grad - normed * (tl.sum(grad * normed, axis=0) / width))
    if ADD:
        result += tl.load(passed + row * passed_row + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + cols, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def rotate(
    source, out, cos, sin, positions, source_row, out_row,
    HEADS: tl.constexpr, HALF: tl.constexpr, HEADS_UP: tl.constexpr, HALF_UP: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Rotary embedding of one token's heads, [HEADS, 2 * HALF] from source to out (may be the same); BACK turns the other way."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS_UP)[:, None]
    half = tl.arange(0, HALF_UP)[None, :]
    inside = (head < HEADS) & (half < HALF)
    place = head * (2 * HALF) + half
    position = tl.load(positions + row)
    c = tl.load(cos + position * HALF + half, mask=half < HALF, other=0.0)
    s = tl.load(sin + position * HALF + half, mask=half < HALF, other=0.0)
    if BACK:
        s = -s
    first = tl.load(source + row * source_row + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + row * source_row + place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + place, (first * c - second * s).to(out.dtype.element_ty), mask=inside)
    tl.store(out + row * out_row + place + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def swiglu(gate_up, out, width, gate_up_row, out_row, BLOCK: tl.constexpr):
    """Out = silu(gate) * up, where a row of gate_up holds both, `width` columns each."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    gate = tl.load(gate_up + row * gate_up_row + cols, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * gate_up_row + width + cols, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_row + cols, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def swiglu_backward(gradient, gate_up, width, gradient_row, gate_up_row, BLOCK: tl.constexpr):
    """In place: gate_up becomes its gradient, and the gradient of the product becomes the product."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = cols < width
    gate_at = gate_up + row * gate_up_row + cols
    grad_at = gradient + row * gradient_row + cols
    gate = tl.load(gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_at + width, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    kind = gate_up.dtype.element_ty
    tl.store(grad_at, (silu * up).to(kind), mask=inside)
    tl.store(gate_at + width, (grad * silu).to(kind), mask=inside)
    tl.store(gate_at, (grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))).to(kind), mask=inside)


@triton.jit
def cross_entropy(logits, targets, losses, width, row_size, BLOCK: tl.constexpr):
    """Losses = -log softmax(logits)[target]; in place, logits become the loss's gradient, softmax minus one-hot."""
    row = tl.program_id(0).to(tl.int64)
    start_of_row = logits + row * row_size
    target = tl.load(targets + row)
    at_target = tl.load(start_of_row + target).to(tl.float32)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(start_of_row + cols, mask=cols < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(highest, value)
        kept = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(highest - kept) + tl.exp(value - kept)
        highest = higher
    top = tl.max(highest, axis=0)
    log_sum = top + tl.log(tl.sum(total * tl.exp(highest - top), axis=0))
    tl.store(losses + row, log_sum - at_target)
    for start in range(0, width, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        value = tl.load(start_of_row + cols, mask=cols < width, other=float("-inf")).to(tl.float32)
        share = tl.exp(value - log_sum) - tl.where(cols == target, 1.0, 0.0)
        tl.store(start_of_row + cols, share.to(logits.dtype.element_ty), mask=cols < width)


@triton.jit
def dequantize_nf4(
    packed_0, scales_0, scale_scales_0, offset_0, packed_1, scales_1, scale_scales_1, offset_1,
    packed_2, scales_2, scale_scales_2, offset_2, scale_values, values, a, b, out, end_0, end_1, end_2, width, ranks, out_row,
    NESTED: tl.constexpr, SIZE: tl.constexpr, OUTER: tl.constexpr, BYTES: tl.constexpr, RANKS_UP: tl.constexpr,
):  # fmt: skip
    """The buffer of a group (`fused.projections`) of up to three bitsandbytes NF4 weights [rows, width] that end at the rows end_0, end_1,
    end_2: a program writes part of a row, the first of a row its part of B too, and those past end_2 a row of A.

    Two weights a byte, the first in the high half; SIZE weights share a scale, itself in 8 bit (NESTED) with OUTER of them sharing theirs.
    """
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    cols = part * (2 * BYTES) + tl.arange(0, 2 * BYTES)
    kind = out.dtype.element_ty
    if row >= end_2:
        line = tl.load(a + (row - end_2) * width + cols, mask=cols < width, other=0.0)
        tl.store(out + row * out_row + cols, line, mask=cols < width)
    else:
        packed, scales, scale_scales, offset, first_row = packed_0, scales_0, scale_scales_0, offset_0, row * 0
        if row >= end_1:
            packed, scales, scale_scales, offset, first_row = (
                packed_2,
                scales_2,
                scale_scales_2,
                offset_2,
                row * 0 + end_1,
            )
        elif row >= end_0:
            packed, scales, scale_scales, offset, first_row = (
                packed_1,
                scales_1,
                scale_scales_1,
                offset_1,
                row * 0 + end_0,
            )
        byte = part * BYTES + tl.arange(0, BYTES)
        inside = byte * 2 < width
        place = (row - first_row) * (width // 2) + byte
        pair = tl.load(packed + place, mask=inside, other=0).to(tl.int32)
        block = place // (SIZE // 2)
        if NESTED:
            code = tl.load(scales + block, mask=inside, other=0).to(tl.int32)
            scale = tl.load(scale_values + code) * tl.load(scale_scales + block // OUTER, mask=inside, other=0.0)
            scale += tl.load(offset)
        else:
            scale = tl.load(scales + block, mask=inside, other=0.0)
        first = tl.load(values + (pair >> 4)) * scale
        second = tl.load(values + (pair & 15)) * scale
        tl.store(out + row * out_row + cols, tl.interleave(first.to(kind), second.to(kind)), mask=cols < width)
        if part == 0:
            rank = tl.arange(0, RANKS_UP)
            line = tl.load(b + row * ranks + rank, mask=rank < ranks, other=0.0)
            tl.store(out + row * out_row + width + rank, line, mask=rank < ranks)
