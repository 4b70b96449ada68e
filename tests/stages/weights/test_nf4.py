from pathlib import Path

import pytest

from tests.stages.weights.test_layerwise import SHAPES, save_model

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("shape", ["llama", "llama tied", "qwen2, biases", "gemma, scaled embedding"])
def test_restored_weights_are_those_of_the_layers_that_transformers_quantizes(
    tmp_path: Path, shape: str, dtype: str
) -> None:
    import torch
    from peft.utils.integrations import dequantize_module_weight

    from stages.models.base_model import load_base
    from stages.weights.meta_model import build_meta_model, linear_weights
    from stages.weights.nf4 import Nf4
    from stages.weights.shards import read_headers

    kind, settings = SHAPES[shape]
    save_model(tmp_path, kind, **settings)
    model = load_base(tmp_path, load_in_4bit=True, dtype=dtype, place="cpu", rows=384)
    tensors = read_headers(sorted(tmp_path.glob("*.safetensors")))
    nf4 = Nf4(linear_weights(build_meta_model(tmp_path)), dtype, "cpu")
    layers = {
        f"{name}.weight": module for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"
    }
    assert nf4.names == layers.keys()
    for name, layer in layers.items():
        restored = nf4.round_trip(tensors[name])
        assert torch.equal(restored, dequantize_module_weight(layer).cpu()), name
