"""Model cards and the hub."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ddpm.diffusion.schedule import SCHEDULES, NoiseSchedule
from ddpm.io import hub
from ddpm.io.card import ModelCard
from ddpm.io.hub import push
from ddpm.models.unet import UNet
from ddpm.pipeline import ClassConditionalPipeline


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory such as training leaves behind."""
    run = tmp_path / "runs" / "mine"
    unet = UNet(resolution=8, in_channels=1, out_channels=1, num_classes=2, channels=8, channel_mult=(1,),
                num_res_blocks=1, attention_resolutions=(), head_channels=8)
    made = ClassConditionalPipeline.from_parts(unet, NoiseSchedule(SCHEDULES["cosine"](50)), "v", ["cat", "dog"])
    made.save_pretrained(run / "pipeline")
    facts = {"parameters": 12345, "multiply_adds": 678, "class_names": ["cat", "dog"], "seed": 3,
             "data": {"summary": "10 images, 8x8", "fingerprint": "abc"}, "versions": {"torch": "9.9"}}
    (run / "run.json").write_text(json.dumps(facts))
    (run / "config.yaml").write_text("train:\n  steps: 7\n")
    lines = [{"step": 6, "samples": 60, "loss": 0.5}, {"step": 7, "samples": 70, "loss": 0.25}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "samples").mkdir()
    Image.new("L", (4, 4)).save(run / "samples" / "step_00000007.png")
    return run


