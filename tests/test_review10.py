"""What the last review of generated code and hostile files found (numbers as in the issue)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import models_builders as build
import pytest

from dlm_eval.errors import UserError
from dlm_eval.models import load_model
from dlm_eval.sandbox import Limits, apart, values
from dlm_eval.sandbox.judge import UNTOLD, Program

# name -> (a right program, its tests), all of which Python runs
RIGHT = {
    "classes of errors": (
        "class A(Exception): pass\nclass B(A, ValueError): pass\ndef f(): raise B('x')\n",
        "for kind in (A, B, ValueError):\n    try:\n        f()\n    except kind as error:\n        assert str(error) == 'x'\n"
        "    else:\n        assert False",
    ),
    "an error's attributes": (
        "class E(Exception):\n    def __init__(self, code):\n        super().__init__('bad', 1)\n        self.code = code\n"
        "    def __str__(self): return 'own'\ndef f(): raise E(7)\n",
        "try:\n    f()\nexcept E as error:\n    assert error.code == 7 and str(error) == 'own' and error.args == ('bad', 1)\n"
        "else:\n    assert False",
    ),
    "errors of the library": (
        "import decimal, statistics\ndef f(): return statistics.mean([])\ndef g(): return decimal.Decimal('x')\n",
        "import decimal, statistics\ntry:\n    f()\nexcept statistics.StatisticsError:\n    pass\n"
        "try:\n    g()\nexcept decimal.InvalidOperation:\n    pass",
    ),
    "an error as result": ("def f(): return ValueError('x')\n", "assert isinstance(f(), ValueError) and str(f()) == 'x'"),
    "classes that inherit": (
        "import collections, enum\nP = collections.namedtuple('P', 'x y')\nclass L(list): pass\nclass S(str): pass\n"
        "class C(enum.IntEnum):\n    R = 1\n",
        "p = P(1, 2)\nassert isinstance(p, tuple) and not isinstance(p, list) and p == (1, 2) and p.y == 2\n"
        "assert isinstance(L([1]), list) and isinstance(S('a'), str) and isinstance(C.R, int) and C.R is C(1)",
    ),
    "missing keys": (
        "from collections import defaultdict\ndef f(): return defaultdict(int, a=1)\ndef g(): return defaultdict(lambda: [1])\n",
        "d = f()\nassert d['b'] == 0 and d == {'a': 1, 'b': 0} and g()['x'] == [1]",
    ),
    "with": (
        "import contextlib\nclass T:\n    def __enter__(self): return 5\n    def __exit__(self, kind, value, trace): return kind is KeyError\n"
        "@contextlib.contextmanager\ndef g(): yield 3\n",
        "with T() as five, g() as three:\n    assert (five, three) == (5, 3)\nwith T():\n    raise KeyError('x')",
    ),
    "lists in objects": (
        "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: list = field(default_factory=list)\n"
        "    d: dict = field(default_factory=dict)\n",
        "p = P()\np.x.append([1])\np.x[0].append(2)\np.x += [3]\np.d['a'] = 1\nassert p == P([[1, 2], 3], {'a': 1})\n"
        "assert p.x == [[1, 2], 3] and isinstance(p.x, list) and sorted(p.d) == ['a'] and [*p.x, 0] == [[1, 2], 3, 0]",
    ),
    "in place": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __iadd__(self, y):\n        self.x += y\n        return self\n",
        "v = w = V(1)\nv += 2\nassert w.x == 3\ndel v.x\nassert not hasattr(w, 'x')",
    ),
    "rounding": (
        "class V:\n    def __round__(self, n=0): return n\n    def __floor__(self): return 5\n    def __trunc__(self): return 6\n",
        "import math\nassert round(V(), 2) == 2 and math.floor(V()) == 5 and math.trunc(V()) == 6",
    ),
    "arguments changed in a tuple": ("def f(a):\n    a[0].append(1)\n", "x = ([],)\nf(x)\nassert x == ([1],)"),
    "a list that holds itself": ("def f(a):\n    a.append(2)\n", "a = [1]\na.append(a)\nf(a)\nassert a[2] == 2 and a[1] is a"),
    "names of arguments": (
        "def f(act, self=1, function=2): return act, self, function\n",
        "assert f(act=3, self=4, function=5) == (3, 4, 5)",
    ),
    "a class of the tests": (
        "class P:\n    def m(self): return 2\n",
        "class Q(P):\n    def k(self): return self.m() + 1\nassert Q().k() == 3",
    ),
    "the class of an object": ("class V:\n    'text'\n", "assert V().__class__.__name__ == 'V' and V.__doc__ == 'text'"),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_02_right_programs_of_unusual_style_pass_with_their_tests_apart(sandbox, name):
    text, tests = RIGHT[name]
    server = sandbox._take(fresh=False)
    run = server.run(Program(text, tests, Limits(), alone=False, apart=True))
    sandbox._give_back(server)
    assert run.reason == (
        UNTOLD if name in ("a class of the tests", "the class of an object") else "passed"
    )


class Sent:
    """Pickled as whatever the program may send by hand: what makes it, of what, and its state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class Travelling:
    """Pickled as a reference."""

    def __init__(self, *parts):
        self.parts = parts


