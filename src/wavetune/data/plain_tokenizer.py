"""A tokenizer file behind the few calls that tokenising needs, without torch."""

from functools import cached_property
from pathlib import Path
from typing import Any

from wavetune.errors import ModelError
from wavetune.json_reader import read_bytes, read_json
from wavetune.models.settle import settle

_MOST_BYTES = 2**28


class PlainTokenizer:
    """What `tokenizer.json` in a model's folder does. transformers is loaded for chat templates alone."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._folder = folder
        try:
            self._tokenizer = Tokenizer.from_buffer(read_bytes(folder / "tokenizer.json", _MOST_BYTES))
            self._tokenizer.no_truncation()  # as transformers does, whatever its file asks for
            self._tokenizer.no_padding()
            settle(self._tokenizer)
            config = read_json(folder / "tokenizer_config.json", finite=False, unique=False)
            self.bos_token_id, self.eos_token_id = (
                None if token is None else self._tokenizer.token_to_id(token)
                for token in (_text(config.get(name)) for name in ("bos_token", "eos_token"))
            )
            self._has_template = bool(config.get("chat_template"))
        except Exception as error:  # tokenizers raises no type of its own
            raise self._unreadable(error) from error

    def __call__(self, text: str | list[str], add_special_tokens: bool = True) -> dict[str, Any]:
        """Token ids of a text or of several."""
        if isinstance(text, str):
            return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}
        encoded = self._tokenizer.encode_batch(text, add_special_tokens=add_special_tokens)
        return {"input_ids": [e.ids for e in encoded]}

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens that stand beside the vocabulary, by their ids."""
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The chat template, or several by name, wherever the folder keeps them."""
        files = ("chat_template.jinja", "additional_chat_templates")
        there = self._has_template or any((self._folder / name).exists() for name in files)
        return self._stock.chat_template if there else None

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Special tokens by the names under which chat templates know them."""
        return self._stock.special_tokens_map

    @cached_property
    def _stock(self) -> Any:
        from transformers.tokenization_utils_tokenizers import TokenizersBackend

        try:
            return TokenizersBackend.from_pretrained(str(self._folder), local_files_only=True)
        except Exception as error:  # which types depends on what is wrong in the folder
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ModelError:
        return ModelError(f"cannot load the tokenizer in {self._folder} ({error}): fetch the model again")


def _text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token
