"""The generated text that `tiny` and `tiny-ar` learn and the `demo` tasks ask about.

Three families, all from small vocabularies: five-sentence stories, arithmetic word problems in GSM8K's shape, and short
Python functions. A document's key names its parameters without its phrasing; one key in ten, chosen by a hash, is kept
from training, so a demo document is new as a combination and not only as a string. Everything is seeded.
tiny_demo.py makes the demo's rows of it, train_tiny.py the training rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

SHE = ["Anna", "Beth", "Cora", "Dora", "Ella", "Gina", "Hana", "Ivy", "Jane", "Kate"]
HE = ["Adam", "Ben", "Carl", "Dan", "Eric", "Finn", "Gus", "Hugo", "Ian", "Jack"]
CLASSES: dict[str, list[str]] = {
    "A": SHE + HE,
    "B": SHE + HE,
    "obj": [
        "ball",
        "kite",
        "book",
        "hat",
        "drum",
        "doll",
        "lamp",
        "cup",
        "coat",
        "ring",
        "bag",
        "clock",
    ],
    "place": [
        "park",
        "beach",
        "school",
        "farm",
        "lake",
        "garden",
        "museum",
        "market",
        "forest",
        "library",
    ],
    "food": ["soup", "pizza", "cake", "bread", "rice", "salad", "fish", "pie"],
    "animal": ["dog", "cat", "horse", "goat", "rabbit", "bird", "duck", "fox"],
    "color": ["red", "blue", "green", "black", "white", "yellow"],
    "tune": ["piano", "guitar", "flute", "violin", "trumpet", "harp"],
    "vehicle": ["bus", "train", "boat", "bike", "car", "taxi"],
}
THINGS = ["apples", "pens", "coins", "books", "cards", "eggs", "shells", "stamps", "balls", "cups"]

# Each theme is five sentences, each with interchangeable phrasings; the last word of a story was introduced before.
THEMES: dict[str, list[list[str]]] = {
    "lost": [
        ["{A} had a {color} {obj}.", "{A} loved a {color} {obj}."],
        [
            "One day {Ahe} lost the {obj} at the {place}.",
            "Then {Ahe} left the {obj} at the {place}.",
        ],
        ["{A} was sad and asked {B} for help.", "{A} cried and called {B}."],
        ["{A} and {B} went back to the {place}.", "They looked for it at the {place}."],
        [
            "In the end {B} found the {color} {obj}.",
            "At last {A} thanked {B} for finding the {obj}.",
        ],
    ],
    "gift": [
        ["{A} wanted a {obj} for {Ahis} birthday.", "{A} dreamed of a new {obj}."],
        ["{B} wanted to make {A} happy.", "{B} heard about it."],
        [
            "{Bhe} went to the market and bought a {color} {obj}.",
            "{Bhe} saved money for a {color} {obj}.",
        ],
        ["On Sunday {B} gave {A} a box.", "{B} put it in a box for {A}."],
        [
            "{A} opened the box and saw the {color} {obj}.",
            "{A} smiled and thanked {B} for the {obj}.",
        ],
    ],
    "trip": [
        ["{A} and {B} planned a trip to the {place}.", "{A} asked {B} to come to the {place}."],
        ["They went there by {vehicle}.", "They took the {vehicle} in the morning."],
        ["At the {place} they ate {food}.", "They sat down and ate some {food}."],
        ["In the evening the {vehicle} was late.", "Later they waited for the {vehicle}."],
        ["{B} said that {Bhe} loved the {place}.", "At home {A} talked about the {food}."],
    ],
    "pet": [
        ["{A} had a {color} {animal}.", "{A} lived with a {color} {animal}."],
        [
            "One morning the {animal} ran away to the {place}.",
            "Then the {animal} got lost at the {place}.",
        ],
        ["{A} looked for it all day with {B}.", "{B} helped {A} to look for it."],
        ["They saw the {animal} at the {place}.", "They heard the {animal} near the {place}."],
        ["{A} was happy to have the {color} {animal}.", "{A} hugged {B} and the {animal}."],
    ],
    "cook": [
        ["{A} was hungry and wanted {food}.", "{A} wanted to cook {food}."],
        ["{Ahe} went to {B} with a {color} bag.", "{Ahe} called {B} and took a {color} bag."],
        ["They bought what they needed at the {place}.", "They met at the {place} to buy things."],
        ["Then {B} cooked the {food} for {A}.", "{B} showed {A} how to make {food}."],
        ["{A} and {B} sat down and ate the {food}.", "They left the {color} bag at the {place}."],
    ],
    "music": [
        ["{A} wanted to play the {tune}.", "{A} dreamed of playing the {tune}."],
        ["{B} was a teacher at the {place}.", "{B} gave lessons at the {place}."],
        ["{A} went to {B} every day.", "{B} taught {A} every week."],
        ["Soon {Ahe} played the {tune} very well.", "After a year {Ahe} was good at the {tune}."],
        ["{A} played for {B} at the {place}.", "Now {A} and {B} both play the {tune}."],
    ],
}

# kind: question, worked answer (each step is one short sentence), and the ranges of its numbers.
PROBLEMS: dict[str, tuple[list[str], str]] = {
    "add": (
        [
            "{A} has {a} {t}. {He} buys {b} more {t}. How many {t} does {A} have?",
            "{A} has {a} {t}. {B} gives {A} {b} more {t}. How many {t} does {A} have?",
        ],
        " {A} has {a} + {b} = {x} {t}.\n#### {x}",
    ),
    "sub": (
        [
            "{A} has {x} {t}. {He} loses {b} of them. How many {t} does {A} have?",
            "{A} has {x} {t}. {He} gives {b} of them to {B}. How many {t} does {A} have?",
        ],
        " {A} has {x} - {b} = {a} {t}.\n#### {a}",
    ),
    "both": (
        ["{A} has {a} {t}. {B} has {b} {t}. How many {t} do they have together?"],
        " Together they have {a} + {b} = {x} {t}.\n#### {x}",
    ),
    "times": (
        [
            "{A} has {m} boxes. Each box has {b} {t}. How many {t} does {A} have?",
            "{A} buys {m} bags with {b} {t} each. How many {t} does {A} have?",
        ],
        " {A} has {m} * {b} = {y} {t}.\n#### {y}",
    ),
    "add_sub": (
        [
            "{A} has {a} {t}. {He} buys {b} more {t}. Then {he} loses {d} of them. How many {t} does {A} have?",
            "{A} has {a} {t}. {B} gives {A} {b} more {t}. Then {he} sells {d} of them. How many {t} does {A} have?",
        ],
        " First {A} has {a} + {b} = {x} {t}. Then {A} has {x} - {d} = {z} {t}.\n#### {z}",
    ),
    "times_sub": (
        [
            "{A} has {m} boxes. Each box has {b} {t}. {He} gives {d} {t} to {B}. How many {t} does {A} have?"
        ],
        " First {A} has {m} * {b} = {y} {t}. Then {A} has {y} - {d} = {w} {t}.\n#### {w}",
    ),
}

# kind: function name, docstring, body lines, inputs that tell right from wrong. {v} argument, {r} result, {k} and {m}
# constants.
Inputs = list[tuple[Any, ...]]
NUMBERS: Inputs = [((0,),), ((7, 0, 3, 9, 1, 4),), ((2, 8, 5, 6, 5, 12),), (tuple(range(12)),)]
SCALARS: Inputs = [(0,), (1,), (5,), (10,), (37,)]
LISTS: Inputs = [((),), ((3, 1, 2),), (tuple(range(20)),)]
LOOP = "    for n in {v}:"
FUNCTIONS: dict[str, tuple[str, str, list[str], Inputs]] = {
    "plus": ("add_{k}", "Add {k} to {v}.", ["    {r} = {v} + {k}", "    return {r}"], SCALARS),
    "minus": (
        "subtract_{k}",
        "Subtract {k} from {v}.",
        ["    {r} = {v} - {k}", "    return {r}"],
        SCALARS,
    ),
    "times": (
        "multiply_by_{k}",
        "Multiply {v} by {k}.",
        ["    {r} = {v} * {k}", "    return {r}"],
        SCALARS,
    ),
    "linear": (
        "scale",
        "Multiply {v} by {k} and add {m}.",
        ["    {r} = {v} * {k}", "    {r} = {r} + {m}", "    return {r}"],
        SCALARS,
    ),
    "cap": (
        "at_most_{k}",
        "Return {v}, but at most {k}.",
        ["    if {v} > {k}:", "        return {k}", "    return {v}"],
        SCALARS + [(v,) for v in range(10)],
    ),
    "floor": (
        "at_least_{k}",
        "Return {v}, but at least {k}.",
        ["    if {v} < {k}:", "        return {k}", "    return {v}"],
        SCALARS + [(v,) for v in range(10)],
    ),
    "divisible": (
        "is_divisible_by_{k}",
        "Check if {v} is divisible by {k}.",
        ["    {r} = {v} % {k} == 0", "    return {r}"],
        SCALARS + [(v,) for v in range(10)],
    ),
    "total": (
        "sum_all",
        "Return the sum of {v} plus {k}.",
        ["    {r} = {k}", LOOP, "        {r} += n", "    return {r}"],
        NUMBERS,
    ),
    "count": (
        "count_above_{k}",
        "Count the numbers above {k}.",
        ["    {r} = 0", LOOP, "        if n > {k}:", "            {r} += 1", "    return {r}"],
        NUMBERS,
    ),
    "sum_below": (
        "sum_below_{k}",
        "Sum the numbers below {k}.",
        ["    {r} = 0", LOOP, "        if n < {k}:", "            {r} += n", "    return {r}"],
        NUMBERS,
    ),
    "keep": (
        "keep_above_{k}",
        "Keep the numbers above {k}.",
        [
            "    {r} = []",
            LOOP,
            "        if n > {k}:",
            "            {r}.append(n)",
            "    return {r}",
        ],
        NUMBERS,
    ),
    "scaled": (
        "multiply_all_by_{k}",
        "Multiply all numbers by {k}.",
        ["    {r} = []", LOOP, "        {r}.append(n * {k})", "    return {r}"],
        NUMBERS,
    ),
    "first": (
        "first_{k}",
        "Return the first {k} of {v}.",
        ["    {r} = {v}[:{k}]", "    return {r}"],
        LISTS,
    ),
    "skip": (
        "skip_{k}",
        "Return {v} without the first {k}.",
        ["    {r} = {v}[{k}:]", "    return {r}"],
        LISTS,
    ),
    "reverse": (
        "reverse",
        "Return {v} in reverse.",
        ["    {r} = {v}[::-1]", "    return {r}"],
        LISTS,
    ),
    "largest": (
        "largest",
        "Return the largest of {v}.",
        ["    {r} = {v}[0]", LOOP, "        if n > {r}:", "            {r} = n", "    return {r}"],
        NUMBERS,
    ),
    "smallest": (
        "smallest",
        "Return the smallest of {v}.",
        ["    {r} = {v}[0]", LOOP, "        if n < {r}:", "            {r} = n", "    return {r}"],
        NUMBERS,
    ),
}


@dataclass(frozen=True)
class Document:
    """One text with the parts a task needs: `prompt` is what a reader is given, `parts` the family's own pieces."""

    family: str
    key: str
    text: str
    prompt: str = ""
    parts: dict[str, Any] = field(default_factory=dict)

    @property
    def held_out(self) -> bool:
        """True for the tenth of the parameter space that training never sees."""
        return hashlib.sha256(self.key.encode()).digest()[0] % 10 == 0


