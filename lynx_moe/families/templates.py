"""Chat templates of families whose processors bring none, in the words that their bases were pretrained with."""

from __future__ import annotations

# Processor class to template; `bos_token` is the tokenizer's, IMAGE stands for the processor's `image_token`.
# PaliGemma (arXiv 2407.07726, section 3): picture tokens, BOS, the prompt, a newline, then the answer and EOS.
TEMPLATES = {
    "PaliGemmaProcessor": (
        "{% for message in messages %}{% for part in message.content if part.type == 'image' %}IMAGE{% endfor %}"
        "{% if message.role == 'user' %}{{ bos_token }}{% endif %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
        "{% if message.role == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
    ),
    # Fuyu, as its processor in transformers writes it: picture, BOS, the prompt, the token where answers begin, the
    # answer and what ends a text. The family's own example ends its prompt in a newline.
    "FuyuProcessor": (
        "{% for message in messages %}{% for part in message.content if part.type == 'image' %}IMAGE{% endfor %}"
        "{% if message.role == 'user' %}{{ bos_token }}{% endif %}"
        "{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
        "{% if message.role == 'user' %}{{ '\\n<0x04>' }}{% endif %}{% endfor %}"
    ),
}


def give_template(processor) -> None:
    """Sets the processor's chat template where it has none and its family's is known."""
    template = TEMPLATES.get(type(processor).__name__)
    if template is None or getattr(processor, "chat_template", None):
        return
    processor.chat_template = template.replace("IMAGE", processor.image_token)
