"""Triton kernels of `ddpm.models.fused`: normalization, modulation and SiLU of images in channels-last layout.

An image is P pixels of C channels, in memory pixel by pixel. A program handles a block of whole groups of one image, as
a tile of rows (pixels) and lanes (channels), so that neighboring addresses are read together although a group has few
channels. All arithmetic is in float32; sums have a fixed order, so that results do not change from call to call.

With x_hat = (h + shift before the norm - mean) / std and z = a x_hat + b per channel, the output is z or silu(z). In
backward, p and q are the sums over pixels of dL/dz x_hat and of dL/dz, from which all gradients of coefficients follow.
"""

import triton
import triton.language as tl


@triton.jit
def _lanes(C, CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return the image, the channel of each lane, whether it exists, and the group of each lane within the block."""
    blocks = tl.cdiv(C, GROUPS * CPG)
    image = (tl.program_id(0) // blocks).to(tl.int64)               # an offset of 32 bits would overflow
    lane = tl.arange(0, BLOCK_C)
    first = (tl.program_id(0) % blocks) * (GROUPS * CPG)
    return image, first + lane, (lane < GROUPS * CPG) & (first + lane < C), lane // CPG


@triton.jit
def _over_group(values, group, CPG: tl.constexpr, GROUPS: tl.constexpr):
    """Return in each lane the sum over the lanes of its group; lanes without a channel must be 0."""
    if CPG == 1:
        total = values
    elif GROUPS == 1:
        total = tl.zeros_like(values) + tl.sum(values, axis=0)
    else:
        total = tl.sum(tl.where(group[:, None] == group[None, :], values[None, :], 0.0), axis=1)
    return total


@triton.jit
def _coefficients(
    weight, bias, modulation, image, channel, real, C,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr,
):
    """Return weight, bias, 1 + scale, and the shifts before and after the norm of each lane."""
    w = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    row = modulation + image * C * (SCALE + SHIFT) + channel
    factor, before, after = tl.zeros_like(w) + 1, tl.zeros_like(w), tl.zeros_like(w)
    if SCALE:
        factor = 1 + tl.load(row, mask=real, other=0.0).to(tl.float32)
    if SHIFT:
        shift = tl.load(row + SCALE * C, mask=real, other=0.0).to(tl.float32)
        if BEFORE:
            before = shift
        else:
            after = shift
    return w, b, factor, before, after


@triton.jit
def _load(values, first, end, P, channel, real, image, C, BLOCK_P: tl.constexpr):
    """Return the pixels from `first` to `end` of an image in float32, with their offsets and their mask."""
    pixel = first + tl.arange(0, BLOCK_P)
    offsets = image * P * C + pixel[:, None].to(tl.int64) * C + channel[None, :]
    inside = (pixel < end)[:, None] & real[None, :]
    return tl.load(values + offsets, mask=inside, other=0.0).to(tl.float32), offsets, inside


@triton.jit
def _moments(x, inside, count, group, CENTER: tl.constexpr, CPG: tl.constexpr, GROUPS: tl.constexpr):
    """Return mean and sum of squared distances from it, of the group of each lane; the mean is 0 unless CENTER."""
    mean = tl.zeros_like(count)
    if CENTER:
        mean = _over_group(tl.sum(x, axis=0), group, CPG, GROUPS) / count
    distance = tl.where(inside, x - mean[None, :], 0.0)
    return mean, _over_group(tl.sum(distance * distance, axis=0), group, CPG, GROUPS)


@triton.jit
def _statistics(mean_in, rstd_in, image, channel, real, C, CPG: tl.constexpr):
    """Return mean and 1 / std of the group of each lane, which forward has stored."""
    statistic = image * (C // CPG) + channel // CPG
    return tl.load(mean_in + statistic, mask=real, other=0.0), tl.load(rstd_in + statistic, mask=real, other=0.0)


@triton.jit
def _output(x_hat, a, b, SILU: tl.constexpr):
    """Return y."""
    z = a[None, :] * x_hat + b[None, :]
    if SILU:
        z = z * tl.sigmoid(z)
    return z


@triton.jit
def _grad_z(grad, x_hat, a, b, SILU: tl.constexpr):
    """Return dL/dz from dL/dy."""
    if SILU:
        z = a[None, :] * x_hat + b[None, :]
        s = tl.sigmoid(z)
        grad = grad * s * (1 + z * (1 - s))
    return grad


@triton.jit
def _mean_gradients(a, p, q, P, group, CENTER: tl.constexpr, CPG: tl.constexpr, GROUPS: tl.constexpr):
    """Return the means of dL/dx_hat, 0 unless CENTER, and of dL/dx_hat x_hat over the group of each lane."""
    count = tl.zeros_like(a) + P * CPG
    mean_grad = tl.zeros_like(a)
    if CENTER:
        mean_grad = _over_group(a * q, group, CPG, GROUPS) / count
    return mean_grad, _over_group(a * p, group, CPG, GROUPS) / count


@triton.jit
def _grad_h(grad_z, x_hat, a, rstd, mean_grad, mean_product):
    """Return dL/dh; the means are those of dL/dx_hat and of dL/dx_hat x_hat over the group."""
    return rstd[None, :] * (a[None, :] * grad_z - mean_grad[None, :] - x_hat * mean_product[None, :])


@triton.jit
def _store_grads(
    grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
    image, channel, real, P, C, BC,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr,
):
    """Store the gradients of the coefficients of one image: (2, B, C) of weight and bias, and of the modulation."""
    tl.store(grad_affine + image * C + channel, factor * p, mask=real)
    tl.store(grad_affine + BC + image * C + channel, factor * q, mask=real)
    row = grad_modulation + image * C * (SCALE + SHIFT) + channel
    if SCALE:
        tl.store(row, (w * p + b * q).to(grad_modulation.dtype.element_ty), mask=real)
    if SHIFT:
        grad_shift = q
        if BEFORE:
            grad_shift = rstd * (w * factor * q - P * mean_grad - sum_x_hat * mean_product)
        tl.store(row + SCALE * C, grad_shift.to(grad_modulation.dtype.element_ty), mask=real)


@triton.jit
def forward_whole(
    h, weight, bias, modulation, y, mean_out, rstd_out, P, C, eps,
    CENTER: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr, SILU: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Normalize groups that fit on the chip: read h, write y."""
    image, channel, real, group = _lanes(C, CPG, GROUPS, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, SCALE, SHIFT, BEFORE
    )
    x, offsets, inside = _load(h, 0, P, P, channel, real, image, C, BLOCK_P)
    if BEFORE:
        x = tl.where(inside, x + before[None, :], 0.0)
    count = tl.zeros_like(w) + P * CPG
    mean, squares = _moments(x, inside, count, group, CENTER, CPG, GROUPS)
    rstd = 1 / tl.sqrt(squares / count + eps)
    z = _output((x - mean[None, :]) * rstd[None, :], w * factor, b * factor + after, SILU)
    tl.store(y + offsets, z.to(y.dtype.element_ty), mask=inside)
    statistic, once = image * (C // CPG) + channel // CPG, real & (channel % CPG == 0)
    tl.store(mean_out + statistic, mean, mask=once)
    tl.store(rstd_out + statistic, rstd, mask=once)


@triton.jit
def backward_whole(
    grad, h, weight, bias, modulation, mean_in, rstd_in, grad_h, grad_affine, grad_modulation, P, C, BC,
    CENTER: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr, SILU: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Compute all gradients of groups that fit on the chip: read grad and h, write grad_h."""
    image, channel, real, group = _lanes(C, CPG, GROUPS, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, SCALE, SHIFT, BEFORE
    )
    mean, rstd = _statistics(mean_in, rstd_in, image, channel, real, C, CPG)
    a = w * factor
    x, offsets, inside = _load(h, 0, P, P, channel, real, image, C, BLOCK_P)
    x_hat = tl.where(inside, (x + (before - mean)[None, :]) * rstd[None, :], 0.0)
    dy, _, _ = _load(grad, 0, P, P, channel, real, image, C, BLOCK_P)
    dz = _grad_z(dy, x_hat, a, b * factor + after, SILU)
    p, q, sum_x_hat = tl.sum(dz * x_hat, axis=0), tl.sum(dz, axis=0), tl.zeros_like(w)
    if BEFORE:
        sum_x_hat = tl.sum(x_hat, axis=0)
    mean_grad, mean_product = _mean_gradients(a, p, q, P, group, CENTER, CPG, GROUPS)
    dx = _grad_h(dz, x_hat, a, rstd, mean_grad, mean_product)
    tl.store(grad_h + offsets, dx.to(grad_h.dtype.element_ty), mask=inside)
    _store_grads(
        grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
        image, channel, real, P, C, BC, SCALE, SHIFT, BEFORE,
    )


@triton.jit
def forward_moments(
    h, modulation, moments, P, C, ROWS,
    CENTER: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Write mean and sum of squared distances from it of each chunk of ROWS pixels: (B, chunks, 2, G)."""
    image, channel, real, group = _lanes(C, CPG, GROUPS, BLOCK_C)
    start = tl.program_id(1) * ROWS
    end = tl.minimum(start + ROWS, P)
    mean = tl.zeros([BLOCK_C], tl.float32)
    squares, count, before = tl.zeros_like(mean), tl.zeros_like(mean), tl.zeros_like(mean)
    if BEFORE:
        row = modulation + image * C * (SCALE + SHIFT) + channel
        before = tl.load(row + SCALE * C, mask=real, other=0.0).to(tl.float32)
    for first in range(start, end, BLOCK_P):
        x, _, inside = _load(h, first, end, P, channel, real, image, C, BLOCK_P)
        x = tl.where(inside, x + before[None, :], 0.0)
        here = tl.zeros_like(mean) + tl.minimum(end - first, BLOCK_P) * CPG
        tile_mean, tile_squares = _moments(x, inside, here, group, CENTER, CPG, GROUPS)
        distance, total = tile_mean - mean, count + here            # Chan, Golub & LeVeque 1983, equation 2.1
        squares += tile_squares + distance * distance * (count * here / total)
        mean += distance * (here / total)
        count = total
    groups = C // CPG
    target = moments + (image * tl.num_programs(1) + tl.program_id(1)) * 2 * groups + channel // CPG
    once = real & (channel % CPG == 0)
    tl.store(target, mean, mask=once)
    tl.store(target + groups, squares, mask=once)


@triton.jit
def forward_apply(
    h, weight, bias, modulation, moments, y, mean_out, rstd_out, P, C, eps, ROWS,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr, SILU: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHUNKS: tl.constexpr,
):
    """Normalize one chunk of ROWS pixels with the moments of all: read h, write y."""
    image, channel, real, _group = _lanes(C, CPG, GROUPS, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, SCALE, SHIFT, BEFORE
    )
    chunk, groups = tl.arange(0, CHUNKS)[:, None], C // CPG
    source = moments + (image * tl.num_programs(1) + chunk) * 2 * groups + (channel // CPG)[None, :]
    known = (chunk < tl.num_programs(1)) & real[None, :]
    means = tl.load(source, mask=known, other=0.0)
    squares = tl.load(source + groups, mask=known, other=0.0)
    counts = tl.maximum(tl.minimum(P - chunk * ROWS, ROWS), 0) * CPG
    count = tl.zeros_like(w) + P * CPG
    mean = tl.sum(means * counts, axis=0) / count
    distance = means - mean[None, :]
    rstd = 1 / tl.sqrt(tl.sum(squares + counts * distance * distance, axis=0) / count + eps)
    a, b = w * factor, b * factor + after
    start = tl.program_id(1) * ROWS
    end = tl.minimum(start + ROWS, P)
    for first in range(start, end, BLOCK_P):
        x, offsets, inside = _load(h, first, end, P, channel, real, image, C, BLOCK_P)
        z = _output((x + (before - mean)[None, :]) * rstd[None, :], a, b, SILU)
        tl.store(y + offsets, z.to(y.dtype.element_ty), mask=inside)
    statistic, once = image * groups + channel // CPG, real & (channel % CPG + tl.program_id(1) == 0)
    tl.store(mean_out + statistic, mean, mask=once)
    tl.store(rstd_out + statistic, rstd, mask=once)


@triton.jit
def backward_sums(
    grad, h, weight, bias, modulation, mean_in, rstd_in, sums, P, C, ROWS,
    SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr, SILU: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):
    """Write p, q and the sum of x_hat of each chunk of ROWS pixels: (B, chunks, 3, C)."""
    image, channel, real, _group = _lanes(C, CPG, GROUPS, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, SCALE, SHIFT, BEFORE
    )
    mean, rstd = _statistics(mean_in, rstd_in, image, channel, real, C, CPG)
    a, b = w * factor, b * factor + after
    p, q, sum_x_hat = tl.zeros_like(w), tl.zeros_like(w), tl.zeros_like(w)
    start = tl.program_id(1) * ROWS
    end = tl.minimum(start + ROWS, P)
    for first in range(start, end, BLOCK_P):
        x, _, inside = _load(h, first, end, P, channel, real, image, C, BLOCK_P)
        x_hat = tl.where(inside, (x + (before - mean)[None, :]) * rstd[None, :], 0.0)
        dy, _, _ = _load(grad, first, end, P, channel, real, image, C, BLOCK_P)
        dz = _grad_z(dy, x_hat, a, b, SILU)
        p += tl.sum(dz * x_hat, axis=0)
        q += tl.sum(dz, axis=0)
        if BEFORE:
            sum_x_hat += tl.sum(x_hat, axis=0)
    target = sums + (image * tl.num_programs(1) + tl.program_id(1)) * 3 * C + channel
    tl.store(target, p, mask=real)
    tl.store(target + C, q, mask=real)
    if BEFORE:
        tl.store(target + 2 * C, sum_x_hat, mask=real)


@triton.jit
def backward_apply(
    grad, h, weight, bias, modulation, mean_in, rstd_in, sums, grad_h, grad_affine, grad_modulation, P, C, BC, ROWS,
    CENTER: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr, BEFORE: tl.constexpr, SILU: tl.constexpr,
    CPG: tl.constexpr, GROUPS: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, CHUNKS: tl.constexpr,
):
    """Compute grad_h of one chunk of ROWS pixels from the sums of all: read grad and h, write grad_h."""
    image, channel, real, group = _lanes(C, CPG, GROUPS, BLOCK_C)
    w, b, factor, before, after = _coefficients(
        weight, bias, modulation, image, channel, real, C, SCALE, SHIFT, BEFORE
    )
    mean, rstd = _statistics(mean_in, rstd_in, image, channel, real, C, CPG)
    a = w * factor
    chunk = tl.arange(0, CHUNKS)[:, None]
    source = sums + (image * tl.num_programs(1) + chunk) * 3 * C + channel[None, :]
    known = (chunk < tl.num_programs(1)) & real[None, :]
    p = tl.sum(tl.load(source, mask=known, other=0.0), axis=0)
    q = tl.sum(tl.load(source + C, mask=known, other=0.0), axis=0)
    sum_x_hat = tl.zeros_like(w)
    if BEFORE:
        sum_x_hat = tl.sum(tl.load(source + 2 * C, mask=known, other=0.0), axis=0)
    mean_grad, mean_product = _mean_gradients(a, p, q, P, group, CENTER, CPG, GROUPS)
    start = tl.program_id(1) * ROWS
    end = tl.minimum(start + ROWS, P)
    for first in range(start, end, BLOCK_P):
        x, offsets, inside = _load(h, first, end, P, channel, real, image, C, BLOCK_P)
        x_hat = (x + (before - mean)[None, :]) * rstd[None, :]
        dy, _, _ = _load(grad, first, end, P, channel, real, image, C, BLOCK_P)
        dz = _grad_z(dy, x_hat, a, b * factor + after, SILU)
        dx = _grad_h(dz, x_hat, a, rstd, mean_grad, mean_product)
        tl.store(grad_h + offsets, dx.to(grad_h.dtype.element_ty), mask=inside)
    _store_grads(
        grad_affine, grad_modulation, p, q, sum_x_hat, mean_grad, mean_product, rstd, w, b, factor,
        image, channel, real & (tl.zeros_like(channel) + tl.program_id(1) == 0), P, C, BC, SCALE, SHIFT, BEFORE,
    )