@pytest.fixture
def pushed_cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cards that `push` writes, without a token."""
    cards: list[str] = []

    class Recorded(ModelCard):
        def write(self) -> Path:
            cards.append(self.render())
            return super().write()

    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "ModelCard", Recorded)
    return cards


def test_a_card_tells_of_the_run(run: Path) -> None:
    text = ModelCard(run / "pipeline", run, "somebody/cats", "mit").write().read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit" and front["library_name"] == "diffusers"
    for fact in ("2 classes: cat, dog", "10 images, 8x8", "12,345", "| steps | 7 |", "0.25", "torch 9.9", "steps: 7",
                 'from_pretrained("somebody/cats", trust_remote_code=True)', "pipeline('cat'", "![One row per class]"):
        assert fact in text, fact
    assert (run / "pipeline" / "samples.png").is_file()


def test_the_example_of_a_card_draws_as_its_picture_was_drawn(run: Path) -> None:
    assert "pipeline('cat', seeds=0, num_inference_steps=50)" in ModelCard(run / "pipeline", run).render()
    (run / "config.yaml").write_text("sample: {steps: 25, guidance_scale: 2}\n")
    drawn = "pipeline('cat', seeds=0, num_inference_steps=25, guidance_scale=2)"
    assert drawn in ModelCard(run / "pipeline", run).render()
    (run / "config.yaml").write_text("sample: {of_another_version: 1}\n")
    assert "num_inference_steps=50" in ModelCard(run / "pipeline", run).render()


def test_a_card_tells_what_changed_before_its_step(run: Path) -> None:
    file = run / "run.json"
    size, other = "train.batch_size", {"summary": "12 images"}
    changes = [
        {"step": 4, "option": size, "old": 64, "new": 32}, {"step": 4, "option": "train.log_every", "old": 1, "new": 2},
        {"step": 4, "option": "data.source", "old": "a", "new": "b"},
        {"step": 6, "option": "data", "old": {"summary": "10 images"}, "new": other},
    ]
    assert "changed during" not in ModelCard(run / "pipeline", run).render()
    file.write_text(json.dumps({**json.loads(file.read_text()), "changes": changes}))
    text = ModelCard(run / "pipeline", run).render()
    assert f"| changed during training | {size} 64 to 32 at step 4, data (10 images) to (12 images) at step 6 |" in text
    assert f"{size} 64 to 32 at step 4 |" in ModelCard(run / "pipeline", run, step=5).render()
    assert "changed during" not in ModelCard(run / "pipeline", run, step=4).render()


def test_a_card_is_tagged_with_the_norm_of_the_model(run: Path) -> None:
    config = run / "pipeline" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm": "adarms"}))
    tags = yaml.safe_load(ModelCard(run / "pipeline", run).render().split("---")[1])["tags"]
    assert "adarms" in tags and "adagn" not in tags


def test_a_card_does_not_make_up_what_is_not_known(tmp_path: Path, run: Path) -> None:
    text = ModelCard(run / "pipeline", tmp_path / "nothing").render()
    assert yaml.safe_load(text.split("---")[1])["license"] == "other"
    assert "not stated by their author" in text and "None" not in text and "## Training" not in text


def test_without_a_token_nothing_is_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    monkeypatch.setattr(hub, "HfApi", None)
    push(run, "somebody/cats", "mit")
    out = capsys.readouterr().out
    for file in ("README.md", "model_index.json", "ddpm_pipeline.py", "unet/ddpm_unet.py", "samples.png",
                 "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"):
        assert file in out, out
    assert "hf auth login" in out and "8 files" in out


def test_with_a_token_what_was_listed_is_uploaded(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    calls = []

    class Api:
        def __init__(self, token: str) -> None:
            calls.append(token)

        def create_repo(self, name: str, **options: object) -> None:
            calls.append((name, options))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
            calls.append((repo_id, sorted(p.name for p in folder_path.rglob("*") if p.is_file())))
            return "the address"

    monkeypatch.setattr(hub, "get_token", lambda: "secret")
    monkeypatch.setattr(hub, "HfApi", Api)
    push(run, "somebody/cats", dry_run=True)
    assert calls == [] and "nothing was uploaded" in capsys.readouterr().out
    push(run, "somebody/cats", private=True)
    assert calls[:2] == ["secret", ("somebody/cats", {"private": True, "exist_ok": True})]
    assert calls[2][0] == "somebody/cats" and "README.md" in calls[2][1] and len(calls[2][1]) == 8
    assert "uploaded to the address" in capsys.readouterr().out


def test_a_pipeline_that_left_its_run_keeps_its_card(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: None)
    ModelCard(run / "pipeline", run, license="mit").write()
    (run / "pipeline").rename(tmp_path / "alone")
    push(tmp_path / "alone", "somebody/cats")
    assert "samples.png" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^license: .*README\.md"):
        push(tmp_path / "alone", "somebody/cats", "apache-2.0")


@pytest.mark.parametrize("license", [None, "mit"])
def test_a_pushed_card_has_the_title_of_its_repository(license: str | None, run: Path, pushed_cards: list[str]) -> None:
    push(run, "somebody/cats", license)
    assert "\n# cats\n" in pushed_cards[0]
    assert "\n# Class-conditional diffusion model\n" in ModelCard(run / "pipeline", run).render()


def test_a_card_of_an_earlier_checkpoint_tells_of_it(run: Path, pushed_cards: list[str]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "sam')         # a line that a power cut left unfinished
    text = ModelCard(run / "pipeline", run, step=6).render()
    assert "| steps | 6 |" in text and "| images seen | 60 |" in text and "samples.png" not in text
    assert "| steps | 7 |" in ModelCard(run / "pipeline", run).render()
    (run / "checkpoints").mkdir()
    (run / "pipeline").rename(run / "checkpoints" / "step_00000006")
    push(run / "checkpoints" / "step_00000006", "somebody/cats")
    assert "| steps | 6 |" in pushed_cards[0] and "| images seen | 60 |" in pushed_cards[0]


def test_a_card_of_the_best_model_tells_of_its_step(run: Path, pushed_cards: list[str]) -> None:
    (run / "pipeline").rename(run / "best")
    (run / "best" / "best.json").write_text('{"step": 6, "samples": 60, "value": 1.5, "identity": {}}')
    push(run / "best", "somebody/cats")
    assert "| steps | 6 |" in pushed_cards[0] and "| images seen | 60 |" in pushed_cards[0]
    assert "samples.png" not in pushed_cards[0]


def test_lines_of_evaluations_are_not_lines_of_training(run: Path) -> None:
    before = ModelCard(run / "pipeline", run).render()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "samples": 70, "evaluation/accuracy": 0.5}\n')
    assert ModelCard(run / "pipeline", run).render() == before


def test_many_classes_are_listed_in_their_order(tmp_path: Path) -> None:
    names = {str(i): f"c{i}" for i in range(12)}
    (tmp_path / "model_index.json").write_text(json.dumps({"id2label": names}, sort_keys=True))     # as diffusers does
    assert "12 classes: c0, c1, c2, c3," in ModelCard(tmp_path, tmp_path).render()


def test_a_license_that_is_no_identifier(run: Path) -> None:
    with pytest.raises(ValueError, match=r"^license: 'CC BY 4\.0' .*apache-2\.0"):
        push(run, "somebody/cats", "CC BY 4.0")


@pytest.mark.parametrize(("name", "expected"), [
    ("cats", r"^cats: .*owner/cats$"),
    ("a/b/c", r"^a/b/c: .*owner/name$"),
    ("some body/cats", r"^some body/cats: .*owner/name$"),
])
def test_names_that_cannot_be(name: str, expected: str, run: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        push(run, name)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8])
def test_a_card_says_how_channels_are_shown_and_how_to_get_them(run: Path, channels: int) -> None:
    file = run / "pipeline" / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": channels, "out_channels": channels}))
    text = ModelCard(run / "pipeline", run).render()
    assert ("tiles" in text) == (channels not in (1, 3))
    call = next(line for line in text.splitlines() if line.startswith("image = pipeline("))
    assert ('output_type="np"' in call) == (channels > 4) == (f"{channels} channels, more than" in text)
