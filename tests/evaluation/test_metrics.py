"""Properties of all metrics, and their errors."""

import pytest
import torch
from torch import Tensor

from ddpm.evaluation import metrics
from ddpm.evaluation.feature_tables import Features, random_indices
from ddpm.evaluation.metrics import METRICS, Options, describe_shortage

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, CLASSES = 6, 4


def random_features(n: int, seed: int, shift: float = 0.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    features = torch.randn(n, WIDTH, generator=generator) * (1 - shift) + 2 * shift
    class_logits = torch.randn(n, CLASSES, generator=generator)
    class_logits[torch.arange(n), labels] += 2 - 2 * shift
    logits = torch.randn(n, 8, generator=generator) * (2 - shift)
    return Features(features, torch.rand(n, 9, generator=generator), logits, class_logits, labels)


SAMPLES, REFERENCE = random_features(300, 1, 0.5), random_features(400, 2)
OPTIONS = Options(replicates=30)


class OnDisk:
    """Rows that are only available in blocks, like those in files."""

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        self.shape = tuple(rows.shape)

    def __getitem__(self, part: slice) -> Tensor:
        assert isinstance(part, slice) and len(range(*part.indices(self.shape[0]))) <= 2048
        return self._rows[part].clone()


def on_disk(images: Features) -> Features:
    return Features(*(OnDisk(table) for table in images[:4]), images.labels)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_those_that_are_named_and_have_intervals(name: str) -> None:
    metric = METRICS[name]
    metrics = metric.measure(SAMPLES, REFERENCE, OPTIONS)
    assert metrics.keys() == metric.better.keys()
    assert set(metric.better.values()) <= {"lower", "higher"}
    for metric in metrics.values():
        assert metric.low <= metric.value <= metric.high and metric.low < metric.high and metric.count is None


@pytest.mark.parametrize("name", METRICS)
def test_tables_need_not_be_in_memory(name: str) -> None:
    samples, reference = on_disk(random_features(2500, 3)), on_disk(random_features(2100, 4))
    expected = METRICS[name].measure(random_features(2500, 3), random_features(2100, 4), OPTIONS)
    assert METRICS[name].measure(samples, reference, OPTIONS) == expected


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.real_baseline])
def test_real_images_are_better_than_samples(name: str) -> None:
    of_samples = METRICS[name].measure(SAMPLES, REFERENCE, OPTIONS)
    real_baseline = METRICS[name].measure(random_features(300, 5), REFERENCE, OPTIONS)
    for key, better in METRICS[name].better.items():
        sign = 1 if better == "higher" else -1
        assert sign * real_baseline[key].value > sign * of_samples[key].value, key


@pytest.mark.parametrize("name", METRICS)
def test_the_least_number_of_images_is_enough(name: str) -> None:
    metric = METRICS[name]
    minimum = metric.needs(SAMPLES)
    samples, reference = random_features(minimum, 6), random_features(max(2, minimum), 7)
    assert describe_shortage(metric, len(samples.features), reference) is None
    for estimate in metric.measure(samples, reference, OPTIONS).values():
        assert torch.tensor([estimate.value, estimate.low, estimate.high]).isfinite().all()


@pytest.mark.parametrize("name", METRICS)
def test_too_few_images_are_explained(name: str) -> None:
    metric = METRICS[name]
    minimum = metric.needs(SAMPLES)
    why = f" for {WIDTH} features" if minimum > WIDTH else ""
    needed = f"needs {minimum} images or more{why}, there are {minimum - 1}"
    assert describe_shortage(metric, minimum - 1, REFERENCE) == needed
    few = random_features(minimum - 1, 8)
    assert describe_shortage(metric, 1000, few) == f"needs {minimum} real images or more{why}, there are {minimum - 1}"
    assert describe_shortage(metric, minimum, REFERENCE) is None


def test_no_resampling_no_interval() -> None:
    found = METRICS["frechet_distance"].measure(SAMPLES, REFERENCE, OPTIONS._replace(replicates=0))
    resampled = METRICS["frechet_distance"].measure(SAMPLES, REFERENCE, OPTIONS)
    assert found["frechet_distance"].low is None
    assert found["frechet_distance"].value == resampled["frechet_distance"].value


def test_metrics_of_missing_columns_do_not_apply() -> None:
    bare = Features(SAMPLES.features, SAMPLES.pixels)
    reasons = {name: metric.why_inapplicable(bare) for name, metric in METRICS.items()}
    assert {name for name, reason in reasons.items() if reason is not None} == {"inception_score", "accuracy"}
    assert "labels" in METRICS["accuracy"].why_inapplicable(bare._replace(class_logits=SAMPLES.class_logits))
    assert not any(metric.why_inapplicable(SAMPLES) for metric in METRICS.values())


@pytest.mark.parametrize("name", ["frechet_distance", "kernel_distance", "precision_recall", "inception_score"])
def test_values_that_are_not_finite_are_named(name: str) -> None:
    samples = random_features(300, 1)
    samples.features[123, 2] = torch.nan
    samples.logits[123, 2] = torch.nan
    with pytest.raises(ValueError, match=r"image 123 .*remove"):
        METRICS[name].measure(samples, REFERENCE, OPTIONS)


@pytest.mark.parametrize("name", ["kernel_distance", "precision_recall"])
def test_pairs_are_bounded_and_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_PAIRWISE_IMAGES", 100)
    found = METRICS[name].measure(SAMPLES, REFERENCE, OPTIONS)
    sets = (SAMPLES, REFERENCE)
    thinned = [s._replace(features=s.features[random_indices(len(s.features), 100)]) for s in sets]
    expected = METRICS[name].measure(*thinned, OPTIONS)
    assert found == {key: metric._replace(count=100) for key, metric in expected.items()}


def test_infinity_is_left_out_where_images_are_too_few() -> None:
    few = METRICS["frechet_distance"].measure(random_features(69, 9), REFERENCE, OPTIONS)
    enough = METRICS["frechet_distance"].measure(random_features(70, 9), REFERENCE, OPTIONS)
    assert few.keys() == {"frechet_distance"} and len(enough) == 2


def test_held_out_images_make_the_baseline() -> None:
    near = REFERENCE._replace(pixels=REFERENCE.pixels + 1e-6)
    copies = SAMPLES._replace(pixels=REFERENCE.pixels[:300] + 1e-3)
    measure = METRICS["memorization"].measure
    assert measure(copies, REFERENCE, OPTIONS)["memorized"].value == 1
    assert measure(copies, REFERENCE, OPTIONS._replace(held_out=near))["memorized"].value == 0