def _written_by_hand(value):
    return values._dump(value, lambda each: each.parts if type(each) is Travelling else None)


@pytest.mark.parametrize(
    "sent",
    [
        Sent(ValueError, (1,), {"__reduce_ex__": int}),
        Sent(ValueError, (1,), {"__reduce__": 3}),
        [Travelling("OrderedDict", [(1, Sent(ValueError, (), {"__reduce_ex__": int}))])],
        Sent(Travelling, ("Counter",), {"__reduce_ex__": int, "items": int}),
    ],
)
def test_02_no_answer_makes_its_tests_say_that_they_need_the_program(sent):
    received = values.Received(lambda *_: None, lambda _: None)
    if isinstance(sent, Sent) and sent.parts[0] is Travelling:
        # a copy with attributes of its own; pickle sets them as it would an object's
        value = received.load(_written_by_hand(Travelling("Counter", {"a": 1})))
        vars(value).update(sent.parts[2])
    else:
        value = received.load(_written_by_hand(sent))
    assert pickle.loads(received.dump(value)) is not None  # noqa: S301 (ours)


def test_02_an_error_without_a_number_is_no_value():
    received = values.Received(lambda *_: None, lambda _: None)
    for number in (None, "x", ValueError(3)):
        with pytest.raises((TypeError, ValueError)):
            received.load(_written_by_hand(Travelling("error", number, "X", (Exception,), "")))
    for bases in ((), (int,), (Exception, int)):
        with pytest.raises(values.NoValue):
            received.load(_written_by_hand(Travelling("error", 3, "X", bases, "")))
    for module, name in (("os", "_exit"), ("dlm_eval.errors", "UserError"), ("builtins", "eval")):
        kind = received.load(_written_by_hand(Travelling("error", 4, name, (KeyError,), module)))
        assert kind.__bases__ == (KeyError,)
    with pytest.raises(values.NoValue):
        apart._error(int, (), {}, "")


TWICE = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 32}
LONG = {
    "normalizer": [
        {"type": "Sequence", "normalizers": [TWICE] * 8},
        {"type": "Prepend", "prepend": "a" * 10_000_000},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "a" * 1000},
        {
            "type": "Sequence",
            "normalizers": [{"type": "NFKD"}, {"type": "Sequence", "normalizers": [TWICE, TWICE]}],
        },
    ],
    "decoder": [{"type": "Sequence", "decoders": [TWICE] * 8}],
    "post_processor": [
        {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2000,
            "pair": [],
            "special_tokens": {},
        }
    ],
}


@pytest.mark.parametrize(
    ("step", "part"), [(step, part) for step, parts in LONG.items() for part in parts]
)
def test_06_a_tokenizer_that_multiplies_texts_is_refused(
    tmp_path: Path, step: str, part: object
) -> None:
    folder = build.llada(tmp_path / "llada")[0]
    file = folder / "tokenizer.json"
    usual = json.loads(file.read_text())
    llama = [
        {"type": "Prepend", "prepend": "_"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
    ]
    file.write_text(json.dumps(usual | {"normalizer": {"type": "Sequence", "normalizers": llama}}))
    assert load_model("llada", pretrained=folder, device="cpu").encode("a a")
    file.write_text(json.dumps(usual | {step: part}))
    with pytest.raises(UserError, match=f"{step} that makes a text more than 1000 times longer"):
        load_model("llada", pretrained=folder, device="cpu")


def test_06_an_end_token_that_is_a_mapping_is_one_line(tmp_path: Path) -> None:
    folder = build.llada(tmp_path / "llada")[0]
    (folder / "generation_config.json").write_text('{"eos_token_id": {"a": 1}}')
    with pytest.raises(UserError, match="eos_token_id .* must be the number of a token"):
        load_model("llada", pretrained=folder, device="cpu")


def test_02_arrays_of_all_shapes_travel_and_are_changed_in_place():
    import numpy as np

    kept, received = values.Kept(), values.Received(lambda *_: "object", lambda _: None)
    sent = [
        np.array([]),
        np.array([""]),
        np.array(3),
        np.zeros((0, 2)),
        np.str_(""),
        np.array([[1, 2], [3, 4]]).T,
        np.array([True]),
    ]
    for each, copy in zip(sent, received.load(kept.dump(sent)), strict=True):
        assert (
            type(copy) is type(each)
            and copy.shape == each.shape
            and copy.dtype == each.dtype
            and np.all(copy == each)
        )
    assert received.load(kept.dump(np.array([1, "a"], dtype=object))) == "object"
    array, other = np.array([1, 2]), np.array([5, 6])
    assert apart._update(array, other, set()) is array and array.tolist() == [5, 6]
    assert apart._update([array], [np.array([7])], set())[0].tolist() == [7]
