"""What the tests of the step loop share: a toy model that checks the KV it is given, and ways to drive an engine."""

import random
import zlib
from collections import deque

import torch

from workbench.plato.conductor import conduct
from workbench.plato.layout import Layout
from workbench.plato.steploop import StepLoop

VOCAB = 64
END = 63  # the toy's stop id
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n|ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def ids_of(tokens, seed=0):
    draw = random.Random(seed)
    return tuple(draw.randrange(50) for _ in range(tokens))


def toy_next(ids):
    """The token that follows: a function of all before it, never the stop id."""
    return zlib.crc32(bytes(ids)) % 62


def alone(ids, budget):
    """What the toy says after `ids`, without any loop."""
    said = list(ids)
    for _ in range(budget):
        said.append(toy_next(said))
    return tuple(said[len(ids) :])


class Toy(StepLoop):
    """KV is the list of tokens it was computed for; a pass fails where it does not fit the row's tokens.

    says: tokens by name that are said instead of the function's, in order, before it goes on with that. nan: names
    whose logits are broken. matchers: constraint by name.
    """

    def __init__(self, room=400, says=None, nan=(), matchers=None, **more):
        super().__init__(**more)
        self._room, self.says, self.nan, self.matchers = room, says or {}, nan, matchers or {}
        self.log = []  # of each step: (name, tokens) of its pieces
        self.passes, self.padded, self.forks = 0, [], []

    def now_s(self):
        return float(self.passes)

    def encode(self, text):
        return [LETTERS.index(c) for c in text]

    def decode(self, ids):
        return "".join(LETTERS[i] for i in ids)

    def chat(self, system, user):
        return self.encode(system[:4] + user)

    def room(self):
        return self._room

    def _check(self, ids):
        if bad := [i for i in ids if not 0 <= i < VOCAB]:
            raise ValueError(f"no token {bad[0]}")

    def _matcher(self, constraint):
        return self.matchers[constraint.lark]()

    def _kv(self, source, tokens, capacity):
        self.forks.append((tokens, capacity))
        return [*(source[:tokens] if source else []), *[None] * (capacity - tokens)]

    def _run(self, pieces, width):
        self.passes += 1
        self.padded.append(width)
        self.log.append([(p.row.ask.name, p.end - p.start) for p in pieces])
        return [self._one(piece) for piece in pieces]

    def _one(self, piece):
        kv, ids = piece.row.kv, piece.row.ids
        assert kv[: piece.start] == ids[: piece.start], f"the KV of {piece.row.ask.name} is not that of its tokens"
        kv[piece.start : piece.end] = piece.ids
        if not piece.last:
            return None
        name, gained = piece.row.ask.name, piece.row.gained
        said = self.says.get(name, ())
        logits = torch.zeros(VOCAB)
        logits[said[gained] if gained < len(said) else toy_next(ids)] = 1.0
        if name in self.nan:
            logits[5] = float("nan")
        return logits

    def _choose(self, row, logits):
        return int(logits.argmax())

    def _pick(self, row, logits):
        return int(logits.argmax())

    def _ends(self, row, token):
        return token == END


class Rules:
    """A matcher by hand: `steps` are tuples of allowed tokens; one alone is forced. Beyond the last it has ended."""

    stop_ids = frozenset({END})

    def __init__(self, steps, forced=True):
        self.left, self._forced = deque(steps), forced

    @property
    def ended(self):
        return not self.left

    def forced(self):
        taken = []
        while self._forced and self.left and len(self.left[0]) == 1:
            taken.append(self.left.popleft()[0])
        return taken

    def pick(self, logits, choose):
        allowed = self.left.popleft()
        masked = torch.full_like(logits, float("-inf"))
        masked[list(allowed)] = logits[list(allowed)]
        token = choose(masked)
        if token in self.stop_ids:
            self.left.clear()
        return token


class Told:
    """What the Outs said of each sequence."""

    def __init__(self):
        self.ids, self.ended, self.said, self.outs = {}, {}, {}, {}
        self.reused, self.prefilled = {}, {}

    def take(self, outs):
        for out in outs:
            gained = self.ids.get(out.name, ()) + out.ids
            self.ids[out.name] = gained[: len(gained) - out.dropped]
            self.ended[out.name], self.said[out.name] = out.ended, out.said
            self.reused[out.name] = self.reused.get(out.name, 0) + out.reused
            self.prefilled[out.name] = self.prefilled.get(out.name, 0) + out.prefilled
            self.outs.setdefault(out.name, []).append(out)


def drain(engine, *asks, most=2000):
    """Start `asks`, decode all that runs to its end, and say what came."""
    told = Told()
    for ask in asks:
        engine.start(ask)
    for _ in range(most):
        if not engine.running():
            return told
        told.take(engine.step())
    raise AssertionError(f"{engine.running()} did not end in {most} steps")


def answer(engine, query, script, settings, judge=None, watch=None):
    """The outcome of a conducted query, and what happened."""
    happened, going = [], conduct(engine, Layout(engine, query), script, settings, judge)
    while True:
        try:
            happened.append(next(going))
        except StopIteration as done:
            return done.value, happened
        if watch is not None:
            watch(happened[-1])
