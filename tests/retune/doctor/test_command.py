import json

import pytest


def test_doctor_answers_in_json_and_never_shows_the_token(project, retune):
    environment = {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = retune("doctor", "--json", cwd=project, **environment)
    answer = json.loads(done.stdout)
    assert done.returncode == 1  # the copy is no DVC repository
    assert not answer["ok"]
    states = {line["subject"]: line["state"] for line in answer["findings"]}
    assert states["params"] == "ok"
    assert states["DVC"] == "problem"
    assert "there is a token" in done.stdout
    assert "hf_secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments", [["doctor"], ["use", "demo"], ["--version"], ["accept", "--help"], ["why", "--help"]]
)
def test_no_verb_imports_torch(project, retune, arguments):
    done = retune(*arguments, cwd=project, HF_ENDPOINT="http://127.0.0.1:9", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "retune" in imported
    assert not imported & {"torch", "transformers", "unsloth", "prefect"}


@pytest.mark.parametrize("verb", [[], ["use"], ["doctor"], ["accept"], ["why"]])
def test_every_verb_has_help(project, retune, verb):
    done = retune(*verb, "--help", cwd=project)
    assert done.returncode == 0
    assert "Usage: retune" in done.stdout
