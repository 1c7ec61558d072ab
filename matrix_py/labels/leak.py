"""Detector `leak`: the revision speaks of what it was made from.

A reader of the revision has seen no simulation, no critique and no first answer, so it is to speak of none. The words for them are common:
whatever the instruction or the first response uses itself may come up in the revision, and advice to think of consequences is no leak.
"""

import re

from matrix_py.labels.detector import Detector, Subject, revisions

_ANSWER = r"(?:answer|response|reply|draft|suggestion|advice|version)"
_NOTED = r"(?:described|noted|mentioned|listed|outlined|identified|stated|pointed out|raised|above)"
_GIVEN = r"(?:given|considering|in (?:the )?light of|in view of|taking into account|based on|because of|after|due to)"
# Pattern, and the words by which the instruction or the response would be about that itself.
_PATTERNS = tuple(
    (re.compile(pattern, re.IGNORECASE), re.compile(own, re.IGNORECASE))
    for pattern, own in (
        # The first answer.
        (rf"\b(?:my|the|this|your) (?:first|initial|original|previous|earlier) {_ANSWER}\b", r"\b(?:answer|respon|repl|draft|advice)"),
        (rf"\b(?:revised|reworked|improved|updated) {_ANSWER}\b", rf"\b(?:revis|rework|improv|updat|rephras|correct|{_ANSWER})"),
        (rf"\bI(?:'ve| have) (?:revised|rewritten|reworked|changed|adjusted) (?:my|the) {_ANSWER}\b", r"\b(?:revis|rewrit|chang|adjust)"),
        (r"\b(?:meine|die) (?:erste|ursprüngliche|vorige|frühere) antwort\b", r"\bantwort"),
        (r"\b(?:ma|la) (?:première|précédente) réponse\b|\bla réponse (?:initiale|précédente)\b", r"\bréponse"),
        (r"\b(?:mi|la) (?:primera|anterior) respuesta\b|\b(?:mi|la) respuesta (?:inicial|anterior|original)\b", r"\brespuesta"),
        (r"(?:我的|我)?(?:第一个|最初的|之前的|原来的)(?:回答|答复|答案)", r"回答|答复|答案"),
        # The critique.
        (rf"\b(?:as the critique|the critic(?:'s|s')?\b|the critique (?:above|notes|says|points|shows)"
         rf"|{_GIVEN} (?:the|this|your) (?:critique|criticism|feedback)|by the critic\b|your (?:critique|feedback))",
         r"\b(?:criti|feedback|review)"),
        (r"\b(?:wie die|laut der|angesichts der|nach der) kritik\b", r"\bkriti"),
        (r"\b(?:selon|d'après|compte tenu de) la critique\b", r"\bcritiqu"),
        (r"\b(?:según|como dice|teniendo en cuenta) la crítica\b", r"\bcrític"),
        (r"(?:根据|鉴于|正如)[^。，]{0,6}(?:批评|评论)", r"批评|评论"),
        # The simulation and its parts.
        (r"\b(?:in|of|from|during|after) (?:the|this|our) (?:simulation|role-?play|simulated \w+)\b|\bthe simulated\b|\bthe simulation\b",
         r"\b(?:simul|role-?play|game)"),
        (r"\b(?:in|of|from) (?:the|this) (?:scene|scenario)(?= (?:above|described|where)|[,.;:]| \w+ed\b)|\bthe scenario above\b",
         r"\b(?:scene|scenario|situation|suppos|imagin|hypothe|what if|pretend|story|film|movie|play|novel|crime|accident|if )"),
        (r"\b(?:the|all) (?:roles|characters) (?:in|of|were|was|who|involved)\b|\bthe modulator\b|\bthe ego (?:acts|acted|did|was)\b",
         r"\b(?:role|character|play|story|novel|film|movie|game|ego|modulator)"),
        (r"\bin der simulation\b|\bim rollenspiel\b", r"\b(?:simul|rollenspiel)"),
        (r"\bdans la simulation\b|\bdans le jeu de rôle\b", r"\b(?:simul|jeu)"),
        (r"\ben la simulación\b|\ben el juego de rol\b", r"\b(?:simul|juego)"),
        (r"在(?:这个|该)?(?:模拟|场景|情景)(?:中|里)", r"模拟|场景|情景|假设|如果"),
        # What came of it.
        (rf"\b(?:consequences?|outcomes?|harms?|events) (?:that (?:was|were) )?{_NOTED}\b", r"\b(?:consequence|outcome|harm)"),
        (rf"\b{_GIVEN} (?:the|these|those) (?:\w+ ){{0,2}}(?:consequences?|outcomes?|harms?)(?: of (?:the|this) (?:scene|answer))?[,.;]",
         r"\b(?:consequence|outcome|harm)"),
        (r"\b(?:harm|damage|loss\w*|income|trust) [^.!?\n]{0,30}\bas (?:was )?noted\b|\bas was noted\b", r"\bnoted\b"),
        (r"\b(?:beschriebenen|genannten|oben genannten) folgen\b", r"\bfolgen\b"),
        (r"\bconséquences (?:décrites|mentionnées|ci-dessus)\b", r"\bconséquence"),
        (r"\bconsecuencias (?:descritas|mencionadas|anteriores)\b", r"\bconsecuencia"),
        (r"(?:上述|上面的|所述)的?(?:后果|批评|结果)", r"后果|批评|结果"),
    )
)  # fmt: skip
# Nobody in the instruction did anything yet: a role that did something did it in the scene.
_DID = r"(?:was|were|had|did|said|told|felt|went|came|saw|lost|got|left|found|became|\w{3,}ed)\b"
# Languages that write all nouns with a capital give no proper names away.
_ORGANISATION = re.compile(
    r"\b(?:services?|support|office|department|police|team|resources|media|bank|company|agency|union|council|court|school|university|hospital"
    r"|government|authority|association|institute|ministry|committee|network|group)\b",
    re.IGNORECASE,
)
_CAPITAL_NOUNS = re.compile(r"\b(?:der|die|das|und|nicht|mit|ist)\b")


def _find(subject: Subject) -> str | None:
    text = subject.cleaned()
    known = f"{subject.instruction}\n{subject.response}"
    if any(pattern.search(text) and not own.search(known) for pattern, own in _PATTERNS):
        return "leak"
    told = known.casefold()
    strangers = [role for role in subject.roles if role.strip() and role.casefold() not in told]
    return "leak" if any(_speaks_of(text, role) for role in strangers) else None


def _speaks_of(text: str, role: str) -> bool:
    """Whether a text tells what a role did, or calls it by a name of its own."""
    name = re.escape(role)
    if re.search(rf"\bthe {name} {_DID}(?! to be\b)", text, re.IGNORECASE):
        return True
    words = role.split()
    if len(words) < 2 or not all(word[:1].isupper() and not word.isupper() for word in words) or _ORGANISATION.search(role):
        return False  # "Lawyer", "HR" and "Customer Service" are nobody's own names
    return not _CAPITAL_NOUNS.search(text) and bool(re.search(rf"(?<![.!?:*\n] )(?<!\bthe )(?<!\ba )(?<!^)\b{name}\b", text))


LEAK = Detector("leak", 1, revisions, _find)
