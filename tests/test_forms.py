"""The forms of the social scene: what they accept, and what is read from it."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_py import _core
from matrix_py.scene import Quote, forms

NURSES = ("nurse", "head nurse", "nurse manager")
LONG_LINE = "x" * 160


def accepts(form: str, text: str) -> bool:
    return _core.form_accepts(form, text)


def quote(text: str) -> Quote:
    return Quote(text, ["turn"])


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "doctor",
        "Terrorist",
        "the night nurse",
        "a b c d",
        "shop owner 2",
        "O'Brien",
        "the shop’s owner",
        "co-worker",
        "Ärztin",
        "医生",
        "डॉक्टर",
        "แพทย์",
        "מורה",
        "مُمَرِّضة",
        "Jose\u0301",
        "nobody else",
        "nonentity",
        "x" * 24,
        " ".join(["x" * 24] * 4),
    ],
)
def test_names(name: str) -> None:
    assert accepts(forms.NAME, name)
    assert accepts(forms.names(1), name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1. owner",
        "1 owner",
        "- owner",
        "* owner",
        "owner.",
        "owner,",
        "owner, guard",
        "owner:",
        "owner (of the shop)",
        '"owner"',
        "owner ",
        " owner",
        "head  nurse",
        "head\tnurse",
        "a b c d e",
        "x" * 25,
        "step/1",
        "owner#2",
        "owner\n",
        "\u0301x",
        "'s",
        "owner\u200b",
        "own\u202eer",
        "\x1b[31mowner",
    ],
)
def test_no_names(text: str) -> None:
    assert not accepts(forms.NAME, text)
    assert not accepts(forms.names(1), text)
    assert not accepts(forms.names(2), f"guard\n{text}")


@pytest.mark.parametrize("name", ["nobody", "Nobody", "NOBODY", "none", "None"])
def test_an_ego_is_not_called_nobody_though_a_list_may_name_nobody(name: str) -> None:
    assert not accepts(forms.NAME, name)
    assert accepts(forms.names(3), name)
    assert forms.read_names(quote(f"owner\n{name}\nthe {name}"), besides=[]) == ["owner"]


@pytest.mark.parametrize("most", [1, 2, 8, 16])
def test_a_list_has_one_name_a_line_up_to_so_many(most: int) -> None:
    for number in range(1, most + 1):
        assert accepts(forms.names(most), "\n".join(f"role {place}" for place in range(number)))
    assert not accepts(forms.names(most), "\n".join(f"role {place}" for place in range(most + 1)))


def test_no_name_stands_twice_in_a_list_and_no_act_in_a_plan() -> None:
    assert not accepts(forms.names(3), "owner\nguard\nowner")
    assert accepts(forms.names(3), "owner\nowners\nown")
    assert not accepts(forms.plan(2), "1. waits\n2. waits")
    assert accepts(forms.plan(2), "1. waits\n2. waits again")


@pytest.mark.parametrize(
    ("text", "besides", "names"),
    [
        ("owner", [], ["owner"]),
        ("owner\nguard", [], ["owner", "guard"]),
        ("owner\nOwner\nOWNER\nthe owner\nAn Owner\na owner", [], ["owner"]),
        ("the owner\nowner", [], ["the owner"]),
        ("owner\nguard", ["Guard"], ["owner"]),
        ("the Guard\nowner", ["a guard"], ["owner"]),
        ("owner", ["the owner"], []),
        ("nurse\nhead nurse\nnurse manager", ["nurse"], ["head nurse", "nurse manager"]),
        ("the\nA\nan", [], ["the", "A", "an"]),
        ("theatre\nanimal\narmy", ["atre", "imal", "rmy"], ["theatre", "animal", "army"]),
        ("ÄRZTIN\närztin", [], ["ÄRZTIN"]),
        ("STRASSE\nstraße", [], ["STRASSE"]),
        ("Terrorist\nor else\ndoctor", [], ["Terrorist", "or else", "doctor"]),
    ],
)
def test_names_are_read_in_order_and_once(text: str, besides: list[str], names: list[str]) -> None:
    assert accepts(forms.names(8), text)
    read = forms.read_names(quote(text), besides=besides)
    assert read == names
    assert all(name.turns == ("turn",) for name in read)


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acts", [1, 2, 5, 10, 12])
def test_a_plan_has_exactly_its_acts(acts: int) -> None:
    lines = [f"{number}. does {number}" for number in range(1, acts + 1)]
    assert accepts(forms.plan(acts), "\n".join(lines))
    assert not accepts(forms.plan(acts), "\n".join(lines[:-1]))
    assert not accepts(forms.plan(acts), "\n".join([*lines, f"{acts + 1}. more"]))
    assert forms.read_plan(quote("\n".join(lines))) == [f"does {number}" for number in range(1, acts + 1)]


@pytest.mark.parametrize(
    "text",
    [
        "1. goes in\n2. goes out\n",
        "1. goes in\n\n2. goes out",
        "2. goes in\n1. goes out",
        "1. goes in\n1. goes out",
        "Step 1: goes in\nStep 2: goes out",
        "1) goes in\n2) goes out",
        "goes in\ngoes out",
        "1.goes in\n2.goes out",
        "1. \n2. goes out",
        "1. x\n2. goes out",
        f"1. {LONG_LINE}x\n2. goes out",
        "1.  goes in\n2. goes out",
    ],
)
def test_no_plans(text: str) -> None:
    assert not accepts(forms.plan(2), text)


def test_acts_are_read_whole() -> None:
    text = "1. waits. Then 2. goes in: asks, or not\n2. 1. goes out"
    assert accepts(forms.plan(2), text)
    acts = forms.read_plan(quote(text))
    assert acts == ["waits. Then 2. goes in: asks, or not", "1. goes out"]
    assert [act.turns for act in acts] == [("turn",), ("turn",)]


# Profiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", ["none", "1", "9", "10", "40", "99", "100", "119"])
def test_profiles(age: str) -> None:
    assert accepts(forms.PROFILE, f"Age: {age}\nTraits: calm\nStatus: at work")


@pytest.mark.parametrize(
    "text",
    [
        "Age: 0\nTraits: calm\nStatus: at work",
        "Age: 07\nTraits: calm\nStatus: at work",
        "Age: 120\nTraits: calm\nStatus: at work",
        "Age: -4\nTraits: calm\nStatus: at work",
        "Age: forty\nTraits: calm\nStatus: at work",
        "Age: 40\nTraits: calm",
        "Age: 40\nStatus: at work\nTraits: calm",
        "Age: 40\nTraits: \nStatus: at work",
        "Age: 40\nTraits: calm\nStatus: at work\n",
        f"Age: 40\nTraits: calm\nStatus: {LONG_LINE}x",
        "Traits: calm\nStatus: at work",
    ],
)
def test_no_profiles(text: str) -> None:
    assert not accepts(forms.PROFILE, text)


def test_fallbacks_fill_their_forms() -> None:
    assert accepts(forms.PROFILE, forms.PROFILE_FALLBACK)
    assert accepts(forms.VERDICT, forms.VERDICT_FALLBACK)
    assert accepts(forms.CRITIQUE, forms.NONE)
    assert accepts(forms.some_of(NURSES), forms.NOBODY)
    assert accepts(forms.NAME, "asker")
    assert accepts(forms.plan(1), "1. acts on the answer")


# Verdicts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "feasible", "reason"),
    [
        ("It is.\nVerdict: yes", True, "It is."),
        ("It is not.\nVerdict: no", False, "It is not."),
        ("Yes, said the judge. Verdict: yes\nVerdict: no", False, "Yes, said the judge. Verdict: yes"),
        (f"{LONG_LINE}\nVerdict: yes", True, LONG_LINE),
        ("不行\nVerdict: no", False, "不行"),
        ("\u200bso\nVerdict: no", False, "\u200bso"),
    ],
)
def test_verdicts(text: str, feasible: bool, reason: str) -> None:
    assert accepts(forms.VERDICT, text)
    read = forms.read_verdict(quote(text))
    assert read == (feasible, reason)
    assert read[1].turns == ("turn",)


@pytest.mark.parametrize(
    "text",
    [
        "Verdict: yes",
        "\nVerdict: yes",
        "x\nVerdict: yes",
        " so\nVerdict: yes",
        "so\nVerdict: Yes",
        "so\nVerdict: yes.",
        "so\nVerdict: yes\n",
        "so\nVerdict: maybe",
        "so\nVerdict:yes",
        "so\n\nVerdict: yes",
        "so\nso\nVerdict: yes",
        "yes",
        f"{LONG_LINE}x\nVerdict: yes",
        # What Python takes for white space at the ends of a text, and cuts.
        "\x1c\x1c\nVerdict: yes",
        "\x1fso\nVerdict: yes",
        "so\rVerdict: no\nVerdict: yes",
    ],
)
def test_no_verdicts(text: str) -> None:
    assert not accepts(forms.VERDICT, text)


@pytest.mark.parametrize(("text", "read"), [("yes: it is", (True, "it is")), ("no: yes: never", (False, "yes: never"))])
def test_verdicts_before_their_reasons(text: str, read: tuple[bool, str]) -> None:
    assert accepts(forms.VERDICT_FIRST, text)
    assert forms.read_verdict_first(quote(text)) == read
    for other in ("yes", "yes:", "yes: x", "Yes: it is", "yes, it is", "yes: it\nis", "maybe: it is", "it is"):
        assert not accepts(forms.VERDICT_FIRST, other)


# Critiques ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("none", None),
        ("1: a scratch", (1, "a scratch")),
        ("2: the shop: robbed", (2, "the shop: robbed")),
        ("3: none", (3, "none")),
        ("3: 2: two", (3, "2: two")),
        (f"1: {LONG_LINE}", (1, LONG_LINE)),
    ],
)
def test_critiques(text: str, read: tuple[int, str] | None) -> None:
    assert accepts(forms.CRITIQUE, text)
    found = forms.read_critique(quote(text))
    assert found == read
    assert found is None or found[1].turns == ("turn",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "None",
        "none.",
        "none: ",
        "0: harm",
        "4: harm",
        "12: harm",
        "1:harm",
        "1. harm",
        "1: ",
        "1: x",
        "1: a\nb",
        "1:  harm",
        "1: \x1c\x1c",
        "harm",
    ],
)
def test_no_critiques(text: str) -> None:
    assert not accepts(forms.CRITIQUE, text)


# Recipients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        NURSES,
        ("a", "b", "ab", "a b"),
        ("nobody else", "somebody"),
        ('the "boss"', "back\\slash", "{brace}", "%if"),
        ("Ärztin", "医生", "डॉक्टर"),
        ("O'Brien", "the shop’s owner", "rest"),
    ],
    ids=lambda names: names[0],
)
def test_some_of_names_in_any_order(names: tuple[str, ...]) -> None:
    form = forms.some_of(names)
    candidates = [Quote(name) for name in names]
    for number in range(1, len(names) + 1):
        for picked in permutations(names, number):
            text = ", ".join(picked)
            assert accepts(form, text)
            assert forms.read_some_of(text, candidates) == [name for name in names if name in picked]
            assert not accepts(form, f"{text}, {picked[0]}")
            assert not accepts(form, f"{text},") and not accepts(form, f"{text}, ")
            assert not accepts(form, f"{text}, nobody") and not accepts(form, f"nobody, {text}")
    assert accepts(form, "nobody")
    assert forms.read_some_of("nobody", candidates) == []


@pytest.mark.parametrize(
    "text",
    ["", "Nurse", "nurse,head nurse", "nurse  manager", "nurse and head nurse", "nurse\nhead nurse", "nurses", "doctor", "everybody"],
)
def test_no_recipients(text: str) -> None:
    assert not accepts(forms.some_of(NURSES), text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("nurse", ["nurse"]),
        ("head nurse", ["head nurse"]),
        ("nurse manager", ["nurse manager"]),
        ("nurse manager, head nurse", ["head nurse", "nurse manager"]),
        ("nurse manager, nurse", ["nurse", "nurse manager"]),
    ],
)
def test_a_name_is_not_read_from_within_another(text: str, read: list[str]) -> None:
    assert forms.read_some_of(text, [Quote(name) for name in NURSES]) == read


def test_one_candidate() -> None:
    form = forms.some_of(["guard"])
    assert accepts(form, "guard") and accepts(form, "nobody") and not accepts(form, "guard, guard")


def test_sixty_candidates() -> None:
    names = [f"role {number}" for number in range(60)]
    assert accepts(forms.some_of(names), ", ".join(reversed(names)))
    assert not accepts(forms.some_of(names), ", ".join([*names, names[0]]))


# Of all forms ---------------------------------------------------------------------------------------------------------

LINES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=2, max_size=30)


@settings(max_examples=300, derandomize=True, database=None)
@given(LINES)
def test_what_fills_a_line_survives_the_cutting_of_white_space(line: str) -> None:
    """Completions lose the white space at their ends before they are read; that must not change what is read but for that space."""
    verdict, critique, plan = f"{line}\nVerdict: no", f"2: {line}", f"1. {line}"
    if accepts(forms.VERDICT, verdict):
        assert "\n" not in line
        assert forms.read_verdict(quote(verdict.strip())) == (False, line)
        assert accepts(forms.CRITIQUE, critique) and accepts(forms.plan(1), plan)
        assert forms.read_critique(quote(critique.strip())) == (2, line.rstrip())
        assert forms.read_plan(quote(plan.strip())) == [line.rstrip()]


WORDS = st.text(st.sampled_from("aäzαж医डॉ1'’-"), min_size=1, max_size=5)


@settings(max_examples=100, derandomize=True, database=None)
@given(st.lists(st.lists(WORDS, min_size=1, max_size=5).map(" ".join), min_size=1, max_size=6), st.data())
def test_names_that_a_list_accepts_can_be_recipients(lines: list[str], data: st.DataObject) -> None:
    text = "\n".join(lines)
    if not accepts(forms.names(8), text):
        return
    names = forms.read_names(quote(text), besides=["a"])
    if names:
        picked = data.draw(st.permutations(names))[: data.draw(st.integers(1, len(names)))]
        assert accepts(forms.some_of(names), ", ".join(picked))
        assert forms.read_some_of(", ".join(picked), names) == [name for name in names if name in picked]
