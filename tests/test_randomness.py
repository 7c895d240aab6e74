"""Philox by known answers; draws as functions of (seed, purpose, index) and of nothing else."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from ddpm.randomness import Purpose, bits, generator, generators, normal, permutation, philox, uniform

ONES = 0xFFFFFFFF
BIG = 2**63 - 1


# The known answers of Random123, kat_vectors, philox4x32 with 10 rounds.
@pytest.mark.parametrize(("counter", "key", "expected"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
])
def test_known_answers(counter: tuple, key: tuple, expected: tuple) -> None:
    words = philox(tuple(torch.tensor([c]) for c in counter), tuple(torch.tensor([k]) for k in key))
    assert tuple(int(word) for word in words) == expected


def test_bits_of_seed_0_begin_with_the_first_known_answer() -> None:
    # The counter is (block, index, index >> 32, purpose), the key the seed: part of what saved runs depend on.
    first = bits(0, Purpose.ORDER, torch.tensor([0]), 4)[0].tolist()
    assert first == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_purposes_keep_their_numbers() -> None:
    assert [p.name for p in sorted(Purpose)][:9] == [
        "ORDER", "TIMESTEP", "NOISE", "LABEL_DROP", "FLIP", "INITIAL_NOISE", "SAMPLER_NOISE", "WEIGHTS", "DROPOUT",
    ]
    assert [int(p) for p in sorted(Purpose)] == list(range(len(Purpose)))


INDEX = torch.tensor([0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40, 2**62, BIG])


def test_range() -> None:
    for seed in (0, 1, 2**32, BIG):
        words = bits(seed, Purpose.NOISE, INDEX, 50)
        assert words.shape == (10, 50) and words.dtype == torch.int64
        assert words.min() >= 0 and words.max() <= ONES


DRAWS = {
    "bits": lambda seed, index: bits(seed, Purpose.NOISE, index, 7),
    "uniform": lambda seed, index: uniform(seed, Purpose.NOISE, index),
    "normal": lambda seed, index: normal(seed, Purpose.NOISE, index, (3, 5, 7)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_do_not_know_their_batch(draw) -> None:
    index = torch.cat([INDEX, torch.arange(1000, 1027)])
    whole = draw(3, index)
    for size in (1, 2, 5, 36):
        assert torch.equal(torch.cat([draw(3, part) for part in index.split(size)]), whole)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(3, index[order]), whole[order])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_for_each_row(draw) -> None:
    seeds = torch.tensor([0, 5, 2**32, 2**32 + 5, BIG])
    index = torch.tensor([9, 9, 9, 2**33, 0])
    together = draw(seeds, index)
    for row, (seed, i) in enumerate(zip(seeds.tolist(), index.tolist(), strict=True)):
        assert torch.equal(together[row], draw(seed, torch.tensor([i]))[0])


def test_the_first_numbers_do_not_depend_on_how_many() -> None:
    for count in (1, 2, 3, 4, 5, 8, 11):
        index = torch.arange(5)
        assert torch.equal(bits(1, Purpose.FLIP, index, count), bits(1, Purpose.FLIP, index, 40)[:, :count])
        shorter, longer = (normal(1, Purpose.NOISE, index, (n,)) for n in (count, 40))
        assert torch.equal(shorter, longer[:, :count])


def test_nothing_but_seed_purpose_and_index_repeats() -> None:
    seeds = (0, 1, 2**31, 2**32, 2**32 + 1, 2**62, BIG)
    purposes = (Purpose.ORDER, Purpose.NOISE, Purpose.DROPOUT)
    rows = [tuple(row) for s in seeds for p in purposes for row in bits(s, p, INDEX, 8).tolist()]
    assert len(set(rows)) == len(rows) == len(seeds) * len(purposes) * len(INDEX)
    words = [word for row in rows for word in row]
    assert len(words) - len(set(words)) <= 3        # of 1680 words of 32 bits, two are equal once in 3000 times


def test_uniform_is_uniform_and_never_0_or_1() -> None:
    n = 100_000
    u = uniform(7, Purpose.LABEL_DROP, torch.arange(n))
    assert u.dtype == torch.float64 and u.min() > 0 and u.max() < 1
    assert chi_square(torch.bincount((u * 100).long(), minlength=100)) < limit(99)
    for p in (0.1, 0.5):        # as labels are dropped and images mirrored: within 4.5 standard errors
        assert float((u < p).double().mean()) == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / n))


@pytest.mark.parametrize("by", ["index", "seed", "place"])
def test_normal_is_normal(by: str) -> None:
    n = 60_000
    if by == "index":
        x = normal(11, Purpose.NOISE, torch.arange(n), (1,)).flatten()
    elif by == "seed":
        x = normal(torch.arange(n), Purpose.INITIAL_NOISE, torch.zeros(n, dtype=torch.int64), (1,)).flatten()
    else:
        x = normal(12, Purpose.NOISE, torch.tensor([5]), (n,)).flatten()
    assert x.dtype == torch.float32 and x.isfinite().all()
    x = x.double()
    # Four and a half standard errors of the first four moments.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float((x**power).mean()) == pytest.approx(moment, abs=4.5 * math.sqrt(variance / n)), power
    for lag in (1, 2, 3, 4):
        assert abs(float((x[lag:] * x[:-lag]).mean())) < 4.5 / math.sqrt(n), lag
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-4        # of a fixed seed: not a matter of luck


def test_normal_by_box_and_muller() -> None:
    index = torch.arange(1000)
    u = ((bits(3, Purpose.NOISE, index, 2).double() + 0.5) / 2**32).T
    x = normal(3, Purpose.NOISE, index, (2,)).double().T
    torch.testing.assert_close(x[0] ** 2 + x[1] ** 2, -2 * u[0].log(), rtol=1e-6, atol=0)       # float32
    turns = torch.atan2(x[1], x[0]) / (2 * math.pi) % 1
    torch.testing.assert_close(turns, u[1], rtol=0, atol=1e-7)      # float32


def test_normal_in_its_shape() -> None:
    index = torch.arange(4)
    image, flat = normal(2, Purpose.NOISE, index, (3, 5, 7)), normal(2, Purpose.NOISE, index, (105,))
    assert image.shape == (4, 3, 5, 7) and torch.equal(image.flatten(1), flat)


def test_permutation_is_one() -> None:
    for n in (1, 2, 3, 100, 4097):
        for seed, epoch in ((0, 0), (1, 5), (2**32, 0), (BIG, 2**33)):
            order = permutation(seed, epoch, n)
            assert order.dtype == torch.int64 and torch.equal(order.sort().values, torch.arange(n))


def test_permutation_depends_on_seed_and_epoch() -> None:
    # Above 2^32 too: nothing is cut off to 32 bits.
    arguments = [(s, e) for s in (0, 1, 2**32, 2**32 + 1, BIG) for e in (0, 1, 2**32, 2**32 + 1)]
    assert len({tuple(permutation(s, e, 50).tolist()) for s, e in arguments}) == len(arguments)
    assert torch.equal(permutation(3, 4, 50), permutation(3, 4, 50))


def test_all_orders_are_equally_likely() -> None:
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for epoch in range(1200):
        counts[tuple(permutation(0, epoch, 3).tolist())] += 1
    assert chi_square(torch.tensor(list(counts.values()))) < limit(5)


def test_generators() -> None:
    arguments = [(s, p, i) for s in (0, 2**32, BIG) for p in (Purpose.WEIGHTS, Purpose.DROPOUT) for i in (0, 1, 2**32)]
    drawn = [torch.randn(4, generator=generator(*a)) for a in arguments]
    assert len({tuple(x.tolist()) for x in drawn}) == len(arguments)
    assert all(torch.equal(torch.randn(4, generator=generator(*a)), x) for a, x in zip(arguments, drawn, strict=True))
    together = generators(BIG, Purpose.DROPOUT, torch.tensor([0, 1, 2**32]))
    assert all(torch.equal(torch.randn(4, generator=g), x) for g, x in zip(together, drawn[-3:], strict=True))


def test_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    normal(0, Purpose.NOISE, torch.arange(3), (4,))
    permutation(0, 0, 9)
    generator(0, Purpose.WEIGHTS, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def chi_square(counts: Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def limit(freedom: int) -> float:
    """Mean and four standard deviations of a chi-square variable, of which its skewness leaves one in 1000 above."""
    return freedom + 4 * math.sqrt(2 * freedom)
