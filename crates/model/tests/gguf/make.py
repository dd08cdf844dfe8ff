"""Blocks of random bits for every quantised kind of GGUF, and the weights that the `gguf` package reads from them.

    pip install gguf==0.19.0 && python make.py

Writes KIND.blocks (4 rows of 512 weights) and KIND.f32 beside itself. Scales are ordinary half-precision numbers, every
other bit is random.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Kind, dequantize

ROWS, INPUTS = 4, 512
# Where in a block half-precision numbers lie.
HALVES = {
    Kind.Q4_0: [0],
    Kind.Q4_1: [0, 2],
    Kind.Q5_0: [0],
    Kind.Q5_1: [0, 2],
    Kind.Q8_0: [0],
    Kind.Q4_K: [0, 2],
    Kind.Q5_K: [0, 2],
    Kind.Q6_K: [208],
}


def main() -> None:
    random = np.random.default_rng(20)
    folder = Path(__file__).parent
    for kind, halves in HALVES.items():
        elements, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (ROWS * INPUTS // elements, size), dtype=np.uint8)
        for at in halves:
            scales = random.normal(0, 0.01, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
        weights = dequantize(blocks.reshape(ROWS, -1), kind)
        assert weights.dtype == np.float32 and weights.shape == (ROWS, INPUTS)
        (folder / f"{kind.name}.blocks").write_bytes(blocks.tobytes())
        (folder / f"{kind.name}.f32").write_bytes(weights.tobytes())


main()
