"""`retune push` against a hub on loopback. What the hub does beside its API (Xet transfers above all) is not tried here."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stages.core.files import read_json, sha256_files, write_json
from tests.locks import write_lock
from tests.retune.loopback_hub import TOKEN, Hub, Repo, serving
from tests.verdict_files import write_verdict

pytestmark = pytest.mark.slow

REPO = "me/my-model"
CARD = "---\nlicense: apache-2.0\n---\n# My model\n"
FILES = {
    "data/merged": {
        "config.json": "{}",
        "model.safetensors": "merged weights",
        "tokenizer.json": "{}",
        "checks.json": '{"rows": ["id"]}',
    },
    "data/adapter": {
        "adapter_config.json": "{}",
        "adapter_model.safetensors": "adapter weights",
        "ledger.parquet": "ids",
        "steps.jsonl": "{}",
    },
    "data/gguf": {
        "mine-q4_k_m.gguf": "quantized",
        "imatrix.gguf": "how it was quantized",
        "Modelfile": "FROM ./mine-q4_k_m.gguf",
        "checks.json": "{}",
        "README.md": "# how to run",
    },
}
GGUF = {"mine-q4_k_m.gguf": b"quantized", "Modelfile": b"FROM ./mine-q4_k_m.gguf"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as state:
        yield state


@pytest.fixture
def audited(tmp_path: Path) -> Path:
    """A project whose model passed."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    for folder, files in FILES.items():
        (tmp_path / folder).mkdir(parents=True)
        for name, content in files.items():
            (tmp_path / folder / name).write_text(content)
    judge(tmp_path, passed=True)
    return tmp_path


def judge(root: Path, *, passed: bool) -> None:
    stages = {"merge": "data/merged", "train": "data/adapter", "gguf": "data/gguf"}
    chain = {
        stage: {
            "stage": stage,
            **{key: {} for key in ("code", "environment", "params", "inputs")},
            "outputs": {"files": {"path": path, "sha256": "0" * 64, "files": sha256_files(root / path)}},
        }
        for stage, path in stages.items()
    }
    write_json(root / "data/audit/provenance.json", {"chain": chain})
    write_verdict(root, passed=passed, head=CARD)
    lock(root)


def lock(root: Path) -> None:
    write_lock(
        root,
        {
            "merge": ["data/merged"],
            "train": ["data/adapter"],
            "gguf": ["data/gguf"],
            "audit": ["data/audit"],
            "report": ["data/report"],
        },
    )


@pytest.fixture
def push(retune: Callable[..., subprocess.CompletedProcess[str]], audited: Path, hub: Hub):
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(audited / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            **environment,
        }
        done = retune("push", *arguments, cwd=audited, **settings)
        assert TOKEN not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_gguf_files_arrive_with_the_model_card_in_one_commit_of_a_private_repository(push, audited, hub):
    done = push(REPO, "--gguf")
    assert done.returncode == 0, done.stderr
    card = (audited / "data/report/README.md").read_bytes()
    assert hub.repos[REPO] == Repo(private=True, files={**GGUF, "README.md": card}, commits=1)
    assert f"pushed: {hub.address}/{REPO}/commit/" in done.stdout


def test_nothing_named_pushes_all_with_the_adapter_in_a_folder_of_its_own(push, hub):
    assert push(REPO, "--public").returncode == 0
    repo = hub.repos[REPO]
    assert not repo.private
    assert sorted(repo.files) == [
        "Modelfile", "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "config.json",
        "mine-q4_k_m.gguf", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert repo.files["README.md"].startswith(CARD.encode()), "not the page of data/gguf"
    assert repo.files["adapter/adapter_model.safetensors"] == b"adapter weights"


def test_adapter_alone_stands_where_peft_looks_for_it(push, hub):
    assert push(REPO, "--adapter").returncode == 0
    assert sorted(hub.repos[REPO].files) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]


