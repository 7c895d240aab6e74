import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from ddpm.config.study import Study
from ddpm.lab.ablation.registration import check_study_directory, find_registration, read_registration, register

DATA = SimpleNamespace(summary=lambda: "two images", fingerprint="f" * 64)


def test_registration_is_not_overwritten(tmp_path: Path, study: Callable[..., Study]) -> None:
    path = tmp_path / "runs" / "study"
    first = register(study(), {"study.yaml": "# a text\n", "base.yaml": "{}\n"}, DATA, path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert register(study(), {"study.yaml": "# another text\n"}, DATA, path) == first == read_registration(path)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert set(before) == {"study.yaml", "base.yaml", "study.json"} and before["study.yaml"] == b"# a text\n"
    assert first["data"]["fingerprint"] == DATA.fingerprint and len(first["digest"]) == 64


def moved(study: Study, source: str) -> Study:
    """Return the study with its images in another place."""
    arms = [replace(arm, config=arm.config.with_options({"data.source": source})) for arm in study.arms]
    return replace(study, arms=tuple(arms), base=study.base.with_options({"data.source": source}))


def test_images_may_move_if_they_are_the_same(tmp_path: Path, study: Callable[..., Study]) -> None:
    first = register(moved(study(), "old/place"), {}, DATA, tmp_path)
    assert register(moved(study(), "new/place"), {}, DATA, tmp_path) == first
    other = SimpleNamespace(summary=lambda: "two images", fingerprint="e" * 64)
    with pytest.raises(ValueError, match="other data"):
        register(moved(study(), "new/place"), {}, other, tmp_path)
    with pytest.raises(ValueError, match="seeds"):
        register(moved(study(seeds=(0, 1)), "new/place"), {}, DATA, tmp_path)


def test_digests_are_equal_for_equal_studies_only(tmp_path: Path, study: Callable[..., Study]) -> None:
    facts = [register(s, {}, DATA, tmp_path / str(i)) for i, s in enumerate((study(), study(), study(seeds=(0, 1))))]
    assert facts[0]["digest"] == facts[1]["digest"] != facts[2]["digest"]


def test_another_study_is_refused_and_the_differences_are_named(tmp_path: Path, study: Callable[..., Study]) -> None:
    register(study(), {}, DATA, tmp_path)
    with pytest.raises(ValueError, match=r"seeds.*\[0, 1, 2\].*\[0, 1\].*--run-dir"):
        register(study(seeds=(0, 1)), {}, DATA, tmp_path)
    with pytest.raises(ValueError, match=r"metric.*accuracy.*recall"):
        register(study(metric="recall"), {}, DATA, tmp_path)
    with pytest.raises(ValueError, match=r"arms\.decayed\.\S+.*not set.*\d+ more.*--run-dir"):
        register(study(arms=study().arms[:2]), {}, DATA, tmp_path)
    with pytest.raises(ValueError, match=r"evaluation\.count.*50.*60"):
        register(study(evaluation={"count": 60, "bootstrap": 20}), {}, DATA, tmp_path)
    assert json.loads((tmp_path / "study.json").read_text())["study"]["metric"] == "accuracy"


def test_the_order_of_arms_cannot_change(tmp_path: Path, study: Callable[..., Study]) -> None:
    register(study(), {}, DATA, tmp_path)
    plain, again, decayed = study().arms
    with pytest.raises(ValueError, match=r"arms.*plain, again, decayed.*again, plain, decayed"):
        register(study(arms=(again, plain, decayed)), {}, DATA, tmp_path)


def test_an_edited_registration_is_refused(tmp_path: Path, study: Callable[..., Study]) -> None:
    register(study(), {}, DATA, tmp_path)
    file = tmp_path / "study.json"
    facts = json.loads(file.read_text())
    facts["study"]["metric"] = "recall"
    file.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"study\.json.*restore"):
        register(study(metric="recall"), {}, DATA, tmp_path)
    with pytest.raises(ValueError, match=r"study\.json.*restore"):
        read_registration(tmp_path)


@pytest.mark.parametrize("left", ["plain/seed_0/run.json", "plain/seed_0/diverged.json", "plain/lr_0.1/seed_9/x"])
def test_runs_without_a_registration_are_refused(tmp_path: Path, study: Callable[..., Study], left: str) -> None:
    register(study(), {}, DATA, tmp_path)
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_text("{}")
    register(study(), {}, DATA, tmp_path)
    (tmp_path / "study.json").unlink()
    with pytest.raises(ValueError, match=r"plain/.*study\.json.*restore.*--run-dir"):
        register(study(), {}, DATA, tmp_path)
    assert not (tmp_path / "study.json").exists()


def test_other_data_are_refused(tmp_path: Path, study: Callable[..., Study]) -> None:
    register(study(), {}, DATA, tmp_path / "study")
    other = SimpleNamespace(summary=lambda: "three images", fingerprint="e" * 64)
    for check in (lambda: register(study(), {}, other, tmp_path / "study"),
                  lambda: find_registration(study(), other, tmp_path / "study")):       # in a dry run
        with pytest.raises(ValueError, match=r"two images.*three images.*--run-dir"):
            check()
    assert find_registration(study(), other, tmp_path / "new") is None and not (tmp_path / "new").exists()


def test_a_study_is_not_written_into_something_else(tmp_path: Path, study: Callable[..., Study], refused) -> None:
    images, run = tmp_path / "images", tmp_path / "runs" / "one"
    (images / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(images / "a" / "0.png")
    run.mkdir(parents=True)
    for name in ("config.yaml", "run.json"):
        (run / name).write_text("{}")
    (tmp_path / "file").touch()
    lost = tmp_path / "lost"
    (lost / "checkpoints" / "step_00000001").mkdir(parents=True)
    (lost / "run.json").write_text("{}")
    for path, source, named in (
        (images, "digits", "is a folder of images"), (images, str(images), "in the folder of images"),
        (images / "new", str(images), "in the folder of images"), (images / "a", "digits", "is a folder of images"),
        (run, "digits", f"of the run {run}"), (run / "new", "digits", f"of the run {run}"),
        (run.parent, "digits", "is a folder of runs"), (tmp_path / "file", "digits", "is a file"),
        (lost, "digits", "without its config.yaml"),
    ):
        with refused(f"run_dir: {path} ", named, "--run-dir"):
            check_study_directory(path, source)
    (images / "a" / "lr_1.png").touch()
    with refused(str(images), "is a folder of images"):
        check_study_directory(images, "digits")
    for path in (tmp_path / "new", run.parent / "two"):
        check_study_directory(path, str(images))
        register(study(), {}, DATA, path)
        check_study_directory(path, str(images))
    # Pictures of runs are no folder of images, also if study.json is lost, which `register` then says.
    left = tmp_path / "new" / "plain" / "seed_0"
    left.mkdir(parents=True)
    (left / "run.json").write_text("{}")
    Image.new("L", (8, 8)).save(left / "grid.png")
    (tmp_path / "new" / "study.json").unlink()
    check_study_directory(tmp_path / "new", str(images))


def test_a_directory_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.json.*scripts/ablate\.py"):
        read_registration(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json.*restore"):
        read_registration(tmp_path)
