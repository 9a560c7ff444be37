import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hf_multitask import AdaptiveSampling, AnnealedSampling, Phases, RoundRobin, Schedule, SizeSampling
from hf_multitask.data.schedule import STREAM_SPAN, RowStream, StepBatchSampler, adaptive_round_robin

SIZES = {"sst": 5, "quora": 12, "sts": 7}
EVERY_SCHEDULE: dict[str, Callable[..., Schedule]] = {
    "round_robin": RoundRobin,
    "adaptive_round_robin": adaptive_round_robin,
    "proportional": SizeSampling,
    "one task a step": partial(SizeSampling, mixing="tasks"),
    "annealed": partial(AnnealedSampling, epochs=3),
    "adaptive_sampling": partial(AdaptiveSampling, alpha=2.0, history=[{"sst": 1.0}, {"sst": 3.0, "sts": 0.5}]),
}
OFFSETS = {"sst": 0, "quora": 5, "sts": 17}


def drawn(sampler: StepBatchSampler, epochs: int = 1) -> list[list[int]]:
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(sampler)
    return batches


def test_round_robin_draws_a_batch_of_every_task_in_order() -> None:
    for batch in drawn(StepBatchSampler(RoundRobin(SIZES, 3), SIZES, seed=0)):
        assert len(batch) == 9
        assert [sum(row >= offset for offset in OFFSETS.values()) for row in batch] == [1] * 3 + [2] * 3 + [3] * 3


@pytest.mark.parametrize(
    ("length", "per_step", "batches"),
    # 5, 12 and 7 rows in batches of 3: an epoch of whole steps
    [
        ("largest", 1, 4),
        ("smallest", 1, 2),
        ("10", 1, 10),
        (10, 1, 10),
        ("largest", 2, 4),
        ("largest", 3, 6),
        (10, 4, 40),
    ],
)
def test_an_epoch_has_the_steps_it_is_told_to(length: str | int, per_step: int, batches: int) -> None:
    assert RoundRobin(SIZES, 3, length, per_step).batches_per_epoch == batches


@pytest.mark.parametrize("length", ["longest", "", "0", "-1", "1.5", 0])
def test_any_other_length_is_refused(length: str | int) -> None:
    with pytest.raises(ValueError, match="must be 'largest', 'smallest' or a number of steps"):
        RoundRobin(SIZES, 3, length)


def test_an_empty_dataset_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="task 'sts' has no rows"):
        RoundRobin({"sst": 3, "sts": 0}, 3)


@given(size=st.integers(1, 30), seed=st.integers(0, 5), rounds=st.integers(1, 4))
def test_each_round_of_a_stream_is_a_permutation_of_all_rows(size: int, seed: int, rounds: int) -> None:
    rows = RowStream(size, seed, "sst").take(0, size * rounds)
    for start in range(0, size * rounds, size):
        assert sorted(rows[start : start + size]) == list(range(size))


