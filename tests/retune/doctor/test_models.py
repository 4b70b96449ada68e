import http.server
import threading

import pytest

from retune.doctor.models import check_quantizer, find_hub_trouble, hub_sources, weights_bytes


def one(findings):
    (found,) = list(findings)
    return found


@pytest.mark.parametrize(
    ("source", "size"), [("owner/Llama-3.2-3B-Instruct", 6_000_000_000), ("owner/tiny", 0), ("custom", 4)]
)
def test_weights_are_known_from_files_or_from_the_name(tmp_path, source, size):
    (tmp_path / "data/custom_base").mkdir(parents=True)
    (tmp_path / "data/custom_base/model.safetensors").write_text("1234")
    assert weights_bytes(tmp_path, {"fetch_model": {"source": source}}) == size


def test_server_that_answers_with_an_error_is_reachable_and_a_silent_one_is_not():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert find_hub_trouble(address) is None
    finally:
        server.shutdown()
        server.server_close()
    assert find_hub_trouble(address) is not None


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


def test_quantizer_is_spoken_of_only_where_a_quantization_is_its_and_its_build_is_announced(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(check_quantizer({"gguf": {"quantizations": ["q8_0"]}})) == []
    wanted = {"gguf": {"quantizations": ["q8_0", "q2_k"]}}
    found = one(check_quantizer(wanted))
    assert found.state == "problem"
    assert "for q2_k" in found.found
    assert "cmake" in found.found
    for name in ("cmake", "make", "cc", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    found = one(check_quantizer(wanted))
    assert found.state == "ok"
    assert "builds it once" in found.found
