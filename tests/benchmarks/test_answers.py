"""KL divergence and agreement of two sets of answers against other ways to compute them."""

import answers
import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy


def drawn(seed: int) -> torch.Tensor:
    return 3 * torch.randn(50, 12, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_the_mean_relative_entropy_of_the_reference():
    logits, reference = drawn(0), drawn(1)
    expected = entropy(softmax(reference.double().numpy(), 1), softmax(logits.double().numpy(), 1), axis=1).mean()
    assert answers.divergence(logits, reference) == pytest.approx(expected, rel=1e-9)
    assert answers.divergence(reference, logits) != pytest.approx(expected, rel=1e-2)  # it is not symmetric


def test_divergence_of_shifted_logits_is_zero_and_stays_finite_for_sure_answers():
    logits = drawn(0)
    assert answers.divergence(logits + 100, logits) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(answers.divergence(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])))


def test_agreement_is_the_share_of_equal_largest_entries():
    reference = torch.eye(10)
    logits = reference.clone()
    logits[:3] = logits[:3].roll(1, dims=1)
    assert answers.agreement(logits, reference) == pytest.approx(0.7)