@given(size=st.integers(1, 30), start=st.integers(0, 100), counts=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_how_a_stream_is_cut_into_batches_does_not_change_it(size: int, start: int, counts: list[int]) -> None:
    whole = RowStream(size, 0, "sst").take(start, sum(counts))
    stream, pieces, position = RowStream(size, 0, "sst"), [], start
    for count in counts:
        pieces += stream.take(position, count)
        position += count
    assert pieces == whole


def test_rounds_seeds_and_tasks_have_orders_of_their_own() -> None:
    first = RowStream(50, 0, "sst").take(0, 50)
    assert RowStream(50, 0, "sst").take(50, 50) != first
    assert RowStream(50, 1, "sst").take(0, 50) != first
    assert RowStream(50, 0, "sts").take(0, 50) != first


def test_another_task_does_not_change_the_order_of_the_others() -> None:
    alone = drawn(StepBatchSampler(RoundRobin({"sst": 5}, 3, 4), {"sst": 5}, seed=0))
    together = drawn(StepBatchSampler(RoundRobin(SIZES, 3, 4), SIZES, seed=0))
    assert [batch[:3] for batch in together] == alone


def test_an_epoch_depends_only_on_seed_and_number() -> None:
    schedule = RoundRobin(SIZES, 3)
    sampler = StepBatchSampler(schedule, SIZES, seed=0)
    sampler.set_epoch(2)
    third = list(sampler)
    assert third == drawn(StepBatchSampler(schedule, SIZES, seed=0), epochs=3)[-4:]
    assert third == list(sampler)
    assert third != drawn(StepBatchSampler(schedule, SIZES, seed=1), epochs=3)[-4:]


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 40), min_size=1), st.integers(1, 7), st.integers(1, 5))
def test_over_epochs_every_row_of_a_task_comes_equally_often(sizes: dict[str, int], batch: int, epochs: int) -> None:
    counts = Counter(
        row for rows in drawn(StepBatchSampler(RoundRobin(sizes, batch, 3), sizes, 0), epochs) for row in rows
    )
    start = 0
    for size in sizes.values():
        times = [counts[row] for row in range(start, start + size)]
        assert max(times) - min(times) <= 1
        start += size


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("make", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE.keys())
def test_processes_share_the_rows_of_one_large_batch(make: Callable[..., Schedule], processes: int) -> None:
    large = drawn(StepBatchSampler(make(SIZES, 8, 5), SIZES, 0))
    small = StepBatchSampler(make(SIZES, 8 // processes, 5, processes), SIZES, 0)
    shards = [list(BatchSamplerShard(small, processes, rank)) for rank in range(processes)]
    for batches in zip(*shards, strict=True):
        assert len({len(batch) for batch in batches}) == 1
    assert [len(shard) for shard in shards] == [5] * processes
    for step, batch in enumerate(large):
        assert sorted(row for shard in shards for row in shard[step]) == sorted(batch)


class OneTaskAStep(Schedule):
    """A user's own: tasks take turns, one to a batch."""

    @property
    def batches_per_epoch(self) -> int:
        return 5

    def rows(self, epoch: int, batch: int) -> Mapping[str, int]:
        return {list(SIZES)[(epoch + batch) % 3]: 2}


def test_a_users_own_schedule_needs_two_methods() -> None:
    batches = drawn(StepBatchSampler(OneTaskAStep(), SIZES, 0), epochs=2)
    tasks = [sum(batch[0] >= offset for offset in OFFSETS.values()) - 1 for batch in batches]
    assert tasks == [0, 1, 2, 0, 1, 1, 2, 0, 1, 2]
    # The second epoch goes on where the first stopped: the twelve rows of quora come once each in six batches.
    quora = [row for batch, task in zip(batches, tasks, strict=True) if task == 1 for row in batch]
    assert len(set(quora)) == len(quora)


@pytest.mark.parametrize("make", EVERY_SCHEDULE.values(), ids=EVERY_SCHEDULE.keys())
def test_what_earlier_epochs_drew_is_the_same_counted_or_computed(make: Callable[..., Schedule]) -> None:
    schedule = make(SIZES, 3, 4)
    for epoch in (0, 1, 3, 2):
        computed = {name: 0 for name in SIZES} | dict(schedule.drawn_before(epoch))
        assert computed == {name: 0 for name in SIZES} | dict(Schedule.drawn_before(schedule, epoch))


# ---- Drawn schedules ----


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, [0.5, 0.5]), (0.5, [1 / 3, 2 / 3]), (1.0, [0.2, 0.8])])
def test_probabilities_are_the_sizes_to_the_power_of_alpha(alpha: float, expected: list[float]) -> None:
    assert SizeSampling({"a": 100, "b": 400}, 1, alpha=alpha).probabilities(0) == pytest.approx(expected)


