"""Text to token ids and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Message = Mapping[str, str]  # {"role": "user", "content": "..."}


class Tokenizer(Protocol):
    """What an LM needs of a tokenizer. `chat` gives the ids of a conversation up to where the answer begins."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def chat(self, messages: Sequence[Message]) -> list[int]: ...


class FileTokenizer:
    """A model folder's tokenizer.json and chat template."""

    def __init__(self, folder: Path) -> None:
        import tokenizers

        self.folder = folder
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._template = _chat_template(folder)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def chat(self, messages: Sequence[Message]) -> list[int]:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(self._template)
        return self.encode(template.render(messages=list(messages), add_generation_prompt=True))


class ByteTokenizer:
    """A toy: a token is a byte of UTF-8. Ids from 256 on have no text and decode to the replacement character."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(bytes([i]) if i < 256 else "\ufffd".encode() for i in ids).decode(errors="replace")

    def chat(self, messages: Sequence[Message]) -> list[int]:
        return self.encode("".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant: ")


def _chat_template(folder: Path) -> str:
    if (file := folder / "chat_template.jinja").exists():
        return file.read_text()
    return str(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])
