import fcntl
import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from retune.doctor import (
    dvc_repository,
    fast_tokenizer,
    git_state,
    gpu,
    gpus,
    hub_sources,
    installed,
    locks,
    memory,
    packages,
    python_version,
    quantizer,
    unreachable,
    weights_size,
    whole_model,
    writable,
)  # fmt: skip

NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 80994, {driver}'\n"


def one(findings):
    (found,) = list(findings)
    return found


def owner(pid):
    return {"pid": pid, "cmd": "dvc repro"}


@pytest.fixture
def dead():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize(("text", "word"), [("", "empty"), ('{"read": {', "cut off"), ("[]", "damaged")])
def test_rwlock_that_cannot_be_read_is_a_problem_with_the_way_out(tmp_path, text, word):
    (tmp_path / "rwlock").write_text(text)
    found = one(locks(tmp_path))
    assert found.state == "problem"
    assert word in found.found
    assert "rm .dvc/tmp/rwlock" in found.todo


def test_rwlock_of_a_dead_process_is_ok(tmp_path, dead):
    (tmp_path / "rwlock").write_text(json.dumps({"read": {"x": [owner(dead)]}, "write": {}}))
    assert one(locks(tmp_path)).state == "ok"


def test_rwlock_whose_number_another_program_has_is_a_problem(tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / "rwlock").write_text(json.dumps({"write": {"x": owner(process.pid)}}))
        found = one(locks(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert found.state == "problem"
    assert "another program" in found.found


def test_rwlock_of_a_running_dvc_is_a_warning(tmp_path):
    code = "import time; time.sleep(60)  # dvc"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.5)
        (tmp_path / "rwlock").write_text(json.dumps({"write": {"x": owner(process.pid)}}))
        found = one(locks(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert found.state == "warning"


def test_repository_lock_that_is_held_is_a_warning(tmp_path):
    (tmp_path / "lock").write_text("  4711\n")
    with (tmp_path / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = one(locks(tmp_path))
    assert found.state == "warning"
    assert "4711" in found.found


def test_locks_that_are_free_are_ok(tmp_path):
    (tmp_path / "lock").write_text("")
    (tmp_path / "rwlock").write_text('{"read": {}, "write": {}}')
    assert one(locks(tmp_path)).state == "ok"


@pytest.mark.parametrize(
    ("kind", "state"), [("reflink,copy", "ok"), ("hardlink", "problem"), ("reflink,symlink", "problem")]
)
def test_cache_that_a_write_can_reach_is_a_problem(toy, kind, state):
    (toy / ".dvc/config").write_text(f'[cache]\n    type = "{kind}"\n')
    assert one(dvc_repository(toy)).state == state


def test_project_without_dvc_is_a_problem(tmp_path):
    assert one(dvc_repository(tmp_path)).todo == "`dvc init`"


@pytest.mark.parametrize(("driver", "state"), [("470.82.01", "problem"), ("999.1", "ok")])
def test_gpu_is_measured_against_the_cuda_of_torch(tmp_path, monkeypatch, driver, state):
    if installed("nvidia-cuda-runtime") is None:
        pytest.skip("this torch has no CUDA")
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI.format(driver=driver))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = one(gpus({}, 0))
    assert found.state == state
    assert "80994 free" in found.found


def test_gpu_with_too_little_free_memory_is_a_warning():
    assert gpu("G", "8192", "1000", "999.1", 6 * 2**30).state == "warning"
    assert gpu("G", "8192", "8000", "999.1", 6 * 2**30).state == "ok"


@pytest.mark.parametrize(
    ("device", "weights", "state"), [("auto", 0, "ok"), ("auto", 6 * 2**30, "warning"), ("cuda", 0, "problem")]
)
def test_no_gpu_matters_as_much_as_it_is_needed(tmp_path, monkeypatch, device, weights, state):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(gpus({"runtime": {"device": device}}, weights)).state == state


def test_python_that_the_project_does_not_ask_for_is_a_problem(tmp_path):
    project = '[project]\nrequires-python = "{}"\n'
    for asked, state in ((">=3.11", "ok"), (">=3.99", "problem"), (">=3.9,<3.10", "problem")):
        (tmp_path / "pyproject.toml").write_text(project.format(asked))
        assert python_version(tmp_path).state == state


def test_package_that_differs_from_the_lock_is_named(tmp_path):
    version = installed("typer")
    (tmp_path / "requirements.lock").write_text(
        f"typer=={version} \\\n    --hash=sha256:00\nrich==0.1 \\\n    --hash=sha256:00\n"
    )
    found = packages(tmp_path)
    assert found.state == "warning"
    assert "1 of 2 differ" in found.found
    assert "rich" in found.found


@pytest.mark.parametrize(
    ("versions", "state", "words"),
    [
        ({}, "warning", ["not installed"]),
        ({"tokenizers": "1.0"}, "warning", ["quick is missing, not 2.0"]),
        ({"tokenizers": "0.9", "quick": "2.0"}, "warning", ["tokenizers is 0.9, not 1.0"]),
        ({"tokenizers": "1.0", "quick": "2.0"}, "ok", ["tokenizers 1.0", "quick 2.0"]),
    ],
)
def test_fast_tokenizer_that_is_missing_or_of_another_release_is_named(tmp_path, versions, state, words):
    lock = "".join(f"{pin} \\\n    --hash=sha256:00\n" for pin in ("quick==2.0", "tokenizers==1.0"))
    (tmp_path / "requirements-apart.lock").write_text(lock)
    for name, version in versions.items():
        info = tmp_path / f"apart/{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = fast_tokenizer(tmp_path, tmp_path)
    assert found.state == state
    assert all(word in found.found for word in words)
    assert ("make setup" in found.todo) == (state == "warning")


@pytest.mark.parametrize(
    ("source", "size"), [("owner/Llama-3.2-3B-Instruct", 6_000_000_000), ("owner/tiny", 0), ("custom", 4)]
)
def test_weights_are_known_from_files_or_from_the_name(tmp_path, source, size):
    (tmp_path / "data/custom_base").mkdir(parents=True)
    (tmp_path / "data/custom_base/model.safetensors").write_text("1234")
    assert weights_size(tmp_path, {"fetch_model": {"source": source}}) == size


def test_git_without_a_commit_is_a_warning(tmp_path, toy):
    assert one(git_state(tmp_path)).state == "warning"
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert "no commit yet" in one(git_state(tmp_path)).found
    assert one(git_state(toy)).state == "ok"


def test_folder_that_cannot_be_written_is_a_problem(tmp_path):
    assert writable(tmp_path).state == "ok"
    (tmp_path / "data").mkdir(mode=0o500)
    if os.geteuid() != 0:  # root may write anywhere
        assert writable(tmp_path).state == "problem"


def test_server_that_answers_with_an_error_is_reachable_and_a_silent_one_is_not():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert unreachable(address) is None
    finally:
        server.shutdown()
        server.server_close()
    assert unreachable(address) is not None


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


@pytest.mark.parametrize("arguments", [["doctor"], ["use", "demo"], ["--version"], ["accept", "--help"]])
def test_no_verb_imports_torch(project, retune, arguments):
    done = retune(*arguments, cwd=project, HF_ENDPOINT="http://127.0.0.1:9", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "retune" in imported
    assert not imported & {"torch", "transformers", "unsloth", "prefect"}


@pytest.mark.parametrize("verb", [[], ["use"], ["doctor"], ["accept"]])
def test_every_verb_has_help(project, retune, verb):
    done = retune(*verb, "--help", cwd=project)
    assert done.returncode == 0
    assert "Usage: retune" in done.stdout


@pytest.mark.parametrize(
    ("model", "data", "named"),
    [
        ("demo", [{"source": "demo"}], []),
        ("o/m", [{"source": "demo"}, {"source": "data/custom/a.csv"}, {"source": "o/d"}], ["o/m", "o/d"]),
        ("custom", "wrong", []),
        (None, [{"sauce": 1}, 3], []),
    ],
)
def test_hub_is_needed_for_the_models_and_datasets_that_params_name(model, data, named):
    assert hub_sources({"fetch_model": {"source": model}, "fetch_data": {"sources": data}}) == named


def test_memory_is_measured_against_the_model_that_the_export_runs_whole():
    three_b = 6_400_000_000
    assert whole_model(three_b, 4 << 30) == three_b, "in its own 16 bits"
    assert whole_model(2_000_000_000, 4 << 30) == 4_000_000_000, "in float32"
    assert "a run needs about 8.0" in memory(three_b).found
    assert memory(1 << 50).state == "warning"


def test_quantizer_is_spoken_of_only_where_a_quantization_is_its_and_its_build_is_announced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(quantizer({"gguf": {"quantizations": ["q8_0"]}})) == []
    wanted = {"gguf": {"quantizations": ["q8_0", "q2_k"]}}
    found = one(quantizer(wanted))
    assert found.state == "problem"
    assert "for q2_k" in found.found
    assert "cmake" in found.found
    for name in ("cmake", "make", "cc", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    found = one(quantizer(wanted))
    assert found.state == "ok"
    assert "builds it once" in found.found
