r"""Forms of the social scene, and the reading of what fills them.

A form is a grammar in llguidance's dialect of Lark, before which there may stand `%distinct_lines`: no line of what fills it, whatever
number stands before it, is there twice. All are bounded and leave no free white space, so that what fills them is read by
the form's own separators, never guessed at. Lengths are in characters: a line of 160 is about 40 tokens of English.
"""

import json
from collections.abc import Sequence

from matrix_py.scene.quote import Quote

# At most four words of letters (with the marks that many scripts put on them), digits, apostrophes and hyphens. A name is part of turns'
# paths, where "#" and "/" have a meaning.
_NAME = r"NAME: /\p{L}[\p{L}\p{M}\p{N}'’-]{0,23}( [\p{L}\p{M}\p{N}'’-]{1,24}){0,3}/"
# Without control characters: Python strips more of them as white space than the grammar knows as such.
_LINE = r"/[^\s\x00-\x1F\x7F][^\x00-\x1F\x7F]{1,159}/"

# A list that repeats itself is what small models fall into, and no grammar can say of free names that they differ.
DISTINCT = "%distinct_lines\n"

NOBODY = "nobody"
NONE = "none"
VERDICTS = ("yes", "no")

# Somebody who is called nobody could not be told from nobody in a list of recipients.
NAME = f"start: NAME\n{_NAME} & ~/(?i:{NOBODY}|{NONE})/"
# Things may be roles, too: they have no age.
PROFILE = f'start: "Age: " AGE "\\nTraits: " LINE "\\nStatus: " LINE\nAGE: "none" | /[1-9][0-9]?/ | /1[01][0-9]/\nLINE: {_LINE}'
AGELESS_PROFILE = f'start: "Traits: " LINE "\\nStatus: " LINE\nLINE: {_LINE}'
VERDICT = f'start: LINE "\\nVerdict: " VERDICT\nLINE: {_LINE}\nVERDICT: "yes" | "no"'
VERDICT_FIRST = f'start: VERDICT ": " LINE\nLINE: {_LINE}\nVERDICT: "yes" | "no"'
CRITIQUE = f'start: "{NONE}" | SEVERITY ": " LINE\nSEVERITY: /[1-3]/\nLINE: {_LINE}'

# What stands in for a form that failed. A modulator that cannot say whether something is possible does not stop it; one that cannot say
# who noticed or what the harm is, adds nothing.
VERDICT_FALLBACK = "No verdict was given.\nVerdict: yes"
VERDICT_FIRST_FALLBACK = "yes: No verdict was given."
PROFILE_FALLBACK = "Age: none\nTraits: not known\nStatus: not known"
AGELESS_PROFILE_FALLBACK = "Traits: not known\nStatus: not known"


def names(most: int) -> str:
    """Return the form of a list of 1 to `most` names, one a line, no two of them alike."""
    return f"{DISTINCT}start: NAME" + (f' ("\\n" NAME){{0,{most - 1}}}' if most > 1 else "") + f"\n{_NAME}"


def plan(acts: int) -> str:
    """Return the form of a plan of exactly so many acts: numbered lines, no two of them alike."""
    lines = ' "\\n" '.join(f'"{number}. " LINE' for number in range(1, acts + 1))
    return f"{DISTINCT}start: {lines}\nLINE: {_LINE}"


def some_of(candidates: Sequence[str]) -> str:
    """Return the form of a list of some of these names, in any order, each at most once; or of nobody."""
    # The parameter is a set of bits: who is in the list already.
    places = enumerate(candidates)
    picks = "\n  | ".join(f"{_quoted(name)} rest::set_bit({bit}) %if bit_clear({bit})" for bit, name in places)
    # Without the condition, a list of everybody could go on with a comma, and then with nothing.
    return f'start: "{NOBODY}" | pick::0x0\npick::_: {picks}\nrest::_: "" | ", " pick::_ %if bit_count_lt(_, {len(candidates)})'


def read_names(text: Quote, *, besides: Sequence[str]) -> list[Quote]:
    """Return the names of a list, each once, without those of `besides`. Case and a leading article make no difference.

    A list may also name nobody, in so many words.
    """
    seen = {NOBODY, NONE, *(_bare(name) for name in besides)}
    found = []
    for name in text.split("\n"):
        if _bare(name) not in seen:
            seen.add(_bare(name))
            found.append(Quote.of(name, text))
    return found


def read_plan(text: Quote) -> list[Quote]:
    """Return the acts of a plan."""
    return [Quote.of(line.partition(". ")[2], text) for line in text.split("\n")]


def read_verdict(text: Quote) -> tuple[bool, Quote]:
    """Return whether the verdict is yes, and its reason."""
    reason, _, verdict = text.rpartition("\nVerdict: ")
    return verdict == "yes", Quote.of(reason, text)


def read_verdict_first(text: Quote) -> tuple[bool, Quote]:
    """Return the same of a verdict that comes before its reason."""
    verdict, _, reason = text.partition(": ")
    return verdict == "yes", Quote.of(reason, text)


def read_some_of(text: str, candidates: Sequence[Quote]) -> list[Quote]:
    """Return the names that were picked, in the order of the candidates."""
    picked = text.split(", ")
    return [name for name in candidates if name in picked]


def read_critique(text: Quote) -> tuple[int, Quote] | None:
    """Return severity and text of a critique, or None if there was nothing to criticise."""
    if text == NONE:
        return None
    severity, _, line = text.partition(": ")
    return int(severity), Quote.of(line, text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _bare(name: str) -> str:
    article, space, rest = name.casefold().partition(" ")
    return rest if space and article in ("a", "an", "the") else name.casefold()
