"""Triton kernels of `ddpm.models.fused`: normalization, modulation and SiLU of images in channels-last layout.

An image is P pixels of C channels, in memory pixel by pixel. A program handles a block of whole groups of one image, as
tiles of rows (pixels) and lanes (channels), so that neighboring addresses are read together although a group has few
channels. It goes through its pixels twice, for sums and for results; the second time, they come from the cache. Images
with too few blocks for all processors of a GPU are divided into chunks of pixels, with a kernel for each of the two.

All arithmetic is in float32; sums have a fixed order, so that results do not change from call to call. A GPU copies the
bytes of a value in the time of about 30 instructions per value, which is why formulas are arranged for few of them.

With x_hat = (h + shift before the norm - mean) / std and z = a x_hat + b per channel, the output is z or silu(z). In
backward, p and q are the sums over pixels of dL/dz x_hat and of dL/dz, from which all gradients of coefficients follow.
"""

import triton
import triton.language as tl

# Arguments of the form of a norm. Every value would otherwise compile kernels of its own, which takes a second each.
FORM = ["per_group", "centered", "scaled", "shifted"]


@triton.jit
def _lanes(C, per_group, WIDTH: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the image, and of each lane its channel, whether it exists, its group, and whether it is the first in it.

    Args:
        C: channels of the image.
        per_group: channels of a group.
        WIDTH: channels of the block, which are whole groups.
        BLOCK_C: lanes.
    """
    blocks = tl.cdiv(C, WIDTH)
    image = (tl.program_id(0) // blocks).to(tl.int64)               # an offset of 32 bits would overflow
    lane = tl.arange(0, BLOCK_C)
    within = ((lane + 0.5) / per_group).to(tl.int32)                # as a division of integers, with fewer instructions
    first = (tl.program_id(0) % blocks) * WIDTH
    channel = first + lane
    return image, channel, (lane < WIDTH) & (channel < C), first // per_group + within, lane == within * per_group


@triton.jit
def _over_group(values, real, per_group, SHARED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return in each lane the sum over the channels of its group.

    Runs of SHARED lanes, a power of 2, have the same group, and are summed first. Then all pairs of runs are compared.
    """
    RUNS: tl.constexpr = BLOCK_C // SHARED
    total = tl.sum(tl.reshape(tl.where(real, values, 0.0), [RUNS, SHARED]), axis=1)
    if RUNS > 1:
        group = ((tl.arange(0, RUNS) * SHARED + 0.5) / per_group).to(tl.int32)
        total = tl.sum(tl.where(group[:, None] == group[None, :], total[None, :], 0.0), axis=1)
    return tl.reshape(tl.broadcast_to(total[:, None], [RUNS, SHARED]), [BLOCK_C])


@triton.jit
def _coefficients(weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE: tl.constexpr):
    """Return weight, bias, 1 + scale, and the shifts before and after the norm of each lane.

    The modulation has a row of C scales if `scaled` is 1, and then one of C shifts if `shifted` is 1.
    """
    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    row = modulation + image * C * (scaled + shifted) + channel
    factor = 1 + tl.load(row, mask=real & (channel < scaled * C), other=0.0).to(tl.float32)
    shift = tl.load(row + scaled * C, mask=real & (channel < shifted * C), other=0.0).to(tl.float32)
    none = tl.zeros_like(shift)
    if BEFORE:
        return w, b, factor, shift, none
    else:
        return w, b, factor, none, shift


@triton.jit
def _find_tile(first, end, channel, real, C, BLOCK_P: tl.constexpr):
    """Return offsets within an image of the pixels from `first`, and whether each is before `end` and exists."""
    pixel = first + tl.arange(0, BLOCK_P)
    return pixel[:, None] * C + channel[None, :], (pixel < end)[:, None] & real[None, :]


@triton.jit
def _load(values, offsets, inside, EVEN: tl.constexpr):
    """Return a tile in float32, with 0 outside of the image."""
    if EVEN:
        tile = tl.load(values + offsets)
    else:
        tile = tl.load(values + offsets, mask=inside, other=0.0)
    return tile.to(tl.float32)


@triton.jit
def _store(target, offsets, inside, tile, EVEN: tl.constexpr):
    """Store a tile, without what is outside of the image."""
    if EVEN:
        tl.store(target + offsets, tile.to(target.dtype.element_ty))
    else:
        tl.store(target + offsets, tile.to(target.dtype.element_ty), mask=inside)


@triton.jit
def _sigmoid(z):
    """Return 1 / (1 + exp(-z)); a reciprocal root is one instruction, and a quotient is five."""
    root = tl.rsqrt(1 + tl.exp2(z * -1.4426950408889634))         # exp(-z) = 2^(-z log2(e))
    return root * root


@triton.jit
def _load_grad_z(grad, h, offsets, inside, a, b, SILU: tl.constexpr, EVEN: tl.constexpr):
    """Return h and dL/dz of a tile, with z = a h + b."""
    x, dz = _load(h, offsets, inside, EVEN), _load(grad, offsets, inside, EVEN)
    if SILU:
        z = a[None, :] * x + b[None, :]
        s = _sigmoid(z)
        dz = dz * (s + s * (z - z * s))
    return x, dz


# --------------------------------------------------------------------------------------------------------- forward


@triton.jit
def _power_sums(
    h, start, end, channel, real, C, EVEN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Return a value of each lane, and sum and sum of squares over pixels of the distances from it.

    The value is that of the first pixel of the image. Sums of squares of the values themselves would lose the variance
    of channels whose mean is large.
    """
    pivot = tl.load(h + channel, mask=real, other=0.0).to(tl.float32)
    total, squares = tl.zeros([BLOCK_P, BLOCK_C], tl.float32), tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for first in range(start, end, BLOCK_P):
        offsets, inside = _find_tile(first, end, channel, real, C, BLOCK_P)
        distance = _load(h, offsets, inside, EVEN) - pivot[None, :]
        if not EVEN:
            distance = tl.where(inside, distance, 0.0)
        total += distance
        squares += distance * distance
    return pivot, tl.sum(total, axis=0), tl.sum(squares, axis=0)


@triton.jit
def _statistics(
    pivot, total, squares, before, P, per_group, eps, real, centered, SHARED: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Return mean (0 unless `centered`) and 1 / std of the group of each lane from the sums over all pixels."""
    count, base = tl.zeros_like(pivot) + P * per_group, pivot + before
    mean = centered * _over_group(total + P * base, real, per_group, SHARED, BLOCK_C) / count
    base -= mean
    variance = _over_group(squares + base * (2 * total + P * base), real, per_group, SHARED, BLOCK_C) / count
    return mean, tl.rsqrt(tl.maximum(variance, 0.0, propagate_nan=tl.PropagateNan.ALL) + eps)


@triton.jit
def _store_statistics(mean_out, rstd_out, statistic, mean, rstd, once):
    """Store mean and 1 / std of each group."""
    tl.store(mean_out + statistic, mean, mask=once)
    tl.store(rstd_out + statistic, rstd, mask=once)


@triton.jit
def _write_output(
    h, y, start, end, channel, real, C, a, b,
    SILU: tl.constexpr, EVEN: tl.constexpr, BLOCK_P: tl.constexpr,
):
    """Write z = a h + b or silu(z) of the pixels from `start` to `end`."""
    for first in range(start, end, BLOCK_P):
        offsets, inside = _find_tile(first, end, channel, real, C, BLOCK_P)
        z = a[None, :] * _load(h, offsets, inside, EVEN) + b[None, :]
        if SILU:
            z = z * _sigmoid(z)
        _store(y, offsets, inside, z, EVEN)


@triton.jit(do_not_specialize=FORM)
def forward_whole(
    h, weight, bias, modulation, y, mean_out, rstd_out, P, C, eps, per_group, centered, scaled, shifted,
    BEFORE: tl.constexpr, SILU: tl.constexpr, SHARED: tl.constexpr, EVEN: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Read h, write y, mean and 1 / std."""
    image, channel, real, group, leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE
    )
    h += image * P * C
    pivot, total, squares = _power_sums(h, 0, P, channel, real, C, EVEN, BLOCK_P, BLOCK_C)
    mean, rstd = _statistics(pivot, total, squares, before, P, per_group, eps, real, centered, SHARED, BLOCK_C)
    a = w * factor * rstd
    b = b * factor + after + a * (before - mean)
    _write_output(h, y + image * P * C, 0, P, channel, real, C, a, b, SILU, EVEN, BLOCK_P)
    _store_statistics(mean_out, rstd_out, image * (C // per_group) + group, mean, rstd, real & leads)


@triton.jit(do_not_specialize=FORM)
def forward_sums(
    h, sums, P, C, ROWS, per_group,
    EVEN: tl.constexpr, WIDTH: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Write the two sums of each chunk of ROWS pixels: (B, chunks, 2, C)."""
    image, channel, real, _group, _leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    start = tl.program_id(1) * ROWS
    _pivot, total, squares = _power_sums(
        h + image * P * C, start, tl.minimum(start + ROWS, P), channel, real, C, EVEN, BLOCK_P, BLOCK_C
    )
    target = sums + (image * tl.num_programs(1) + tl.program_id(1)) * 2 * C + channel
    tl.store(target, total, mask=real)
    tl.store(target + C, squares, mask=real)


@triton.jit(do_not_specialize=FORM)
def forward_apply(
    h, weight, bias, modulation, sums, y, mean_out, rstd_out, P, C, eps, ROWS, per_group, centered, scaled, shifted,
    BEFORE: tl.constexpr, SILU: tl.constexpr, SHARED: tl.constexpr, EVEN: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHUNKS: tl.constexpr,
):
    """Normalize one chunk of ROWS pixels with the sums of all: read h, write y."""
    image, channel, real, group, leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE
    )
    h += image * P * C
    source, known = _find_sums(sums, image, 2, channel, real, C, CHUNKS)
    total = tl.sum(tl.load(source, mask=known, other=0.0), axis=0)
    squares = tl.sum(tl.load(source + C, mask=known, other=0.0), axis=0)
    pivot = tl.load(h + channel, mask=real, other=0.0).to(tl.float32)
    mean, rstd = _statistics(pivot, total, squares, before, P, per_group, eps, real, centered, SHARED, BLOCK_C)
    a = w * factor * rstd
    b = b * factor + after + a * (before - mean)
    start = tl.program_id(1) * ROWS
    end = tl.minimum(start + ROWS, P)
    _write_output(h, y + image * P * C, start, end, channel, real, C, a, b, SILU, EVEN, BLOCK_P)
    once = real & leads & (tl.zeros_like(channel) + tl.program_id(1) == 0)
    _store_statistics(mean_out, rstd_out, image * (C // per_group) + group, mean, rstd, once)


@triton.jit
def _find_sums(sums, image, KINDS: tl.constexpr, channel, real, C, CHUNKS: tl.constexpr):
    """Return the addresses of the first kind of sums of all chunks of an image, and whether each exists."""
    chunk = tl.arange(0, CHUNKS)[:, None]
    source = sums + (image * tl.num_programs(1) + chunk) * KINDS * C + channel[None, :]
    return source, (chunk < tl.num_programs(1)) & real[None, :]


# -------------------------------------------------------------------------------------------------------- backward


@triton.jit
def _load_statistics(mean_in, rstd_in, image, group, real, C, per_group):
    """Return mean and 1 / std of the group of each lane, which forward has stored."""
    statistic = image * (C // per_group) + group
    return tl.load(mean_in + statistic, mask=real, other=0.0), tl.load(rstd_in + statistic, mask=real, other=0.0)


@triton.jit
def _gradient_sums(
    grad, h, start, end, channel, real, C, h_center, rstd, a, b,
    BEFORE: tl.constexpr, SILU: tl.constexpr, EVEN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Return p, q and the sum of x_hat (0 unless BEFORE) of each lane; x_hat = (h - h_center) rstd, z = a h + b."""
    p, q = tl.zeros([BLOCK_P, BLOCK_C], tl.float32), tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    total = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for first in range(start, end, BLOCK_P):
        offsets, inside = _find_tile(first, end, channel, real, C, BLOCK_P)
        x, dz = _load_grad_z(grad, h, offsets, inside, a, b, SILU, EVEN)        # dz is 0 outside of the image
        distance = x - h_center[None, :]
        p += dz * distance
        q += dz
        if BEFORE:
            total += distance if EVEN else tl.where(inside, distance, 0.0)
    return rstd * tl.sum(p, axis=0), tl.sum(q, axis=0), rstd * tl.sum(total, axis=0)


@triton.jit
def _mean_gradients(a, p, q, P, per_group, real, centered, SHARED: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the means of dL/dx_hat, 0 unless `centered`, and of dL/dx_hat x_hat over the group of each lane."""
    count = tl.zeros_like(a) + P * per_group
    mean_grad = centered * _over_group(a * q, real, per_group, SHARED, BLOCK_C) / count
    return mean_grad, _over_group(a * p, real, per_group, SHARED, BLOCK_C) / count


@triton.jit
def _write_grad_h(
    grad, h, grad_h, start, end, channel, real, C, h_center, rstd, a, b, mean_grad, mean_product,
    SILU: tl.constexpr, EVEN: tl.constexpr, BLOCK_P: tl.constexpr,
):
    """Write dL/dh = a dL/dz - (mean_grad + x_hat mean_product) rstd of the pixels from `start` to `end`.

    As above, x_hat = (h - h_center) rstd and z = a h + b.
    """
    slope = rstd * rstd * mean_product
    constant = rstd * mean_grad - slope * h_center
    for first in range(start, end, BLOCK_P):
        offsets, inside = _find_tile(first, end, channel, real, C, BLOCK_P)
        x, dz = _load_grad_z(grad, h, offsets, inside, a, b, SILU, EVEN)
        _store(grad_h, offsets, inside, a[None, :] * dz - (slope[None, :] * x + constant[None, :]), EVEN)


@triton.jit
def _store_grads(
    grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
    image, channel, real, P, C, BC, scaled, shifted, BEFORE: tl.constexpr,
):
    """Store the gradients of the coefficients of one image: (2, B, C) of weight and bias, and of the modulation."""
    tl.store(grad_affine + image * C + channel, factor * p, mask=real)
    tl.store(grad_affine + BC + image * C + channel, factor * q, mask=real)
    row = grad_modulation + image * C * (scaled + shifted) + channel
    tl.store(row, (w * p + b * q).to(grad_modulation.dtype.element_ty), mask=real & (channel < scaled * C))
    grad_shift = q
    if BEFORE:
        grad_shift = rstd * (w * factor * q - P * mean_grad - sum_x_hat * mean_product)
    tl.store(row + scaled * C, grad_shift.to(grad_modulation.dtype.element_ty), mask=real & (channel < shifted * C))


@triton.jit(do_not_specialize=FORM)
def backward_whole(
    grad, h, weight, bias, modulation, mean_in, rstd_in, grad_h, grad_affine, grad_modulation, P, C, BC,
    per_group, centered, scaled, shifted,
    BEFORE: tl.constexpr, SILU: tl.constexpr, SHARED: tl.constexpr, EVEN: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Read grad and h, write all gradients."""
    image, channel, real, group, _leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE
    )
    mean, rstd = _load_statistics(mean_in, rstd_in, image, group, real, C, per_group)
    grad += image * P * C
    h += image * P * C
    h_center, a = mean - before, w * factor * rstd
    b_z = b * factor + after - a * h_center
    p, q, sum_x_hat = _gradient_sums(
        grad, h, 0, P, channel, real, C, h_center, rstd, a, b_z, BEFORE, SILU, EVEN, BLOCK_P, BLOCK_C
    )
    mean_grad, mean_product = _mean_gradients(w * factor, p, q, P, per_group, real, centered, SHARED, BLOCK_C)
    _write_grad_h(
        grad, h, grad_h + image * P * C, 0, P, channel, real, C, h_center, rstd, a, b_z, mean_grad, mean_product,
        SILU, EVEN, BLOCK_P,
    )
    _store_grads(
        grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
        image, channel, real, P, C, BC, scaled, shifted, BEFORE,
    )


@triton.jit(do_not_specialize=FORM)
def backward_sums(
    grad, h, weight, bias, modulation, mean_in, rstd_in, sums, P, C, ROWS, per_group, scaled, shifted,
    BEFORE: tl.constexpr, SILU: tl.constexpr, EVEN: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Write p, q and the sum of x_hat of each chunk of ROWS pixels: (B, chunks, 3, C)."""
    image, channel, real, group, _leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE
    )
    mean, rstd = _load_statistics(mean_in, rstd_in, image, group, real, C, per_group)
    h_center, a, start = mean - before, w * factor * rstd, tl.program_id(1) * ROWS
    p, q, sum_x_hat = _gradient_sums(
        grad + image * P * C, h + image * P * C, start, tl.minimum(start + ROWS, P), channel, real, C,
        h_center, rstd, a, b * factor + after - a * h_center, BEFORE, SILU, EVEN, BLOCK_P, BLOCK_C,
    )
    target = sums + (image * tl.num_programs(1) + tl.program_id(1)) * 3 * C + channel
    tl.store(target, p, mask=real)
    tl.store(target + C, q, mask=real)
    if BEFORE:
        tl.store(target + 2 * C, sum_x_hat, mask=real)


@triton.jit(do_not_specialize=FORM)
def backward_apply(
    grad, h, weight, bias, modulation, mean_in, rstd_in, sums, grad_h, grad_affine, grad_modulation, P, C, BC, ROWS,
    per_group, centered, scaled, shifted,
    BEFORE: tl.constexpr, SILU: tl.constexpr, SHARED: tl.constexpr, EVEN: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHUNKS: tl.constexpr,
):
    """Compute grad_h of one chunk of ROWS pixels from the sums of all: read grad and h, write grad_h."""
    image, channel, real, group, _leads = _lanes(C, per_group, WIDTH, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, scaled, shifted, BEFORE
    )
    mean, rstd = _load_statistics(mean_in, rstd_in, image, group, real, C, per_group)
    h_center, a, start = mean - before, w * factor * rstd, tl.program_id(1) * ROWS
    source, known = _find_sums(sums, image, 3, channel, real, C, CHUNKS)
    p = tl.sum(tl.load(source, mask=known, other=0.0), axis=0)
    q = tl.sum(tl.load(source + C, mask=known, other=0.0), axis=0)
    sum_x_hat = tl.zeros_like(w)
    if BEFORE:
        sum_x_hat = tl.sum(tl.load(source + 2 * C, mask=known, other=0.0), axis=0)
    mean_grad, mean_product = _mean_gradients(w * factor, p, q, P, per_group, real, centered, SHARED, BLOCK_C)
    _write_grad_h(
        grad + image * P * C, h + image * P * C, grad_h + image * P * C, start, tl.minimum(start + ROWS, P),
        channel, real, C, h_center, rstd, a, b * factor + after - a * h_center, mean_grad, mean_product,
        SILU, EVEN, BLOCK_P,
    )
    _store_grads(
        grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
        image, channel, real & (tl.zeros_like(channel) + tl.program_id(1) == 0), P, C, BC, scaled, shifted, BEFORE,
    )
