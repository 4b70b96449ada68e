"""What a merge and its check keep in memory: measured in processes of their own, since a process's peak never falls."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.stages.training.support.tiny import RUNTIME, make_tokenizer, make_tokens
from tests.stages.weights.support.random_model import make_base, make_random_adapter

SHARD = 100_000_000
COMMAND = """
import json, resource, sys
from pathlib import Path
from stages.merge import MergeParams, merge
from stages.core.params import Runtime
root, into, runtime = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
params = MergeParams(into=into, check_rows=4, max_logit_difference=1e6)
merge(root / "base", root / "adapter", root.parent / "tokens", root / into, params, Runtime.model_validate(runtime))
print("PEAK", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak(root: Path, into: str) -> int:
    """Peak resident bytes of a merge."""
    command = [sys.executable, "-c", COMMAND, str(root), into, json.dumps(RUNTIME)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.rpartition("PEAK ")[2])


@pytest.mark.slow
@pytest.mark.parametrize("into", ["base16", "dequantized_nf4"])
def test_merge_and_check_of_a_large_model_take_less_than_two_shards(tmp_path: Path, into: str) -> None:
    make_tokenizer(tmp_path / "tokens" / "tokenizer", [])
    make_tokens(tmp_path / "tokens", [])
    sizes = {
        "small": {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
        "large": {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 24},
    }
    for name, settings in sizes.items():
        heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False}
        make_base(tmp_path / name / "base", SHARD, **settings, **heads)
        make_random_adapter(tmp_path / name / "base", tmp_path / "tokens", tmp_path / name / "adapter")
    shards = [file.stat().st_size for file in (tmp_path / "large" / "base").glob("*.safetensors")]
    assert sum(shards) > 4 * SHARD
    # a model of no size costs what the imports cost
    taken = peak(tmp_path / "large", into) - peak(tmp_path / "small", into)
    assert taken < 2 * max(shards), f"{taken / 2**20:.0f} MiB in shards of {max(shards) / 2**20:.0f} MiB"
