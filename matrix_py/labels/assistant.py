"""Detector `assistant`: in the place of a role, the assistant speaks.

To what the scenes themselves take for its voice (`matrix_py.scene.flaws`) this adds what is rarer: offers of another version, comments on
the text, the model's training.
"""

import re

from matrix_py.labels.detector import Detector, Subject, world_texts
from matrix_py.scene.flaws import speaks_as_assistant

_TEXT = r"(?:response|reaction|answer|reply|version|description|summary|scenario|story|role-?play|text|profile|role|scene)"
_RARER = re.compile(
    r"(?:\w+: )?(?:"
    r"i (?:do not|don't) have (?:any )?(?:personal )?(?:opinions|feelings|emotions|beliefs|experiences)\b[^.!?\n]{0,30}\b(?:ai|model)\b"
    r"|my (?:training data|knowledge cut-?off|training (?:does|did) not)"
    r"|i (?:was|am|have been) (?:trained|created|developed|designed|programmed) (?:by|to) (?:openai|anthropic|google|meta|microsoft|mistral"
    r"|alibaba|deepseek|be (?:helpful|harmless|safe)|provide|assist)"
    rf"|(?:please )?(?:let me know|feel free to ask|tell me) if [^.!?\n]{{0,40}}\b(?:another|different|longer|shorter|more)"
    rf" {_TEXT}s?\b"
    rf"|(?:is there )?anything (?:else )?(?:that )?you(?:'d| would) like me to (?:change|add|adjust|revise)\b[^.!?\n]{{0,40}}\b{_TEXT}\b"
    rf"|would you like me to (?:change|add|adjust|revise|continue|expand)\b[^.!?\n]{{0,40}}\b{_TEXT}\b"
    rf"|(?:this|the above) {_TEXT} (?:describes|shows|reflects|is (?:purely |entirely )?(?:fictional|hypothetical|imaginary|simulated))\b"
    r"|in this (?:role-?play|simulation|(?:fictional|hypothetical|imaginary|simulated) (?:scenario|scene|situation))\b"
    rf"|the user (?:wants|is asking|asked|has asked|requests)\b[^.!?\n]{{0,40}}\b{_TEXT}\b"
    r"|как (?:искусственный интеллект|ии|языковая модель|нейросеть)\b"
    r"|(?:como|enquanto) (?:uma )?(?:ia|inteligência artificial|modelo de linguagem)\b"
    r"|(?:come|in quanto) (?:una? )?(?:ia|intelligenza artificiale|modello linguistico)\b"
    r"|(?:ai|人工知能|言語モデル)として[、,]?"
    r")"
)


def _find(subject: Subject) -> str | None:
    for said, starts in subject.sentences():
        if speaks_as_assistant(said, starts) or any(_RARER.match(said, start) for start in starts):
            return "assistant"
    return None


ASSISTANT = Detector("assistant", 1, world_texts, _find)