def test_annealing_goes_from_proportional_to_nearly_even() -> None:
    schedule = AnnealedSampling({"a": 100, "b": 400}, 1, epochs=5)
    assert [schedule.alpha(epoch) for epoch in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    # 4 ** 0.2 = 1.3195 to 1
    assert schedule.probabilities(4) == pytest.approx([0.4311, 0.5689], abs=1e-4)
    assert AnnealedSampling(SIZES, 1, epochs=1).alpha(0) == 1.0


def test_tasks_whose_loss_has_risen_above_its_best_are_drawn_more_often() -> None:
    history = [
        {"sst": 1.0, "quora": 0.5, "sts": 2.0},
        {"sst": 0.8, "quora": 0.6},
        {"sst": 0.9, "quora": 0.75, "sts": 1.0},
    ]
    schedule = AdaptiveSampling(SIZES, 4, alpha=2.0, history=history)
    assert schedule.probabilities(0).tolist() == pytest.approx([1 / 3] * 3)
    assert schedule.probabilities(1).tolist() == pytest.approx([1 / 3] * 3)
    # quora: 0.6 over 0.5; sts had no rows in the second epoch and is judged by its last one.
    assert schedule.probabilities(2).tolist() == pytest.approx([x / 3.44 for x in (1.0, 1.44, 1.0)])
    # sst: 0.9 over 0.8; quora: 0.75 over 0.5; sts is at its best.
    lags = [(0.9 / 0.8) ** 2, 1.5**2, 1.0]
    assert schedule.probabilities(3).tolist() == pytest.approx([x / sum(lags) for x in lags])
    # What comes later changes no epoch that was drawn before.
    before = [dict(schedule.rows(2, batch)) for batch in range(3)]
    history.append({"sst": 9.0})
    assert [dict(AdaptiveSampling(SIZES, 4, alpha=2.0, history=history).rows(2, batch)) for batch in range(3)] == before


def test_a_loss_of_nothing_is_at_its_best() -> None:
    schedule = AdaptiveSampling({"a": 5, "b": 5}, 2, history=[{"a": 0.0, "b": 1.0}])
    assert schedule.probabilities(1).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("mixing", ["rows", "tasks"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_draws_follow_the_probabilities(alpha: float, mixing: str) -> None:
    draws = 10_000
    steps, size = (draws // 30, 10) if mixing == "rows" else (draws, 1)
    schedule = SizeSampling(SIZES, size, steps, alpha=alpha, mixing=mixing)
    counts = schedule.drawn_before(1)
    weights = {name: size**alpha for name, size in SIZES.items()}
    total = sum(counts.values())
    expected = [total * weight / sum(weights.values()) for weight in weights.values()]
    assert chisquare([counts[name] for name in SIZES], expected).pvalue > 1e-3


def test_mixed_rows_make_batches_of_one_size_and_single_tasks_of_another() -> None:
    mixed = SizeSampling(SIZES, 4, 50, mixing="rows")
    alone = SizeSampling(SIZES, 4, 50, mixing="tasks")
    assert {sum(mixed.rows(0, batch).values()) for batch in range(50)} == {12}
    assert {tuple(alone.rows(0, batch).values()) for batch in range(50)} == {(4,)}
    assert {name for batch in range(50) for name in alone.rows(0, batch)} == set(SIZES)


def test_a_seed_draws_the_same_and_each_epoch_anew() -> None:
    def steps(seed: int, epoch: int) -> list[dict[str, int]]:
        schedule = SizeSampling(SIZES, 4, 20, seed=seed)
        return [dict(schedule.rows(epoch, batch)) for batch in range(20)]

    assert steps(0, 1) == steps(0, 1)
    assert steps(0, 1) != steps(0, 0)
    assert steps(0, 1) != steps(1, 1)


# ---- Phases ----


def test_adaptive_round_robin_has_the_largest_task_alone_for_r_epochs_and_then_all() -> None:
    schedule = adaptive_round_robin(SIZES, 4, "largest", largest_task_epochs=2)
    held = [[dict(schedule.rows(epoch, batch)) for batch in range(schedule.batches_per_epoch)] for epoch in range(4)]
    assert held == 2 * [3 * [{"quora": 4}]] + 2 * [3 * [{"sst": 4, "quora": 4, "sts": 4}]]


def test_a_phase_counts_its_epochs_from_its_own_start() -> None:
    first, second = RoundRobin({"quora": 12}, 2, 3), AnnealedSampling(SIZES, 2, 3, epochs=2)
    schedule = Phases([(first, 2), (second, 2)])
    assert [schedule.rows(epoch, 1) for epoch in (2, 3)] == [second.rows(epoch, 1) for epoch in (0, 1)]


def test_phases_with_epochs_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"epochs of one length, not of \[3, 4\] batches"):
        Phases([(RoundRobin(SIZES, 2, 3), 1), (RoundRobin(SIZES, 2, 4), 1)])


def test_phases_say_how_long_they_are() -> None:
    assert adaptive_round_robin(SIZES, 3, largest_task_epochs=2).epochs == [2]


# ---- What changing an operator of the code would change (`mutmut run`) ----


def test_a_schedule_without_further_arguments_is_proportional_by_rows_and_adaptive_for_one_epoch() -> None:
    assert SizeSampling(SIZES, 4).probabilities(0) == pytest.approx([5 / 24, 12 / 24, 7 / 24])
    assert sum(SizeSampling(SIZES, 4).rows(0, 0).values()) == 12
    same = [SizeSampling(SIZES, 4), SizeSampling(SIZES, 4, mixing="rows", seed=0, alpha=1.0)]
    assert [[make.rows(epoch, 0) for epoch in range(9)] for make in same] == 2 * [
        [same[0].rows(e, 0) for e in range(9)]
    ]
    assert adaptive_round_robin(SIZES, 4).epochs == [1]


def test_no_power_of_large_datasets_overflows() -> None:
    probabilities = SizeSampling({"a": 10**12, "b": 10**11}, 4, alpha=30.0, epoch_length=1).probabilities(0)
    assert probabilities == pytest.approx([1.0, 1e-30])


def test_the_draws_of_an_epoch_are_numpys_of_seed_name_and_epoch() -> None:
    schedule = SizeSampling(SIZES, 4, epoch_length=6, seed=3)
    for epoch in (0, 2):
        generator = np.random.default_rng((3, zlib.crc32(b"schedule"), epoch))
        counts = generator.multinomial(12, [5 / 24, 12 / 24, 7 / 24], size=6)
        for step, expected in enumerate(counts.tolist()):
            assert [schedule.rows(epoch, step).get(name, 0) for name in SIZES] == expected


def test_annealing_over_two_epochs_ends_at_one_fifth_and_takes_the_others_arguments() -> None:
    schedule = AnnealedSampling(SIZES, 4, epochs=2, mixing="tasks")
    assert [schedule.alpha(epoch) for epoch in (0, 1, 2)] == pytest.approx([1.0, 0.2, 0.2])
    assert len(schedule.rows(0, 0)) == 1


def test_a_task_without_losses_so_far_counts_as_at_its_best() -> None:
    schedule = AdaptiveSampling(SIZES, 4, alpha=1.0, history=[{"sst": 1.0}, {"sst": 2.0}])
    assert schedule.probabilities(2) == pytest.approx([2 / 4, 1 / 4, 1 / 4])


def test_three_phases_follow_each_other_each_with_its_own_epochs_and_batches() -> None:
    steps = {"epoch_length": 5}
    sampled = SizeSampling(SIZES, 4, **steps)
    phases = Phases([(RoundRobin({"sst": 5}, 4, **steps), 1), (sampled, 2), (RoundRobin({"sts": 7}, 2, **steps), 1)])
    for batch in range(5):
        assert phases.rows(0, batch) == {"sst": 4}
        assert phases.rows(1, batch) == sampled.rows(0, batch)
        assert phases.rows(2, batch) == sampled.rows(1, batch)
        assert phases.rows(3, batch) == phases.rows(7, batch) == {"sts": 2}
    second = Counter(sampled.drawn_before(2))
    assert phases.drawn_before(5) == Counter({"sst": 20}) + second + Counter({"sts": 20})


def test_an_epoch_of_one_step_is_an_epoch() -> None:
    assert RoundRobin(SIZES, 4, 1).batches_per_epoch == RoundRobin(SIZES, 4, "1").batches_per_epoch == 1


def test_streamed_tasks_go_by_position_beside_others() -> None:
    sampler = StepBatchSampler(RoundRobin(SIZES, 3, 4), {**SIZES, "quora": None}, 0, streamed=["quora"])
    batches = drawn(sampler, epochs=2)
    quora, sts = 5, 5 + STREAM_SPAN
    for number, batch in enumerate(batches):
        assert batch[3:6] == [quora + 3 * number + row for row in range(3)]
    # The others are as without it.
    others = drawn(StepBatchSampler(RoundRobin(SIZES, 3, 4), SIZES, 0), epochs=2)
    assert [batch[:3] for batch in batches] == [batch[:3] for batch in others]
    assert [[row - sts for row in batch[6:]] for batch in batches] == [[row - 17 for row in b[6:]] for b in others]