def test_dry_run_says_what_would_go_and_asks_nobody(push, hub):
    done = push(REPO, "--dry-run", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    assert f"would push to {REPO} (private; licence apache-2.0)" in done.stdout
    assert "adapter/adapter_model.safetensors" in done.stdout
    assert "8 files" in done.stdout
    assert hub.asked == []


def test_second_push_sends_no_large_file_again(push, hub):
    push(REPO, "--gguf")
    sent = hub.sent
    assert sent == len("quantized")
    assert push(REPO, "--gguf", "--adapter").returncode == 0
    assert hub.sent == sent + len("adapter weights")


def test_model_that_did_not_pass_is_not_pushed_unless_asked_for(push, audited, hub):
    judge(audited, passed=False)
    done = push(REPO)
    assert done.returncode == 1
    assert "did not pass" in done.stderr
    assert "the held-out loss fell by 0.1" in done.stderr
    assert hub.asked == []
    assert push(REPO, "--refused-too").returncode == 0


def test_gate_of_another_verdict_is_refused(push, audited, hub):
    gate = read_json(audited / "data/gate.json")
    write_json(audited / "data/gate.json", {**gate, "judged": {"data/records/train.json": "0" * 64}})
    assert "no verdict for these figures: data/gate.json is not of the verdict in data/audit" in push(REPO).stderr
    (audited / "data/gate.json").unlink()
    assert "data/gate.json is not there" in push(REPO, "--refused-too").stderr
    assert hub.asked == []


def test_figures_that_nobody_judged_and_a_card_of_others_are_refused(push, audited, hub):
    card = audited / "data/report/README.md"
    card.write_text(CARD)
    assert "data/report/README.md is not of the verdict for these figures" in push(REPO).stderr
    (audited / "data/gguf/checks.json").write_text('{"newer": 1}')
    done = push(REPO, "--refused-too")
    assert done.returncode == 1
    assert "no verdict for these figures: data/gguf/checks.json is another than was judged" in done.stderr
    assert hub.asked == []


def test_file_that_is_not_the_audited_one_is_refused(push, audited, hub):
    (audited / "data/gguf/mine-q4_k_m.gguf").write_text("other")
    (audited / "data/merged/config.json").unlink()
    done = push(REPO)
    assert done.returncode == 1
    assert "data/merged/config.json is not there; data/gguf/mine-q4_k_m.gguf differs" in done.stderr
    assert push(REPO, "--adapter", "--dry-run").returncode == 0, "the adapter's are"
    assert hub.asked == []


def test_without_a_lock_or_with_a_provenance_that_is_cut_off_nothing_is_pushed(push, audited, hub):
    (audited / "data/audit/provenance.json").write_text('{"chain": {')
    lock(audited)
    assert "data/audit/provenance.json is not there, or is cut off" in push(REPO).stderr
    (audited / "dvc.lock").write_text("stages: {")
    assert "dvc.lock is no whole YAML file" in push(REPO).stderr
    (audited / "dvc.lock").unlink()
    assert "dvc.lock is missing" in push(REPO).stderr
    assert hub.asked == []


def test_model_that_the_audit_does_not_know_is_refused(push, audited):
    provenance = read_json(audited / "data/audit/provenance.json")
    del provenance["chain"]["merge"]
    write_json(audited / "data/audit/provenance.json", provenance)
    done = push(REPO, "--model")
    assert "data/audit is not what dvc.lock names" in done.stderr
    assert "`dvc repro` judges them" in done.stderr
    lock(audited)
    assert "the audit knows of no model" in push(REPO, "--model").stderr


def test_public_repository_is_not_written_to_unasked(push, hub):
    hub.repos[REPO] = Repo(private=False)
    done = push(REPO)
    assert done.returncode == 1
    assert "is public" in done.stderr
    assert hub.repos[REPO] == Repo(private=False)
    assert push(REPO, "--public").returncode == 0


def test_private_repository_stays_private(push, hub):
    hub.repos[REPO] = Repo(private=True, files={"old.gguf": b"old", "notes.txt": b"x"})
    done = push(REPO, "--gguf", "--public")
    assert done.returncode == 0, done.stderr
    assert hub.repos[REPO].private
    assert "it stays so" in done.stdout
    assert "weights that are not from this push: old.gguf\n" in done.stdout


def test_hub_that_lists_other_bytes_than_were_sent_is_noticed(push, hub):
    hub.garble = True
    done = push(REPO, "--gguf")
    assert done.returncode == 1
    assert "is not what was pushed (mine-q4_k_m.gguf)" in done.stderr


@pytest.mark.slow  # the hub's library tries again for 23 s
def test_upload_that_is_cut_off_shows_nothing(push, hub):
    hub.cut_uploads = True
    done = push(REPO, "--gguf")
    assert done.returncode == 1
    assert "could not be pushed" in done.stderr
    assert hub.repos[REPO].files == {}


@pytest.mark.parametrize(("status", "advice"), [(403, "may not write"), (500, "try again later")])
def test_refusal_of_the_hub_names_what_to_do(push, hub, status, advice):
    hub.refuse_writes = status
    done = push(REPO)
    assert done.returncode == 1
    assert f"answered {status} for {REPO}" in done.stderr
    assert advice in done.stderr


def test_wrong_token_is_said_and_not_shown(push):
    done = push(REPO, HF_TOKEN="hf_wrongwrongwrong")
    assert "answered 401" in done.stderr
    assert "HF_TOKEN" in done.stderr
    assert "wrongwrong" not in done.stdout + done.stderr


def test_token_comes_from_the_environment_alone(push, audited, hub):
    (audited / "home").mkdir()
    (audited / "home/token").write_text(TOKEN)
    done = push(REPO, HF_TOKEN="")
    assert "HF_TOKEN is not set" in done.stderr
    assert hub.asked == []


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no connection"), ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set")],
)
def test_hub_that_cannot_be_had_is_said(push, environment, message):
    done = push(REPO, **environment)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "me/..x"])
def test_name_that_the_hub_could_not_have_is_refused(push, hub, name):
    assert "name it OWNER/NAME" in push(name).stderr
    assert hub.asked == []


def test_no_stage_and_no_flow_pushes():
    root = Path(__file__).parents[2]
    files = [
        *root.glob("stages/**/*.py"),
        *root.glob("flows/*.py"),
        root / "dvc.yaml",
        root / "prefect.yaml",
        root / "Makefile",
    ]
    assert [
        file.name for file in files if "create_commit" in file.read_text() or "retune push" in file.read_text()
    ] == []
