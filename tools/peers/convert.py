#!/usr/bin/env python3
"""Convert a Hugging Face folder for another engine.

usage: convert.py openvino FOLDER OUT {fp16,int8,int4}          (needs optimum-intel, nncf)
       convert.py gguf FOLDER OUT.gguf --llama LLAMA_CPP_DIR     (needs gguf, torch, transformers; writes bf16)
"""
import argparse
import runpy
import sys


def openvino(folder, out, kind):
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    quantization = {
        "fp16": None,
        "int8": OVWeightQuantizationConfig(bits=8, sym=True),
        "int4": OVWeightQuantizationConfig(bits=4, sym=True, group_size=64, ratio=1.0),
    }[kind]
    model = OVModelForCausalLM.from_pretrained(
        folder, export=True, compile=False, load_in_8bit=False if quantization is None else None,
        quantization_config=quantization,
    )
    model.save_pretrained(out)
    # The pipeline wants tokenizers although only token ids are sent.
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(out)
    for name, part in zip(("tokenizer", "detokenizer"), convert_tokenizer(tokenizer, with_detokenizer=True)):
        ov.save_model(part, f"{out}/openvino_{name}.xml")


def gguf(folder, out, llama):
    """The converter knows tokenizers by a hash of what they do; ours is none of them, and ids are all that is sent."""
    sys.path[:0] = [llama, f"{llama}/gguf-py"]
    import conversion.base

    conversion.base.TextModel.get_vocab_base_pre = lambda *_: "llama-bpe"
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outfile", out, "--outtype", "bf16"]
    runpy.run_path(f"{llama}/convert_hf_to_gguf.py", run_name="__main__")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["openvino", "gguf"])
    parser.add_argument("folder")
    parser.add_argument("out")
    parser.add_argument("kind", nargs="?", choices=["fp16", "int8", "int4"])
    parser.add_argument("--llama")
    arguments = parser.parse_args()
    if arguments.engine == "openvino":
        openvino(arguments.folder, arguments.out, arguments.kind or "fp16")
    else:
        gguf(arguments.folder, arguments.out, arguments.llama)
