import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("step", [1, 7, 50, 64])
def test_sums_over_parts_of_the_vocabulary_equal_those_over_all_of_it(step: int) -> None:
    import torch

    from stages.merging.logit_comparison import LogitComparison, concatenate

    torch.manual_seed(0)
    one = 30 * torch.randn(9, 50)
    models = {"one": one, "other": one + torch.randn(9, 50), "flat": torch.zeros(9, 50)}
    targets = torch.arange(9) * 5
    comparisons = []
    for first, last in ((0, 4), (4, 9)):
        comparison = LogitComparison("one", targets[first:last])
        for start in range(0, 50, step):
            comparison.add(start, {name: logits[first:last, start : start + step] for name, logits in models.items()})
        comparisons.append(comparison)
    comparison = concatenate(comparisons)
    normal = {name: torch.log_softmax(logits.double(), -1) for name, logits in models.items()}
    for name, logits in models.items():
        losses = -normal[name].gather(1, targets[:, None])[:, 0]
        assert torch.allclose(comparison.losses(name), losses, atol=1e-9), name
        divergences = (normal["one"].exp() * (normal["one"] - normal[name])).sum(-1)
        assert torch.allclose(comparison.divergences(name), divergences, atol=1e-9), name
        assert torch.equal(comparison.difference[name], (one - logits).double().abs().amax(-1)), name
        assert torch.equal(comparison.choice[name], logits.argmax(-1)), name


def test_nan_is_not_lost() -> None:
    import torch

    from stages.merging.logit_comparison import LogitComparison

    comparison = LogitComparison("one", torch.tensor([0]))
    comparison.add(0, {"one": torch.zeros(1, 2), "other": torch.tensor([[0.0, float("nan")]])})
    comparison.add(2, {"one": torch.zeros(1, 2), "other": torch.zeros(1, 2)})
    assert bool(comparison.difference["other"].isnan())
