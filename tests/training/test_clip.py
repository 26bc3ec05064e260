"""The norm over any number of entries, and pieces of bounded size."""

import pytest
import torch

from vibelite.training import clip
from vibelite.training.clip import NORM_BLOCK, buckets, clip_factor, global_norm


def test_the_norm_of_small_gradients_is_torchs():
    tensors = [torch.randn(shape) for shape in [(3, 5), (7,), (64, 64)]]
    assert torch.equal(global_norm(tensors), torch.nn.utils.get_total_norm(tensors))


@pytest.mark.parametrize("num_entries", [NORM_BLOCK - 1, NORM_BLOCK, 3 * NORM_BLOCK + 17])
def test_blocks_and_their_rest_count_every_entry_once(num_entries):
    values = torch.arange(num_entries, dtype=torch.float32) % 7
    expected = values.double().square().sum().sqrt().item()
    assert global_norm([values]).item() == pytest.approx(expected, rel=1e-6)


def test_the_norm_of_many_entries_is_exact_where_torchs_is_not():
    values = torch.randn(1 << 23, generator=torch.Generator().manual_seed(0))
    expected = values.double().square().sum().sqrt().item()
    assert global_norm([values]).item() == pytest.approx(expected, rel=1e-6)


def test_the_norm_of_16_bit_gradients_is_summed_in_float32():
    values = torch.randn(5000).bfloat16()
    expected = values.double().square().sum().sqrt().item()
    norm = global_norm([values, values])
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(2**0.5 * expected, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_widening_in_parts_changes_no_bit_of_the_norm(dtype, monkeypatch):
    monkeypatch.setattr(clip, "NORM_BLOCK", 16)
    monkeypatch.setattr(clip, "WIDENED_BLOCKS", 3)
    values = torch.randn(7 * 16 + 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(global_norm([values]), global_norm([values.float()]))
    later = torch.cat([torch.zeros(96, dtype=dtype), values])
    assert global_norm([later]) == pytest.approx(global_norm([values]).item(), rel=1e-6)


def test_no_gradients_have_norm_zero():
    assert global_norm([]).item() == 0


def test_the_clip_factor_by_hand():
    assert clip_factor(torch.tensor(4.0), 1.0).item() == pytest.approx(0.25, rel=1e-6)
    assert clip_factor(torch.tensor(0.5), 1.0).item() == 1.0
    assert clip_factor(torch.tensor(0.0), 1.0).item() == 1.0


def test_buckets_keep_the_order_and_bound_the_sum(monkeypatch):
    monkeypatch.setattr(clip, "BUCKET_ELEMENTS", 10)
    assert list(buckets([4, 6, 1, 25, 3, 7])) == [[0, 1], [2], [3], [4, 5]]
    assert list(buckets([])) == []