def people(rng: random.Random) -> dict[str, str]:
    """Two different names, and the pronouns of both (as slots of a template)."""
    a, b = rng.sample(SHE + HE, 2)
    he, bhe, his = (
        ("she" if a in SHE else "he"),
        ("she" if b in SHE else "he"),
        ("her" if a in SHE else "his"),
    )
    return {"A": a, "B": b, "he": he, "He": he.title(), "Ahe": he, "Bhe": bhe, "Ahis": his}


def sentence(template: str, slots: dict[str, str]) -> str:
    """The template filled, with a capital letter in front (a pronoun may open a sentence)."""
    text = template.format(**slots)
    return text[0].upper() + text[1:]


def story(rng: random.Random) -> Document:
    """A five-sentence story; `parts` has its sentences, slots and the template of the last sentence."""
    theme = rng.choice(sorted(THEMES))
    slots = people(rng) | {
        name: rng.choice(CLASSES[name]) for name in sorted(set(CLASSES) - {"A", "B"})
    }
    templates = [rng.choice(options) for options in THEMES[theme]]
    sentences = [sentence(template, slots) for template in templates]
    told = " ".join(templates)
    used = [slots[name] for name in sorted(CLASSES) if "{" + name + "}" in told]
    parts = {"sentences": sentences, "slots": slots, "last": templates[-1]}
    return Document("story", "|".join(["story", theme, *used]), " ".join(sentences), "", parts)


