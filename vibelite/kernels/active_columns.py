"""Opt-in backward pass that multiplies only the vocabulary columns that matter (`grad_tol`).

A backend forms dz, the gradient of the logits, exactly and for whole rows, some rows at a time.
Most of its columns are next to nothing when the policy is sure of itself; leaving them out of the
products dh = dz W and dW = dz^T h saves up to 4 of the 8 N H V multiply-adds of forward and
backward together (of 6 with the loss inside).

What is guaranteed, for every gradient g asked for and its approximation g', in Frobenius norm and
apart from the rounding that the exact pass has too: ||g' - g|| <= grad_tol ||g||. Own derivation:

Let E [n, V] be dz in the columns left out of a product, 0 elsewhere; E is known, only its products
are not. Row t of the missing E W is at most r_t = sum_v |E_tv| ||W_v||, so ||dh' - dh|| <= B =
||r||. Row v of the missing E^T h is at most c_v = max_t ||h_t|| sum_t |E_tv|; summed over the
chunks of rows, ||dW' - dW|| <= B = ||sum c||. Only g' is at hand, but ||g|| >= ||g'|| - B, so
B <= grad_tol / (1 + grad_tol) ||g'|| implies B <= grad_tol (||g'|| - B) <= grad_tol ||g||.

That inequality is the guard; nothing is assumed about how the mass is spread. For hidden states it
is checked, and holds, in every chunk of rows: where it fails more columns are multiplied, in the
end all. For the weight it can be checked only after the last chunk: where it fails, by cancellation
between chunks, the weight's gradient is computed again by the exact pass. NaN fails every guard.
The bias's gradient is a sum of dz and always exact.

Pays on a CPU for policies that are sure of themselves (benchmarks/active_columns.py). On a GPU it
is right but slower: forward and backward took 50 ms where the exact head takes 19 to 22 (H100, N =
8192, H = 1536, V = 151936, 6 to 7 % of the columns active), because the passes over dz and the
gathers are plain torch there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vibelite.kernels.chunked import blocks, operand, product
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted

# Share of the grad_tol at which columns are first cut off by their mass. On SmolLM2 ||dh|| is about
# half of the sum of its terms' norms; a third passes the guard at the first attempt.
HIDDEN_SHARE = 1 / 3
# ||dW|| of a chunk is 0.3 to 0.6 of the bound on its terms there, and chunks cancel further.
WEIGHT_SHARE = 1 / 4
# With more active columns than this gathering them costs more than multiplying all of them.
DENSE_SHARE = 0.65
ATTEMPTS = 2
# Elements of dz whose absolute values exist at a time, and columns gathered at a time.
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
GATHERED_COLUMNS = {"cpu": 4096, "cuda": 1 << 15}


@dataclass(frozen=True, slots=True)
class Call:
    """A backward pass: the backend that runs it, what was computed, and the upstream gradients [N]
    of log-probs and entropies.
    """

    backend: Any
    problem: Problem
    statistics: Statistics
    upstream: tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class Activity:
    """Columns multiplied, summed over chunks of rows, of `total` columns; and whether the weight's
    guard failed.
    """

    total: int = 0
    hidden: int = 0
    weight: int = 0
    weight_fell_back: bool = False


def backward(
    call: Call, wanted: Wanted, grad_tol: float, weight_grad_out: torch.Tensor | None = None
) -> tuple[Gradients, Activity]:
    """Gradients within grad_tol, and how many columns they took. Rows without upstream gradient
    are dropped first; otherwise as the backend's `backward`.

    The host reads results back. Works on whole rows, so that the weight's gradient is summed in
    the statistics' dtype: for 16-bit weights, or with `weight_grad_out`, in a [V, H] buffer.
    """
    live = (call.upstream[0] != 0) | (call.upstream[1] != 0)
    rows = (live & (call.problem.targets != call.problem.ignore_index)).nonzero().squeeze(1)
    step = call.backend.rows_at_once(call.problem)
    sums = ActiveSums(call.problem, wanted, grad_tol, num_chunks=-(-len(rows) // step))
    for chunk in rows.split(step) if len(rows) else ():
        part = call.problem.select(chunk)
        upstream = call.upstream[0][chunk], call.upstream[1][chunk]
        dz, scale = call.backend.dz_of_rows(part, call.statistics.select(chunk), upstream)
        sums.add(part, dz, chunk, scale)
        del dz  # before the next chunk's is made
    return sums.finish(call, weight_grad_out), sums.activity


class ActiveSums:
    """Gradients under construction, fed dz of one chunk of rows at a time."""

    def __init__(
        self, problem: Problem, wanted: Wanted, grad_tol: float, *, num_chunks: int
    ) -> None:
        hidden, weight, dtype = problem.hidden, problem.weight, problem.statistics_dtype
        vocab = problem.vocab_size
        self._problem, self._dtype = problem, dtype
        self._allowed_share = grad_tol / (1 + grad_tol)
        self._hidden_share = HIDDEN_SHARE * grad_tol
        # Bounds of chunks add up, their gradients only as the root of the sum of squares if they
        # have nothing to do with each other.
        self._weight_share = WEIGHT_SHARE * grad_tol / max(num_chunks, 1) ** 0.5
        self.hidden = hidden.new_zeros(hidden.shape) if wanted.hidden else None
        self.weight = weight.new_zeros(weight.shape, dtype=dtype) if wanted.weight else None
        self.bias = weight.new_zeros(vocab, dtype=dtype) if wanted.bias else None
        self._weight_norms = torch.linalg.vector_norm(weight, dim=1, dtype=dtype)  # [V]
        self._weight_missing = weight.new_zeros(vocab, dtype=dtype)  # sum c, [V]
        self.activity = Activity()

    def add(
        self,
        part: Problem,
        dz: torch.Tensor,
        rows: torch.Tensor,
        scale: torch.Tensor | None = None,
    ) -> None:
        """Adds the gradients of a chunk: dz [n, V], divided by `scale` [1] where given, of the
        rows [n] of the whole problem that `part` holds.
        """
        if part.num_tokens == 0:
            return
        self.activity.total += part.vocab_size
        mass = dz.new_empty(part.vocab_size, dtype=self._dtype)
        for columns, magnitudes in _magnitudes(dz):
            torch.sum(magnitudes, 0, dtype=self._dtype, out=mass[columns])
            if self.bias is not None:
                total = dz[:, columns].sum(0, dtype=self._dtype)
                self.bias[columns] += total if scale is None else total * scale
        if self.hidden is not None:
            grad = self._hidden_gradient(dz, mass)
            self.hidden[rows] = (grad if scale is None else grad * scale).to(self.hidden.dtype)
        if self.weight is not None:
            self._add_weight(part, dz, mass, scale)

    def _hidden_gradient(self, dz: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        """dz W [n, H] from as many columns as the guard wants; `mass` [V] is sum_t |dz_tv|."""
        scores, order = (mass * self._weight_norms).sort()
        tails = scores.cumsum(0, dtype=torch.float64)
        grad = dz.new_zeros((len(dz), self._problem.hidden.shape[1]), dtype=self._dtype)
        done, budget = len(order), self._hidden_share * tails[-1]
        for _ in range(ATTEMPTS):
            num_dropped = int(torch.searchsorted(tails, budget, right=True))
            if len(order) - num_dropped > DENSE_SHARE * len(order):
                break
            self._add_columns(grad, dz, order[num_dropped:done])
            done = num_dropped
            bound = _norm(self._missing_rows(dz, order[done:]))
            allowed = self._allowed_share * _norm(grad)
            if bound <= allowed:
                self.activity.hidden += len(order) - done
                return grad
            budget = 0.8 * tails[done - 1] * (allowed / bound)
        self.activity.hidden += len(order)
        grad.zero_()
        for columns in blocks(len(order), self._gathered_columns):
            weight = operand(self._problem, self._problem.weight[columns])
            _add_product(grad, operand(self._problem, dz[:, columns]), weight)
        return grad

    def _add_columns(self, grad: torch.Tensor, dz: torch.Tensor, active: torch.Tensor) -> None:
        for index in active.sort().values.split(self._gathered_columns):
            weight = operand(self._problem, self._problem.weight.index_select(0, index))
            _add_product(grad, operand(self._problem, dz.index_select(1, index)), weight)

    def _missing_rows(self, dz: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
        """r_t = sum of |dz_tv| ||W_v|| over the columns that are not active, [n]."""
        norms = self._weight_norms.index_fill(0, active, 0.0)
        missing = dz.new_zeros(len(dz), dtype=self._dtype)
        for columns, magnitudes in _magnitudes(dz):
            missing.addmv_(magnitudes.to(self._dtype), norms[columns])
        return missing

    def _add_weight(
        self, part: Problem, dz: torch.Tensor, mass: torch.Tensor, scale: torch.Tensor | None
    ) -> None:
        assert self.weight is not None
        hidden = operand(part, part.hidden)
        largest_norm = torch.linalg.vector_norm(part.hidden, dim=1, dtype=self._dtype).amax()
        scores, order = mass.sort()
        tails = scores.double().square().cumsum(0).sqrt()
        num_dropped = int(torch.searchsorted(tails, self._weight_share * tails[-1], right=True))
        if len(order) - num_dropped > DENSE_SHARE * len(order):
            self.activity.weight += len(order)
            for columns in blocks(len(order), self._gathered_columns):
                dz_columns = operand(part, dz[:, columns]).T
                if scale is None:
                    _add_product(self.weight[columns], dz_columns, hidden)
                else:
                    self.weight[columns] += product(dz_columns, hidden, self._dtype).mul_(scale)
            return
        self.activity.weight += len(order) - num_dropped
        dropped, active = order[:num_dropped], order[num_dropped:]
        missing = mass[dropped] * largest_norm
        self._weight_missing[dropped] += missing if scale is None else missing.mul_(scale)
        for index in active.sort().values.split(self._gathered_columns):
            block = product(operand(part, dz.index_select(1, index)).T, hidden, self._dtype)
            self.weight.index_add_(0, index, block if scale is None else block.mul_(scale))

    def finish(self, call: Call, weight_grad_out: torch.Tensor | None = None) -> Gradients:
        """The gradients in their tensors' dtypes; the weight's by the exact pass if its guard
        fails. It is added to `weight_grad_out` where given.
        """
        bias = self._problem.bias
        return Gradients(
            self.hidden,
            self._finish_weight(call, weight_grad_out),
            None if self.bias is None or bias is None else self.bias.to(bias.dtype),
        )

    def _finish_weight(
        self, call: Call, weight_grad_out: torch.Tensor | None
    ) -> torch.Tensor | None:
        if self.weight is None:
            return None
        bound = _norm(self._weight_missing)
        if not bound <= self._allowed_share * _norm(self.weight):
            self.activity.weight_fell_back = True
            self.weight = None  # its memory is needed
            only_weight = Wanted(hidden=False, weight=True, bias=False)
            exact: Gradients = call.backend.backward(
                call.problem, call.statistics, *call.upstream, only_weight, weight_grad_out
            )
            return exact.weight
        if weight_grad_out is None:
            return self.weight.to(self._problem.weight.dtype)
        weight_grad_out += self.weight.to(weight_grad_out.dtype)
        return None

    @property
    def _gathered_columns(self) -> int:
        return GATHERED_COLUMNS["cpu" if self._problem.hidden.device.type == "cpu" else "cuda"]


def _magnitudes(dz: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Blocks of columns and their |dz| [n, c], in a buffer that the next block overwrites."""
    num, vocab = dz.shape
    budget = BLOCK_ELEMENTS["cpu" if dz.device.type == "cpu" else "cuda"]
    width = min(max(budget // num, 1), vocab)
    buffer = dz.new_empty(num * width)
    for columns in blocks(vocab, width):
        size = num * (columns.stop - columns.start)
        yield columns, torch.abs(dz[:, columns], out=buffer[:size].view(num, -1))


def _norm(values: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of [n] or [n, H]; float32 sums of squares over all of them would drift."""
    rows = values if values.dim() == 1 else torch.linalg.vector_norm(values, dim=1)
    return rows.double().norm()


def _add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """out += left @ right in out's dtype, without a copy of the product."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
