import os

import pytest

from retune.doctor.machine import (
    check_fast_tokenizer,
    check_gpu,
    check_gpus,
    check_memory,
    check_packages,
    check_python,
    check_write_access,
    installed_version,
    whole_model_bytes,
)

NVIDIA_SMI = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559, 80994, {driver}'\n"


def one(findings):
    (found,) = list(findings)
    return found


@pytest.mark.parametrize(("driver", "state"), [("470.82.01", "problem"), ("999.1", "ok")])
def test_gpu_is_measured_against_the_cuda_of_torch(tmp_path, monkeypatch, driver, state):
    if installed_version("nvidia-cuda-runtime") is None:
        pytest.skip("this torch has no CUDA")
    (tmp_path / "nvidia-smi").write_text(NVIDIA_SMI.format(driver=driver))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = one(check_gpus({}, 0))
    assert found.state == state
    assert "80994 free" in found.found


def test_gpu_with_too_little_free_memory_is_a_warning():
    assert check_gpu("G", "8192", "1000", "999.1", 6 * 2**30).state == "warning"
    assert check_gpu("G", "8192", "8000", "999.1", 6 * 2**30).state == "ok"


@pytest.mark.parametrize(
    ("device", "weights", "state"), [("auto", 0, "ok"), ("auto", 6 * 2**30, "warning"), ("cuda", 0, "problem")]
)
def test_no_gpu_matters_as_much_as_it_is_needed(tmp_path, monkeypatch, device, weights, state):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert one(check_gpus({"runtime": {"device": device}}, weights)).state == state


def test_python_that_the_project_does_not_ask_for_is_a_problem(tmp_path):
    project = '[project]\nrequires-python = "{}"\n'
    for asked, state in ((">=3.11", "ok"), (">=3.99", "problem"), (">=3.9,<3.10", "problem")):
        (tmp_path / "pyproject.toml").write_text(project.format(asked))
        assert check_python(tmp_path).state == state


def test_package_that_differs_from_the_lock_is_named(tmp_path):
    version = installed_version("typer")
    (tmp_path / "requirements.lock").write_text(
        f"typer=={version} \\\n    --hash=sha256:00\nrich==0.1 \\\n    --hash=sha256:00\n"
    )
    found = check_packages(tmp_path)
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
    found = check_fast_tokenizer(tmp_path, tmp_path)
    assert found.state == state
    assert all(word in found.found for word in words)
    assert ("make setup" in found.todo) == (state == "warning")


def test_folder_that_cannot_be_written_is_a_problem(tmp_path):
    assert check_write_access(tmp_path).state == "ok"
    (tmp_path / "data").mkdir(mode=0o500)
    if os.geteuid() != 0:  # root may write anywhere
        assert check_write_access(tmp_path).state == "problem"


def test_memory_is_measured_against_the_model_that_the_export_runs_whole():
    three_b = 6_400_000_000
    assert whole_model_bytes(three_b, 4 << 30) == three_b, "in its own 16 bits"
    assert whole_model_bytes(2_000_000_000, 4 << 30) == 4_000_000_000, "in float32"
    assert "a run needs about 8.0" in check_memory(three_b).found
    assert check_memory(1 << 50).state == "warning"
