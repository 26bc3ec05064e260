"""Claims that only a GPU can show: graphs, long launches, 64-bit offsets, batch invariance."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.problems import Case, make_case, results
from vibelite.kernels import check_cuda_targets, linear_logprobs

pytestmark = pytest.mark.gpu


def bf16_case(num: int, width: int, vocab: int) -> Case:
    return make_case(num, width, vocab, dtype=torch.bfloat16, device="cuda")


def step(case: Case, hidden: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Detached outputs and gradients; a graph kept alive would tie its leaves to this stream."""
    outputs = linear_logprobs(hidden, weight, case.targets, impl="triton")
    upstream = (case.grad_logprobs, case.grad_entropy)
    gradients = torch.autograd.grad(outputs, (hidden, weight), upstream)
    return *(output.detach() for output in outputs), *gradients


def test_a_row_gives_the_same_bits_in_any_batch() -> None:
    case = bf16_case(700, 576, 50257)
    everything, _ = linear_logprobs(case.hidden, case.weight, case.targets)
    for rows in (slice(0, 1), slice(77, 78), slice(100, 650)):
        part, _ = linear_logprobs(case.hidden[rows], case.weight, case.targets[rows])
        assert torch.equal(part, everything[rows])


def test_a_captured_graph_replays_the_same_bits() -> None:
    case = bf16_case(300, 128, 5000)
    hidden, weight = case.hidden.requires_grad_(), case.weight.requires_grad_()
    expected = step(case, hidden, weight)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step(case, hidden, weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(case, hidden, weight)
    for output in captured:
        output.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


def test_more_rows_than_a_grid_dimension_of_65535() -> None:
    case = bf16_case(70_000, 16, 40)
    found, expected = results(case, "triton"), results(case, "reference", exact=True)
    assert (found["logprobs"] - expected["logprobs"]).abs().max() < 3e-5
    error = (found["grad_weight"].double() - expected["grad_weight"]).norm()
    assert error < 4e-3 * expected["grad_weight"].norm()


def test_more_logits_than_2_to_the_31() -> None:
    case = bf16_case(15_000, 64, 151_936)
    found = results(case, "triton")
    rows = slice(14_900, 15_000)
    logits = case.hidden[rows].double() @ case.weight.double().T
    expected = torch.log_softmax(logits, -1).gather(1, case.targets[rows, None]).squeeze(1)
    assert (found["logprobs"][rows] - expected).abs().max() < 3e-5
    assert torch.isfinite(found["grad_weight"]).all()


def test_the_compiled_operator_equals_the_eager_one() -> None:
    torch._dynamo.reset()
    head = torch.compile(linear_logprobs, fullgraph=True, dynamic=True)
    case = bf16_case(300, 128, 5000)
    hidden, weight = case.hidden.requires_grad_(), case.weight.requires_grad_()
    outputs = head(hidden, weight, case.targets)
    upstream = (case.grad_logprobs, case.grad_entropy)
    found = (*outputs, *torch.autograd.grad(outputs, (hidden, weight), upstream))
    expected = step(case, hidden, weight)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_target_outside_the_vocabulary_is_nan_not_a_number() -> None:
    case = bf16_case(5, 64, 300)
    case.targets[2] = 300
    logprobs, _ = linear_logprobs(case.hidden, case.weight, case.targets)
    assert logprobs.isnan().tolist() == [False, False, True, False, False]
    with check_cuda_targets():
        valid, _ = linear_logprobs(case.hidden[:2], case.weight, case.targets[:2])
    assert torch.equal(valid, logprobs[:2])


def test_a_frozen_weight_allocates_nothing_of_its_size() -> None:
    case = bf16_case(256, 512, 50_000)
    hidden = case.hidden.requires_grad_()
    logprobs, _ = linear_logprobs(hidden, case.weight, case.targets)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs.sum().backward()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < case.weight.numel() * case.weight.element_size()


def test_other_streams_and_backward_threads_work() -> None:
    case = bf16_case(300, 128, 5000)
    hidden, weight = case.hidden.requires_grad_(), case.weight.requires_grad_()
    expected = step(case, hidden, weight)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = step(case, hidden, weight)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
