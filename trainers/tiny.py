"""A language model of a tenth of a million weights, made on the spot: to try a training out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prefactory.extras import package

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def tiny_model(folder: Path, texts: Iterable[str], heads: int = 4, vocabulary: int = 300) -> Path:
    """Write a random Llama with 64 dimensions and 2 layers, and a tokenizer of the texts.

    Args:
        folder: to write into.
        texts: what the byte-level BPE tokenizer is trained on; it can write any text.
        heads: of the attention.
        vocabulary: tokens, at least 261.

    Returns:
        The folder.
    """
    tokenizers, transformers = package("tokenizers"), package("transformers")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocabulary, special_tokens=SPECIAL)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token=SPECIAL[0], eos_token=SPECIAL[1]
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    transformers.set_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
