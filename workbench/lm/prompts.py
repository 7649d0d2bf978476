"""Long prompts made here: a seeded harbour chronicle of plain facts that ends in a question about one of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.lm.model import LM

_PLACES = (
    "Alden",
    "Brisk",
    "Corvale",
    "Dunmere",
    "Eastwick",
    "Fallow",
    "Glenholm",
    "Harrow",
    "Ilmere",
    "Jarrow",
    "Lowick",
)
_PEOPLE = (
    "Ada",
    "Bruno",
    "Clara",
    "Dmitri",
    "Elena",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Karin",
    "Leo",
    "Olga",
)
_GOODS = (
    "barley",
    "copper",
    "wool",
    "salt",
    "timber",
    "lamp oil",
    "dried fish",
    "glass",
    "paper",
    "tea",
    "rope",
    "honey",
)
_WEATHER = ("a clear morning", "light rain", "thick fog", "a cold wind from the north", "a calm sea", "heavy swell")
_COLOURS = ("red", "green", "blue", "white", "black", "yellow", "grey", "brown")


def prompt(model: LM, tokens: int, seed: int = 0) -> list[int]:
    """Exactly `tokens` token ids for `model`: English prose that differs from its first words on with the seed.

    With room for it the prompt ends in a question that an entry answers; a short one is just cut. ValueError when
    `tokens` is not between 1 and the model's max_position.
    """
    if not 1 <= tokens <= model.config.max_position:
        raise ValueError(f"a prompt for {model.name} has 1 to {model.config.max_position} tokens, not {tokens}")
    draw = random.Random(seed)
    encode = model.tokenizer.encode
    place, clerk = draw.choice(_PLACES), draw.choice(_PEOPLE)
    opening = f"Chronicle {draw.randrange(10_000)} of the harbour of {place}, kept by {clerk}.\n\n"
    warehouse, colour = draw.choice(_PLACES), draw.choice(_COLOURS)
    fact = f"Remember that the key of the {warehouse} warehouse is {colour}.\n\n"
    question = encode(f"\n\nQuestion: What colour is the key of the {warehouse} warehouse?\nAnswer: The key is")
    ids = encode(opening + fact)
    room = tokens - len(question)
    if room < len(ids):
        return (ids + encode(_entry(draw, 1)) * tokens)[:tokens]
    day = 0
    while len(ids) < room:
        day += 1
        ids += encode(_entry(draw, day))
    return ids[:room] + question


def _entry(draw: random.Random, day: int) -> str:
    """One day's entry: a few sentences with names, goods and numbers."""
    master, buyer = draw.sample(_PEOPLE, 2)
    home, ship = draw.sample(_PLACES, 2)
    bought, sold = draw.sample(_GOODS, 2)
    crates = draw.randrange(3, 90)
    lines = [
        f"Day {day} began with {draw.choice(_WEATHER)}.",
        f"The ship {ship} came in from {home} with {crates} crates of {bought}, and {master} signed for them.",
    ]
    more = [
        f"{buyer} bought {draw.randrange(1, crates)} of the crates and paid {draw.randrange(20, 900)} silver pieces.",
        f"A load of {sold} left for {draw.choice(_PLACES)} before noon.",
        f"The {draw.choice(_COLOURS)} crane was out of order, so {master} and {buyer} unloaded by hand.",
        f"{master} asked why the {sold} from {home} was late, and nobody could say.",
        f"In the evening {buyer} counted {draw.randrange(10, 400)} barrels in the {draw.choice(_COLOURS)} shed.",
    ]
    return " ".join(lines + draw.sample(more, draw.randrange(2, 5))) + "\n"
