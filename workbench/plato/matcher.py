"""What a constrained sequence may say next, on llguidance: allowed tokens, forced tokens, and following a script.

    matcher = Matcher(tokenizer, Constraint(lark))
    while not matcher.ended:
        ids += matcher.forced()                                   # no step of the model
        if not matcher.ended:
            ids.append(matcher.pick(logits, choose))              # one step, over the allowed tokens

A token is forced when the grammar leaves one text only and the tokenizer would write it so whatever follows; llguidance
finds those (`compute_ff_tokens`), which keeps forced text tokenised as free text would be. A token that alone is
allowed is forced as well.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.lm.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer
from workbench.plato.engine import Constraint

_BOS, _EOS = 256, 257  # of the byte tokenizer, as in workbench.lm.tiny


class ConstraintError(ValueError):
    """A constraint that cannot be met: grammar, script or tokenizer is wrong, and the message says which."""


class Matcher:
    """One sequence's way through a grammar. `ended`: it is complete, or a stop token was chosen; nothing may follow.

    ConstraintError at once when the grammar does not compile, admits nothing, or does not admit the script.
    """

    def __init__(self, tokenizer: Tokenizer, constraint: Constraint) -> None:
        import llguidance

        own = _setup(tokenizer)
        self.stop_ids = frozenset(own.eos_tokens)  # `pick` may give one where the grammar may end: no part of the text
        self.ended = False
        self._forced, self._decode = constraint.forced, tokenizer.decode
        self._matcher = llguidance.LLMatcher(own, constraint.lark, log_level=0)
        self._check("the grammar cannot be used")
        self._mask: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        self._script = tokenizer.encode(constraint.script)
        self._at = 0  # tokens of the script that are taken
        if self._script:
            self._check_script()
        elif not self._matcher.is_stopped():
            self._allowed()
        self._look()

    def forced(self) -> list[int]:
        """Tokens without a choice, committed; [] when the constraint says they shall cost their step."""
        taken: list[int] = []
        while self._forced and not self.ended:
            ids = self._matcher.compute_ff_tokens() or self._only()
            if self._script:  # it decides how text is cut into tokens
                ids = _common(ids, self._script[self._at :])
            if not ids:
                break
            for token in ids:
                self._commit(token)
            taken += [token for token in ids if token not in self.stop_ids]
        return taken

    def pick(self, logits: Tensor | None, choose: Callable[[Tensor], int]) -> int:
        """The next token, committed: `choose` of logits [vocab] with what is not allowed at -inf, or the script's.

        Logits may be None where a script is followed. ConstraintError when `choose` gives what is not allowed.
        """
        if self.ended:
            raise ConstraintError("the sequence has ended: nothing may follow")
        if self._script:
            token = self._script[self._at]
        elif logits is None:
            raise ConstraintError("without logits only a script can be followed, and this constraint has none")
        else:
            token = self._choose(logits, choose)
        self._commit(token)
        return token

    def _choose(self, logits: Tensor, choose: Callable[[Tensor], int]) -> int:
        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool)
        mask = torch.from_numpy(self._allowed()[: len(allowed)])
        allowed[: len(mask)] = mask
        if not bool(allowed.any()):
            raise ConstraintError(
                f"no token of the model may follow: the grammar's next ones are beyond its {len(allowed)} ids; "
                "use the model's own tokenizer"
            )
        token = int(choose(logits.masked_fill(~allowed, float("-inf"))))
        if not (0 <= token < len(allowed) and bool(allowed[token])):
            raise ConstraintError(f"token {token} was chosen, which the grammar does not allow here")
        return token

    def _allowed(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """[vocab] bool, computed once a token. ConstraintError where nothing is."""
        if self._mask is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
            self._check("the grammar has no way on")
            self._mask = np.unpackbits(bits, bitorder="little").view(np.bool_)
            if not self._mask.any():
                raise ConstraintError("the grammar admits no text at all: it can never be met")
        return self._mask

    def _only(self) -> list[int]:
        """The one token that is allowed, if it is one."""
        only = np.flatnonzero(self._allowed())
        return [int(only[0])] if len(only) == 1 else []

    def _commit(self, token: int) -> None:
        self._mask = None
        if token in self.stop_ids and self._matcher.is_accepting():
            self.ended = True
            return
        if not self._matcher.consume_token(token):
            self._check(f"{self._decode([token])!r} may not stand here")
        self._at += 1
        self._look()

    def _look(self) -> None:
        """Whether it has ended: no text may follow, or the script is through."""
        self._check("the grammar has no way on")
        self.ended = self._matcher.is_stopped() or bool(self._script and self._at == len(self._script))

    def _check(self, what: str) -> None:
        if self._matcher.is_error():
            said = self._matcher.get_error().strip().partition("\n")[0]
            raise ConstraintError(f"{what}: {said[:300]}")

    def _check_script(self) -> None:
        """The whole script must be a text of the grammar, before anything is decoded."""
        whole = self._matcher.deep_copy()
        good = whole.try_consume_tokens(self._script)
        if good < len(self._script):
            said, rest = self._decode(self._script[:good]), self._decode(self._script[good : good + 12])
            raise ConstraintError(f"the script is no text of the grammar: after {said[-40:]!r} comes {rest[:20]!r}")
        if not whole.is_accepting():
            raise ConstraintError(f"the script ends early, with {self._decode(self._script[-12:])!r}: more must follow")


def _common(ids: list[int], others: list[int]) -> list[int]:
    """What both begin with."""
    same = 0
    while same < min(len(ids), len(others)) and ids[same] == others[same]:
        same += 1
    return ids[:same]


# -- llguidance's view of a tokenizer: half a second for a vocabulary of 49,152, so it is made once a process ----------

_made: dict[str, Any] = {}
_lock = threading.Lock()


def _setup(tokenizer: Tokenizer) -> Any:
    """The LLTokenizer for `tokenizer`. ConstraintError for a kind that llguidance cannot be told about."""
    import llguidance

    if isinstance(tokenizer, FileTokenizer):
        key = str(tokenizer.folder.resolve())
    elif isinstance(tokenizer, ByteTokenizer):
        key = "bytes"
    else:
        raise ConstraintError(f"a grammar needs a tokenizer.json, and {type(tokenizer).__name__} has none")
    with _lock:
        if key not in _made:
            _made[key] = (
                llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=_EOS + 1)
                if isinstance(tokenizer, ByteTokenizer)
                else llguidance.LLTokenizer(str(tokenizer.folder / "tokenizer.json"), eos_token=_eos(tokenizer))
            )
        return _made[key]


def _eos(tokenizer: FileTokenizer) -> int | None:
    """What ends an answer, by the model's own tokenizer_config.json; tokenizer.json alone does not say it."""
    file: Path = tokenizer.folder / "tokenizer_config.json"
    named = json.loads(file.read_text()).get("eos_token") if file.exists() else None
    text = named.get("content") if isinstance(named, dict) else named
    ids = tokenizer.encode(text) if text else []
    return ids[0] if len(ids) == 1 else None


class _Bytes:
    """The byte tokenizer as llguidance wants one; the two ids above the bytes are special."""

    eos_token_id, bos_token_id = _EOS, _BOS
    tokens = (*(bytes([i]) for i in range(256)), b"<bos>", b"<eos>")
    special_token_ids = (_BOS, _EOS)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)
