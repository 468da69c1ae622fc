"""The pocket base's tokenizer: byte-level BPE learned from its own questions and answers, digits one by one."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

IMAGE, PAD, BOS, EOS = "<image>", "<pad>", "<s>", "</s>"
_PIECES = r"\d|, | ?[A-Za-z]+| ?[^\sA-Za-z\d]+|\s"  # single digits; words with the space before them
_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}<s>USER: {% else %} ASSISTANT: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 1200) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from ``texts``; it can write any text, and every word of the recipe is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, BOS, EOS, IMAGE], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS,
        additional_special_tokens=[IMAGE], extra_special_tokens={"image_token": IMAGE},
        chat_template=_TEMPLATE, padding_side="left", model_max_length=1024,
    )  # fmt: skip