def problem(rng: random.Random) -> Document:
    """A word problem with its worked answer; numbers are small enough that the tables can be learnt."""
    kind = rng.choice(sorted(PROBLEMS))
    questions, answer = PROBLEMS[kind]
    a, b, m = rng.randint(2, 9), rng.randint(2, 9), rng.randint(2, 5)
    x, y, d = a + b, m * b, rng.randint(2, min(9, a + b - 2, m * b - 2))
    numbers = {"a": a, "b": b, "m": m, "x": x, "y": y, "d": d, "z": x - d, "w": y - d}
    slots = (
        people(rng)
        | {"t": rng.choice(THINGS)}
        | {name: str(value) for name, value in numbers.items()}
    )
    question = rng.choice(questions).format(**slots)
    used = [
        slots["A"],
        slots["t"],
        *(slots[n] for n in numbers if "{" + n + "}" in question + answer),
    ]
    prompt, answer = f"Question: {question}\nAnswer:", answer.format(**slots)
    return Document(
        "problem",
        "|".join(["problem", kind, *used]),
        prompt + answer,
        prompt,
        {"question": question, "answer": answer.strip()},
    )


def function(rng: random.Random) -> Document:
    """A short Python function; `parts` has its lines, entry point and discriminating inputs."""
    kind = rng.choice(sorted(FUNCTIONS))
    name, docstring, body, inputs = FUNCTIONS[kind]
    scalar = inputs[0] == (0,)
    slots = {
        "v": rng.choice(
            ["x", "a", "value", "num"] if scalar else ["items", "numbers", "values", "data"]
        ),
        "r": rng.choice(["result", "y", "out", "total", "res"]),
        "k": str(rng.randint(2, 9)),
        "m": str(rng.randint(2, 9)),
    }
    lines = [f"def {name}({{v}}):", f'    """{docstring}"""', *body]
    template = "\n".join(lines) + "\n"
    text = template.format(**slots)
    used = [slots[slot] for slot in "vrkm" if "{" + slot + "}" in template]
    parts = {
        "lines": text.splitlines(keepends=True),
        "entry_point": name.format(**slots),
        "inputs": inputs,
    }
    return Document(
        "function",
        "|".join(["function", kind, *used]),
        text,
        "".join(text.splitlines(keepends=True)[:2]),
        parts,
    )


FAMILIES: dict[str, tuple[Callable[[random.Random], Document], float]] = {
    "story": (story, 0.36),
    "problem": (problem, 0.38),
    "function": (function, 0.26),
}


def training_documents(seed: int) -> Iterator[Document]:
    """Endless training documents of all families, mixed; never a held-out one."""
    rng = random.Random(f"train-{seed}")
    makers, weights = zip(*FAMILIES.values(), strict=True)
    while True:
        document = rng.choices(makers, weights)[0](rng)
        if not document.held_out:
            yield document


def held_out_documents(family: str, seed: int) -> Iterator[Document]:
    """Endless held-out documents of one family, no text twice."""
    rng, seen = random.Random(f"demo-{family}-{seed}"), set()
    while True:
        document = FAMILIES[family][0](rng)
        if document.held_out and document.text not in seen:
            seen.add(document.text)
            yield document
