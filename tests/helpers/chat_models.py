"""Byte tokenizers with chat templates in the manner of released families, and tiny models with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from helpers.training import folder_of

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROLES_ALTERNATE = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "llama2": ROLES_ALTERNATE + "{% if m['role'] == 'user' %}[INST] {{ m['content'].strip() }} [/INST]"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}",
    "phi3": "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
    "dated": "{%- set day = strftime_now('%d %B %Y') -%}{{ day }}\n" + CHATML,
    "generation": "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
    "{{ m['content'] }}<|im_end|>\n{% endgeneration %}{% else %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "qwen3": "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{% set why = m['reasoning_content'] if m['reasoning_content'] else "
    "(m['content'].split('</think>')[0].split('<think>')[-1].strip('\n') if '</think>' in m['content'] else '') %}"
    "<|im_start|>assistant\n{% if loop.last %}<think>\n{{ why }}\n</think>\n\n{% endif %}{{ said }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "r1": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}<|Assistant|>"
    "{{ m['content'].split('</think>')[-1] }}{{ eos_token }}{% else %}<|User|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    "no_end": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}
MARKS = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|end|>", "<|Assistant|>", "<|User|>")


def chat_tokenizer(template: str | dict[str, str], special: bool = True) -> Any:
    """The byte tokenizer with a template, whose marks are special tokens where it says so."""
    from wavetune.models.tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    text = template if isinstance(template, str) else " ".join(template.values())
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": [mark for mark in MARKS if mark in text]})
    tokenizer.chat_template = template
    return tokenizer


def chat_model(
    folder: Path, template: str | dict[str, str], special: bool = True, eos: list[int] | None = None
) -> Path:
    """The tiny model with such a tokenizer; `eos` are the ends that its generation config names."""
    shutil.copytree(folder_of("tiny"), folder)
    chat_tokenizer(template, special).save_pretrained(folder)
    if eos is not None:
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    return folder
