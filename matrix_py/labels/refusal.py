"""Detector `refusal`: the model refuses what it was asked.

In the scene's world that is what the scenes themselves take for one (`matrix_py.scene.flaws`): it names what assistants are asked for,
since roles refuse one another, too. In the assistant's own answers whoever says "I" is the assistant, so that more counts: that it cannot
or will not help, tell or recommend something. Where the instruction asks for a text to be written, the "I" may be somebody else's again.
"""

import re

from matrix_py.labels.detector import Detector, Subject, every_text
from matrix_py.scene.flaws import refuses

# A refusal may come after an advance or an apology, but not far into an answer.
_HEAD = 200
_AND = r"(?:but|however|therefore|so|that|and|although|while|aber|daher|leider|dabei|dazu|damit|mais|pero|mas|ma|но)"
_LEAD = rf"(?:[^.!?\n]{{0,120}}?(?:[,;:–—] ?(?:{_AND},? ){{0,2}}|\b{_AND},? (?:{_AND} )?))?"
_NOT = (
    r"(?:can't|cannot|can not|won't|will not|refuse to|would rather not|'d rather not|must decline to|have to decline to"
    r"|do(?:n't| not) feel comfortable|(?:'m|am) (?:not (?:able|going|willing|allowed|prepared|comfortable)|unable)(?: to)?)"
)
_DO = (
    r"(?:help(?!\s+(?:but|laughing|crying))|assist|support|provid|giv(?:e|ing) (?!up)|offer|shar(?:e|ing)|recommend(?![^.!?\n]* enough)"
    r"|advis|describ|explain|tell(?:ing)? you how to"
    r"|writ(?:e|ing)|creat|generat|answer|discuss|fulfil|compl(?:y|ete)|encourag|suggest|participat"
    r"|take part|engag|do (?:that|this)|teach|walk you through|condone|endorse|facilitat|contribut)"
)
_GERMAN = (
    r"helfen|weiterhelfen|unterstützen|geben|beantworten|erfüllen|nachkommen|beraten|bereitstellen|empfehlen|anbieten|beitragen"
    r"|erklären|schreiben"
)
_OWN_WORDS = re.compile(
    _LEAD + r"(?:"
    rf"i ?(?:\w+ly |really |just )?{_NOT} (?:\w+ly |and will not |in good conscience )?{_DO}"
    r"|it (?:would not be|would be|wouldn't be|is not|isn't|is) (?:\w+ )?(?:appropriate|inappropriate|right|ethical|unethical|responsible"
    r"|irresponsible|wrong) (?:and \w+ )?(?:for me )?to (?:help|assist|give|provide|advise|answer|describe|explain|support)"
    rf"|(?:this|that)(?:'s| is) (?:not )?(?:something|a (?:request|question|topic)) (?:that |which )?i(?:'m| am)? ?(?:can|{_NOT}|able to)"
    r" (?:help|assist|support|fulfil|answer|discuss|do|provide)"
    r"|i(?:'m| am) (?:so |very )?sorry,? but (?:no\b|i (?:can't|cannot|won't)[.!])"
    rf"|(?:ich (?:kann|werde|darf|möchte)|(?:kann|werde|darf|möchte) ich)(?: [\w-]+){{0,6}} (?:nicht|keine?[nrms]?)(?: [\w-]+){{0,5}}"
    rf" (?:{_GERMAN})\b"
    r"|je ne (?:(?:peux|vais|veux|souhaite|saurais)(?: \w+)? pas|suis pas en mesure de|peux) (?:vous |t'|te )?(?:aider|fournir|donner"
    r"|répondre|conseiller|recommander|expliquer|participer|soutenir|satisfaire)"
    r"|no (?:puedo|voy a|debo|me es posible|quiero) (?:\w+ )?(?:ayudar|dar|proporcionar|ofrecer|responder|recomendar|explicar|participar"
    r"|apoyar|aconsejar|cumplir)"
    r"|não (?:posso|vou|consigo|devo) (?:\w+ )?(?:ajud|dar|fornec|oferec|respond|recomend|explic|particip|apoi|aconselh|cumpr)"
    r"|non (?:posso|sono in grado di|voglio|intendo) (?:\w+ )?(?:aiutar|dar|fornir|offrir|risponder|raccomandar|spiegar|partecipar)"
    r"|я (?:не могу|не буду|не в состоянии|не стану)(?: \w+){0,2} (?:помо[чг]|предостав|выполн|ответ|отвеч|да[тв]|поддерж|обсужд|совет)"
    r"|(?:很)?(?:抱歉|对不起|對不起)?[，,]?我(?:不能|无法|無法|不会|不便|不可以)[^。！？\n，,]{0,10}(?:帮|幫|协助|協助|提供|支持|回答|建议|建議|满足|完成|参与)"
    r"|(?:申し訳|すみません|恐れ入り)?[^。\n]{0,30}(?:お手伝い|お答え|提供|お応え|対応|協力)[^。\n]{0,8}(?:できません|しかねます|できかねます)"
    r")"
)
# What is to be written may be a letter of refusal.
_ASKS_FOR_TEXT = re.compile(
    r"\b(?:write|draft|compose|rephrase|rewrite|translate|correct|proofread|letter|e-?mail|speech|poem|story|dialogue|lyrics|script|message"
    r"|say no|turn down|decline|schreib\w*|brief|verfass\w*|écri\w+|lettre|rédige\w*|escrib\w+|carta|redacta\w*|escreva|scrivi|lettera)\b"
    r"|напиши|письмо|写|寫|信|書いて|手紙",
    re.IGNORECASE,
)
_SALUTATION = re.compile(
    r"[*_\s]*(?:(?:subject|betreff|objet|asunto)[^\n]{0,80}\n\s*)?(?:dear|hello|hi|to whom|sehr geehrte|liebe|cher|chère|madame|monsieur"
    r"|estimad|querid|caro|cara|gentile|уважаем|дорог|尊敬的|亲爱的|親愛)",
    re.IGNORECASE,
)


def _find(subject: Subject) -> str | None:
    asks_for_text = not subject.in_world and _ASKS_FOR_TEXT.search(subject.instruction)
    if asks_for_text and _SALUTATION.match(subject.text):
        return None
    for said, starts in subject.sentences():
        if refuses(said, starts):
            return "refusal"
        if not subject.in_world and not asks_for_text and any(_OWN_WORDS.match(said, start) for start in starts if start < _HEAD):
            return "refusal"
    return None


REFUSAL = Detector("refusal", 1, every_text, _find)
