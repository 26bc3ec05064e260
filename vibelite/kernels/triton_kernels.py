"""The device code of the fused head: forward statistics, their merge, and tiles of dz.

Base 2 throughout: z = logit * log2(e) / temperature, so that a probability is one exp2. A logit
tile lives in float32 registers and is never rounded before the statistics. Launching is elsewhere.
"""

import triton
import triton.language as tl

# A masked logit. Finite, so that p * (z - max) is 0 and not 0 * inf.
MASKED = tl.constexpr(-1e30)
# Below this every column of a row was masked: no real logit is near it.
ALL_MASKED = tl.constexpr(-1e25)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _load_block(
    source, start_row, num_rows, start_k, width, stride,
    ROWS: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, USE_TMA: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """[ROWS, BK] of a row-major matrix. Rows past the end hold zeros (TMA) or repeat the last row:
    their results are never used."""
    if USE_TMA:
        block = source.load([start_row, start_k])
    else:
        rows = tl.minimum(start_row + tl.arange(0, ROWS), num_rows - 1).to(tl.int64)
        ks = start_k + tl.arange(0, BK)
        pointers = source + rows[:, None] * stride + ks[None, :]
        if EVEN_K:
            block = tl.load(pointers)
        else:
            block = tl.load(pointers, mask=ks[None, :] < width, other=0.0)
    if WIDEN:  # The interpreter multiplies the bit patterns of bf16 operands.
        block = block.to(tl.float32)
    return block


@triton.jit
def _logit_tile(
    hidden, weight, bias, start_row, start_column, N, V, H, hidden_stride, weight_stride, softcap,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr,
    USE_TMA: tl.constexpr, WIDEN: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """softcap(h W^T + bias), [BM, BN] float32."""
    logits = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(tl.cdiv(H, BK)):
        h = _load_block(
            hidden, start_row, N, step * BK, H, hidden_stride, BM, BK, EVEN_K, USE_TMA, WIDEN
        )
        w = _load_block(
            weight, start_column, V, step * BK, H, weight_stride, BN, BK, EVEN_K, USE_TMA, WIDEN
        )
        logits = tl.dot(h, w.T, logits, input_precision="ieee")
    if HAS_BIAS:
        columns = start_column + tl.arange(0, BN)
        b = tl.load(bias + columns, mask=columns < V, other=0.0).to(tl.float32)
        logits = tl.maximum(logits + b[None, :], MASKED)
    if HAS_SOFTCAP:
        logits = softcap * (2 * tl.sigmoid(logits * (2 / softcap)) - 1)
    return logits


@triton.jit
def forward_kernel(
    hidden, weight, bias, partial,
    N, V, H, hidden_stride, weight_stride, softcap, scale, num_row_tiles, num_splits,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr,
    USE_TMA: tl.constexpr, WIDEN: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """(m, S, U) of BM rows over one split of the vocabulary; partial [splits, 3, N].

    Row tiles vary fastest over the grid, so that concurrent programs read the same weight tiles.
    The number of splits does not depend on N: a row's result does not depend on its batch.
    """
    program = tl.program_id(0)
    start_row = (program % num_row_tiles) * BM
    split = program // num_row_tiles
    rows = start_row + tl.arange(0, BM)
    num_tiles = tl.cdiv(V, BN)
    first = split * num_tiles // num_splits
    last = (split + 1) * num_tiles // num_splits
    m = tl.full((BM,), MASKED * 10, dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    weighted = tl.zeros((BM,), dtype=tl.float32)
    for tile in range(first, last):
        start_column = tile * BN
        logits = _logit_tile(
            hidden, weight, bias, start_row, start_column, N, V, H, hidden_stride, weight_stride,
            softcap, BM, BN, BK, EVEN_K, USE_TMA, WIDEN, HAS_BIAS, HAS_SOFTCAP,
        )  # fmt: skip
        if start_column + BN > V:
            columns = start_column + tl.arange(0, BN)
            logits = tl.where(columns[None, :] < V, logits, MASKED)
        new_m = tl.maximum(m, tl.max(logits, 1) * scale)
        shifted = logits * scale - new_m[:, None]
        if HAS_BIAS:
            # One fused multiply-add: where every column is masked, the rounding of new_m is 1e22.
            shifted = tl.minimum(shifted, 0.0)
        e = tl.exp2(shifted)
        shrink = tl.exp2(m - new_m)
        weighted = shrink * (weighted + (m - new_m) * total) + tl.sum(e * shifted, 1)
        total = shrink * total + tl.sum(e, 1)
        m = new_m
    out = partial + split * 3 * N + rows
    tl.store(out, m, mask=rows < N)
    tl.store(out + N, total, mask=rows < N)
    tl.store(out + 2 * N, weighted, mask=rows < N)


@triton.jit
def target_kernel(
    hidden, weight, bias, targets, target_logit,
    N, V, H, hidden_stride, weight_stride, softcap, scale,
    BM: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, WIDEN: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """z at each row's target, [N]; NaN where the target is outside the vocabulary.

    The diagonal of h times the targets' weight rows, by the same matrix instructions as the other
    logits, so that a row that is all target gets log-prob 0. Picking it out of the forward kernel's
    tiles instead cost that kernel 5 % (registers).
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    target = tl.load(targets + rows, mask=rows < N, other=0).to(tl.int64)
    valid = (target >= 0) & (target < V)
    target = tl.where(valid, target, 0)
    safe_rows = tl.minimum(rows, N - 1).to(tl.int64)
    h_rows = hidden + safe_rows[:, None] * hidden_stride
    w_rows = weight + target[:, None] * weight_stride
    logits = tl.zeros((BM, BM), dtype=tl.float32)
    for step in range(tl.cdiv(H, BK)):
        ks = step * BK + tl.arange(0, BK)[None, :]
        if EVEN_K:
            h = tl.load(h_rows + ks)
            w = tl.load(w_rows + ks)
        else:
            h = tl.load(h_rows + ks, mask=ks < H, other=0.0)
            w = tl.load(w_rows + ks, mask=ks < H, other=0.0)
        if WIDEN:
            h = h.to(tl.float32)
            w = w.to(tl.float32)
        logits = tl.dot(h, w.T, logits, input_precision="ieee")
    lane = tl.arange(0, BM)
    logit = tl.sum(tl.where(lane[:, None] == lane[None, :], logits, 0.0), 1)
    if HAS_BIAS:
        logit = tl.maximum(logit + tl.load(bias + target).to(tl.float32), MASKED)
    if HAS_SOFTCAP:
        logit = softcap * (2 * tl.sigmoid(logit * (2 / softcap)) - 1)
    tl.store(target_logit + rows, tl.where(valid, logit * scale, float("nan")), mask=rows < N)


@triton.jit
def merge_kernel(
    partial, target_logit, logprobs, entropy, logsumexp, N, num_parts,
    PARTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Merges partial [parts, 3, N] in a fixed order; log-prob, entropy, log-sum-exp in nats."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = rows < N
    m = tl.full((ROWS,), MASKED * 10, dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    weighted = tl.zeros((ROWS,), dtype=tl.float32)
    for start in range(0, num_parts, PARTS):
        parts = start + tl.arange(0, PARTS)
        source = partial + parts.to(tl.int64)[:, None] * 3 * N + rows[None, :]
        mask = (parts < num_parts)[:, None] & inside[None, :]
        part_m = tl.load(source, mask=mask, other=-1e31)
        part_total = tl.load(source + N, mask=mask, other=0.0)
        part_weighted = tl.load(source + 2 * N, mask=mask, other=0.0)
        new_m = tl.maximum(m, tl.max(part_m, 0))
        shift = part_m - new_m[None, :]
        part_shrink, shrink = tl.exp2(shift), tl.exp2(m - new_m)
        weighted = shrink * (weighted + (m - new_m) * total) + tl.sum(
            part_shrink * (part_weighted + shift * part_total), 0
        )
        total = shrink * total + tl.sum(part_shrink * part_total, 0)
        m = new_m
    log_total = tl.where(m < ALL_MASKED, float("nan"), tl.log2(total))
    z = tl.load(target_logit + rows, mask=inside, other=0.0)
    z = tl.where(z < ALL_MASKED, float("-inf"), z)
    tl.store(logprobs + rows, (z - m - log_total) * LN2, mask=inside)
    tl.store(entropy + rows, (log_total - weighted / total) * LN2, mask=inside)
    tl.store(logsumexp + rows, (m + log_total) * LN2, mask=inside)


@triton.jit
def _store_tile(
    out, tile, start_row, start_column, N, num_columns, stride,
    BM: tl.constexpr, BN: tl.constexpr, USE_TMA: tl.constexpr,
):  # fmt: skip
    if USE_TMA:
        out.store([start_row, start_column], tile.to(out.dtype))
    else:
        rows = start_row + tl.arange(0, BM)
        columns = start_column + tl.arange(0, BN)
        pointers = out + rows.to(tl.int64)[:, None] * stride + columns[None, :]
        mask = (rows < N)[:, None] & (columns < num_columns)[None, :]
        tl.store(pointers, tile.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _tile_order(tile, num_row_tiles, num_column_tiles, GROUP: tl.constexpr):
    """Row and column of a tile, GROUP row tiles at a time: operands stay in the L2 cache."""
    per_group = GROUP * num_column_tiles
    group = tile // per_group
    size = tl.minimum(num_row_tiles - group * GROUP, GROUP)
    within = tile % per_group
    return group * GROUP + within % size, within // size


@triton.jit
def row_constants_kernel(
    logprobs, entropy, logsumexp, grad_logprobs, grad_entropy, out,
    N, logprob_stride, entropy_stride, softcap, scale,
    BLOCK: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """What dz needs of each row, out [4, N]: log-sum-exp in base 2, A, B, dz at the target.

    A row without upstream gradient gets p = 0, whatever its logits.
    """
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rows < N
    inverse = scale * LN2
    a = tl.load(grad_logprobs + rows * logprob_stride, mask=inside, other=0.0) * inverse
    b = tl.load(grad_entropy + rows * entropy_stride, mask=inside, other=0.0) * inverse
    dead = (a == 0) & (b == 0)
    log_p = tl.load(logprobs + rows, mask=inside, other=0.0)
    spread = tl.load(entropy + rows, mask=inside, other=0.0)
    lse = tl.load(logsumexp + rows, mask=inside, other=0.0)
    p = tl.exp(log_p)
    # 1 - p without cancellation: the series' remainder is below 4e-10 where it is used.
    series = -log_p * (1 + log_p * (0.5 + log_p * (1 / 6 + log_p * (1 / 24 + log_p / 120))))
    one_minus_p = tl.where(log_p > -0.1, series, 1 - p)
    at_target = a * one_minus_p - b * tl.where(p > 0, p * (log_p + spread), 0.0)
    if HAS_SOFTCAP:
        capped = (log_p + lse) / (inverse * softcap)
        at_target = at_target * (1 - capped * capped)
    tl.store(out + rows, tl.where(dead, 1e30, lse / LN2), mask=inside)
    tl.store(out + N + rows, tl.where(dead, 0.0, a + b * spread), mask=inside)
    tl.store(out + 2 * N + rows, tl.where(dead, 0.0, b * LN2), mask=inside)
    tl.store(out + 3 * N + rows, tl.where(dead, 0.0, at_target), mask=inside)


@triton.jit
def target_dz_kernel(targets, at_target, dz, N, V, dz_stride, BLOCK: tl.constexpr):
    """Overwrites dz at each row's target."""
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.load(targets + rows, mask=rows < N, other=-1).to(tl.int64)
    value = tl.load(at_target + rows, mask=rows < N, other=0.0)
    mask = (rows < N) & (column >= 0) & (column < V)
    out = dz + rows.to(tl.int64) * dz_stride + column
    tl.store(out, value.to(dz.dtype.element_ty), mask=mask)


@triton.jit
def exp_kernel(
    hidden, weight, bias, partial, exps,
    N, V, H, hidden_stride, weight_stride, exps_stride, softcap, scale,
    num_row_tiles, num_column_tiles, num_programs,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr,
    USE_TMA: tl.constexpr, WIDEN: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """exps [N, V] = 2^(z - k) and partial [column tiles, 3, N] = (k, S, U), k the tile's maximum
    rounded up to an integer.

    Stored this way a bf16 keeps 8 bits of every probability, where bf16 logits would lose up to
    0.13 nats; S and U come from the unrounded values.
    """
    num_tiles = num_row_tiles * num_column_tiles
    for tile in tl.range(tl.program_id(0), num_tiles, num_programs, flatten=USE_TMA):  # pyright: ignore
        row_tile, column_tile = _tile_order(tile, num_row_tiles, num_column_tiles, 8)  # pyright: ignore
        start_row = row_tile * BM
        start_column = column_tile * BN
        logits = _logit_tile(
            hidden, weight, bias, start_row, start_column, N, V, H, hidden_stride, weight_stride,
            softcap, BM, BN, BK, EVEN_K, USE_TMA, WIDEN, HAS_BIAS, HAS_SOFTCAP,
        )  # fmt: skip
        columns = start_column + tl.arange(0, BN)
        logits = tl.where(columns[None, :] < V, logits, MASKED)
        rows = start_row + tl.arange(0, BM)
        inside = rows < N
        k = tl.ceil(tl.max(logits, 1) * scale)
        shifted = logits * scale - k[:, None]
        if HAS_BIAS:  # as in forward_kernel
            shifted = tl.minimum(shifted, 0.0)
        e = tl.exp2(shifted)
        out = partial + column_tile.to(tl.int64) * 3 * N + rows
        tl.store(out, k, mask=inside)
        tl.store(out + N, tl.sum(e, 1), mask=inside)
        tl.store(out + 2 * N, tl.sum(e * shifted, 1), mask=inside)
        _store_tile(
            exps, e, start_row, start_column, N, V, exps_stride, BM, BN, USE_TMA,
        )  # fmt: skip


@triton.jit
def exp_to_dz_kernel(
    exps, partial, row_constants, N, V, exps_stride, softcap, scale, num_row_tiles,
    ROWS: tl.constexpr, BN: tl.constexpr, HAS_SOFTCAP: tl.constexpr,
):  # fmt: skip
    """Turns exps [N, V] into dz in place; BN is the column tile that `exp_kernel` used."""
    row_tile = tl.program_id(0) % num_row_tiles
    column_tile = tl.program_id(0) // num_row_tiles
    rows = row_tile * ROWS + tl.arange(0, ROWS)
    columns = column_tile * BN + tl.arange(0, BN)
    inside = rows < N
    k = tl.load(partial + column_tile.to(tl.int64) * 3 * N + rows, mask=inside, other=0.0)
    logsumexp = tl.load(row_constants + rows, mask=inside, other=0.0)
    A = tl.load(row_constants + N + rows, mask=inside, other=0.0)
    B = tl.load(row_constants + 2 * N + rows, mask=inside, other=0.0)
    pointers = exps + rows.to(tl.int64)[:, None] * exps_stride + columns[None, :]
    mask = inside[:, None] & (columns < V)[None, :]
    e = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    shift = k - logsumexp
    log_p = tl.where(e > 0, tl.log2(e), -200.0) + shift[:, None]
    p = e * tl.exp2(shift)[:, None]
    gradient = p * (-A[:, None] - B[:, None] * log_p)
    if HAS_SOFTCAP:
        capped = (log_p + logsumexp[:, None]) / (scale * softcap)
        gradient = gradient * (1 - capped * capped)
    tl.store(pointers, gradient.to(exps.dtype.element_ty), mask=mask)
