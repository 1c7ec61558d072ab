"""What commonly goes wrong when a chat model plays a role: `clean` cuts what can be cut, `find_flaw` names what cannot.

Both are pure, take linear time and run again in every replay. What they find depends on this file, and on Python's Unicode tables for what
is a letter, a digit, white space or a capital: a later Python judges otherwise only of characters that an earlier one did not know.

They lean towards finding nothing: a refusal that is missed costs one poor reply, but a role that is taken for a refusing assistant costs
the scene what that role had to say. So quoted speech never counts, and a refusal has to name what assistants are asked for.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

Flaw: TypeAlias = Literal["refusal", "assistant", "loop", "language", "empty", "thinking"]
Cut: TypeAlias = Literal["thinking", "label", "run_on", "loop"]

# A loop says the same at least four times in a row, and is half of the text or long in itself. "No, no, no, no!" is how people speak, so
# it has a least length, too. Lengths are in bytes of UTF-8, in which Chinese and English take about as much room for as much sense.
_TIMES, _LOOP_BYTES, _LONG_LOOP_BYTES = 4, 40, 160
# Less regular loops show in stretches of twelve letters that the text had before. Where more than half are such, it holds less than a text
# said twice over. Refrains and lists with a common wording stay below; a short text may well be half a refrain.
_STRETCH, _MIN_STRETCHES = 12, 80
# Refusals begin in the first 200 characters. Fewer than 8 letters are no evidence of a language: names, abbreviations, loan words.
_HEAD, _MIN_LETTERS = 200, 8

# What a form writes itself before what is said in a line: "1. ", "Traits: ". It is in the language of the form.
_MARK = re.compile(r"^\w+[.:] ")
_TAG = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…][\"'”’»)*]{0,2}(?=\s)|[。！？][”’」』]{0,2}")
_TURN_START = r"(\A|\n|[.!?…][\"'”’»)*]?(?=\s)|[。！？][”’」』]?)\s{0,8}"
# White space that is not one plain space between words.
_SPACES = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_WORD_END = re.compile(r"\S(?=\s)")


def clean(text: str, speakers: Sequence[str] = ()) -> tuple[str, tuple[Cut, ...]]:
    """Return the text without what does not belong to it, and what was cut, in order, each once.

    Cut are thoughts in tags at the start (`thinking`; if they never end, nothing is left), the speaker's own name before its words
    (`label`), all from where somebody else's turn begins, or the speaker's next (`run_on`; if another's begins at once, nothing is left),
    and a phrase that the text ends in again and again, but for its first occurrence (`loop`). White space at the ends goes without a word.
    The result is one stretch of the text, and `clean` leaves it as it is.

    Args:
        text: a completion.
        speakers: names of who may speak, the one who speaks here first. A turn begins with a name and a colon, at the start of a line or
            after a sentence; so a thing's name that is also a heading ("Money:") ends the text there.
    """
    text = text.strip()
    cuts: list[Cut] = []
    # Without a colon there is no label, and patterns of names are dear to compile.
    speaks = ":" in text or "：" in text
    own_label = re.compile(rf"(?:\s*+{_label(speakers[:1])})++", re.IGNORECASE) if speaks else None
    start = 0
    while True:
        if (end := _end_of_thoughts(text, start)) > start:
            cuts.append("thinking")
        elif own_label is not None and (label := own_label.match(text, start)):
            end = label.end()
            cuts.append("label")
        else:
            break
        start = end
    text = text[start:].strip()
    if speaks and (turn := re.search(_TURN_START + _label(speakers), text, re.IGNORECASE)):
        text = text[: turn.end(1)].rstrip()
        cuts.append("run_on")
    while (end := _end_before_loop(text)) < len(text):
        text = text[:end]
        cuts.append("loop")
    return text, tuple(dict.fromkeys(cuts))


def find_flaw(text: str, *, like: tuple[str, ...], in_world: bool, cuts: Sequence[Cut] = ()) -> Flaw | None:
    """Return what makes a text unusable, the gravest flaw first, or None.

    Args:
        text: what `clean` made of a completion, or what fills a place in a form.
        like: texts in scripts that are wanted: any of them is.
        in_world: whether the text is part of the scene's world. The assistant's own answers may refuse, and be in any language.
        cuts: what `clean` cut. By it, a text that was all thoughts is told from one that is empty.
    """
    if not any(map(str.isalnum, text)):
        return "thinking" if "thinking" in cuts else "empty"
    if in_world:
        said, starts = sentences(text)
        if refuses(said, starts):
            return "refusal"
        if speaks_as_assistant(said, starts):
            return "assistant"
        if all(in_other_script(text, wanted) for wanted in like):
            return "language"
    return "loop" if is_repetitive(text) else None


def find_flaw_in_form(text: str, *, like: tuple[str, ...]) -> Flaw | None:
    """Return the first flaw of what is said in a form's places, of which each line has one. What the form itself writes is left out."""
    places = (_MARK.sub("", line) for line in text.split("\n") if line.strip())
    flaws = (find_flaw(place, like=like, in_world=True) for place in places if place)
    return next((flaw for flaw in flaws if flaw), None)


def sentences(text: str) -> tuple[str, list[int]]:
    """Return a text as the patterns read it, in lower case and without what is quoted, and where its sentences begin."""
    said = _QUOTED.sub('"', text.translate(_APOSTROPHES).lower())
    # What can be printed has no white space but plain spaces.
    if "  " in said or not said.replace("\n", " ").isprintable():
        said = _SPACES.sub(" ", said)
    said = said.strip()
    first = _FIRST_START.match(said)
    start = first.end() if first else 0
    return said, [start, *(start.end() for start in _SENTENCE_START.finditer(said, start))]


def refuses(said: str, starts: Sequence[int]) -> bool:
    """Whether a text refuses as assistants do. It is given as `sentences` returns it."""
    if _ONLY_OPENER.fullmatch(said):
        return True
    # Most texts have no word of any refusal, and to look for those is a tenth of the work.
    return any(word in said for word in _REFUSING) and any(_REFUSAL.match(said, start) for start in starts if start < _HEAD)


def speaks_as_assistant(said: str, starts: Sequence[int]) -> bool:
    """Whether the assistant speaks in a text: it announces its answer, or speaks of itself. The text is as `sentences` returns it."""
    return bool(_ANNOUNCEMENT.match(said, starts[0])) or any(_VOICE.match(said, start) for start in starts)


def _end_of_thoughts(text: str, start: int) -> int:
    """Return where thoughts that begin at `start` end: at `start`, if there are none."""
    inside = False
    for tag in _TAG.finditer(text, start):
        if tag[1]:  # also without an opening tag, which a chat template may have put into the prompt
            return tag.end()
        if not inside and text[start : tag.start()].strip():
            return start
        inside = True
    return len(text) if inside else start


def _label(names: Sequence[str]) -> str:
    """Return the pattern of a label like `**Doctor** (sighing):`. Each part is bounded, so that a search takes linear time."""
    spelled = "|".join(r"\s".join(map(re.escape, name.split())) for name in names if name.strip())
    return rf"[*_#\[>( -]{{0,6}}(?:the )?(?:{spelled or '(?!)'})[*_\])]{{0,3}}(?: ?\([^()\n]{{0,40}}\))?\s?[:：][*_]{{0,3}}"


def _end_before_loop(text: str) -> int:
    """Return where the first occurrence of the phrase ends that the text ends in again and again; without a loop, its length."""
    packed = "".join(text.split())
    back, size = packed[::-1], len(packed)
    # A loop holds at least so many letters, and three quarters of them stand a period away again: most texts have no such place.
    least = _LOOP_BYTES if text.isascii() else _LOOP_BYTES // 4
    again = back.find(back[: least - least // _TIMES], 1)
    if not 0 < again <= size // _TIMES:
        return len(text)
    first_letter = next((place for place, char in enumerate(back) if char.isalnum()), size)
    for period, reach in enumerate(_common_prefixes(back, size // _TIMES + 1)):
        length = period + reach
        if period and length >= _TIMES * period:
            weight = len(back[: min(length, _LONG_LOOP_BYTES)].encode("utf-8", "replace"))
            # Rules and table borders are long, too, but say nothing.
            is_long = weight >= _LONG_LOOP_BYTES and first_letter < period
            if is_long or (weight >= _LOOP_BYTES and 2 * length >= size):
                return _end_of_phrase(text, size - length + period, period)
    return len(text)


def _end_of_phrase(text: str, size: int, period: int) -> int:
    """Return where to cut a loop: within a period of its `size`th letter, not amid a word. (Spaces count neither for size nor period.)

    A loop is found from where its letters repeat, and that may be anywhere: "He ran and he ran and he ran".
    """
    places = [place for place, char in enumerate(text) if not char.isspace()][size - 1 : size + period]
    first, last = places[0], places[-1]
    for pattern in (_SENTENCE_END, _WORD_END):
        for end in pattern.finditer(text, max(first - 2, 0), last + 4):
            if end.start() < last and end.end() > first:
                return end.end()
    return first + 1


def _common_prefixes(text: str, most: int) -> list[int]:
    """Return, for each of the first `most` places, how much of what follows is the text's own beginning (the Z function)."""
    lengths = [0] * min(most, len(text))
    left = right = 0
    for place in range(1, len(lengths)):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < len(text) and text[length] == text[place + length]:
            length += 1
        lengths[place] = length
        if place + length > right:
            left, right = place, place + length
    return lengths


def is_repetitive(text: str) -> bool:
    """Whether more than half of a text's stretches of twelve letters are such as it had before."""
    if len(text) < _MIN_STRETCHES + _STRETCH - 1:
        return False
    letters = "".join(filter(str.isalnum, text))
    total = len(letters) - _STRETCH + 1
    return total >= _MIN_STRETCHES and 2 * len({letters[start : start + _STRETCH] for start in range(total)}) < total


# Scripts by where their letters begin in Unicode; "" is what counts for none. Chinese and Japanese share one, and say with one character
# what takes others about three.
_SCRIPTS = (
    (0x0, ""), (0x41, "Latin"), (0x5B, ""), (0x61, "Latin"), (0x7B, ""), (0xC0, "Latin"), (0x2B0, ""), (0x370, "Greek"),
    (0x400, "Cyrillic"), (0x530, "Armenian"), (0x590, "Hebrew"), (0x600, "Arabic"), (0x700, ""), (0x750, "Arabic"), (0x780, ""),
    (0x8A0, "Arabic"), (0x900, "Devanagari"), (0x980, "Bengali"), (0xA00, "Gurmukhi"), (0xA80, "Gujarati"), (0xB00, "Oriya"),
    (0xB80, "Tamil"), (0xC00, "Telugu"), (0xC80, "Kannada"), (0xD00, "Malayalam"), (0xD80, "Sinhala"), (0xE00, "Thai"), (0xE80, "Lao"),
    (0xF00, "Tibetan"), (0x1000, "Burmese"), (0x10A0, "Georgian"), (0x1100, "Hangul"), (0x1200, "Ethiopic"), (0x13A0, ""),
    (0x1780, "Khmer"), (0x1800, ""), (0x1E00, "Latin"), (0x1F00, "Greek"), (0x2000, ""), (0x3041, "Han"), (0x3100, ""),
    (0x3131, "Hangul"), (0x3190, ""), (0x31F0, "Han"), (0x3200, ""), (0x3400, "Han"), (0x4DC0, ""), (0x4E00, "Han"), (0xA000, ""),
    (0xAC00, "Hangul"), (0xD7B0, ""), (0xF900, "Han"), (0xFB00, ""), (0xFF66, "Han"), (0xFFA0, ""), (0x20000, "Han"), (0x323B0, ""),
)  # fmt: skip
_SCRIPT_STARTS = [start for start, _ in _SCRIPTS]


def in_other_script(text: str, like: str) -> bool:
    """Whether most letters are of one script that `like` hardly uses. A request for a translation, say, uses two."""
    if text.isascii() and like.isascii():
        return False  # they have but one script, and most texts are so
    written, wanted = _letters(text), _letters(like)
    if min(written.total(), wanted.total()) < _MIN_LETTERS:
        return False
    script, number = written.most_common(1)[0]
    return 2 * number > written.total() and 4 * wanted[script] < wanted.total()


def _letters(text: str) -> Counter[str]:
    """Return how many letters the text has of each script."""
    letters: Counter[str] = Counter()
    for char, number in Counter(text).items():
        script = _SCRIPTS[bisect_right(_SCRIPT_STARTS, ord(char)) - 1][1]
        letters[script] += 3 * number if script == "Han" else number
    del letters[""]
    return letters


# Parts of the patterns below. Text is matched in lower case, so that a name in capitals can only stand for its part.
_PARTS = {
    # What may come before a refusal in its sentence. Somebody who "says, I cannot" is none who refuses.
    "LEAD": r"((while |although )?(i|as an?|thank you) [^.!?\n]{0,120}?(, ?| but |; ?))?"
    r"((SORRY)PAUSE)?((BUT|i('m| am) afraid|that)[,，]? ?){0,3}",
    "PAUSE": r"[ ,.;:!，。！—–-]{0,4}",
    "BUT": r"(but|however|unfortunately|therefore|so|aber|leider|mais|malheureusement|pero|但是?|不过|[您你]好)",
    "CANNOT": r"(i( (?!can)\w+)? (can't|cannot|can not|won't|will not|((must|have to) )?(\w+ )?(decline|refuse)( to)?|do(n't| not) feel"
    r" comfortable)|i('m| am)( \w+)? (unable|not (able|allowed|permitted|programmed|designed|willing|going|comfortable))( to)?)",
    "HOW": r"( (really|ethically|legally|knowingly|just|simply|in good conscience|and (will not|won't)|be able to),?){0,2}",
    # A demonstrative refers to the request only where the clause ends with it: "with that." but not "with that box".
    "THAT": r"(this|that|these|those)END",
    "END": r"(?=[^\w\s'(-]|\s*$|\n| (as|because|since|either|for you)\b)",
    "SOME": r"([\w'-]+ ){0,5}",
    "REQUEST": r"(requests?|prompts?|query|queries)\b",
    "TEXT": r"(content|information|instructions?|guid(e|es|ance)|tutorials?|assistance|help|advice|responses?|answers?|story|stories"
    r"|narratives?|scenarios?|simulations?|role-?plays?|scripts?|descriptions?|dialogues?|texts?|material|examples?|names|requests?)\b",
    "PASTIME": r"(role-?play\w*|scenarios?|simulations?|conversations?|discussions?|requests?|prompts?|story|stories|topics?|content)\b",
    "PIECE": r"(examples?|lists?|summary|responses?|reactions?|answers?|scenarios?|story|stories|versions?|ways|steps|tips|ideas|advice"
    r"|suggestions|roles|characters|names|profiles?|plan|critique|sentences?|overview|script|dialogue|description|instructions?|guide)\b",
    "HERE": r"here('s| is| are) ",
    "AI": r"((large )?(ai|artificial intelligence|language model)( language| model| assistant| chatbot| system)*)",
}
# How assistants refuse, by language: an apology; an inability; an inability together with what it is about.
_REFUSALS = {
    "English": (
        r"i('m| am) (\w+ )?sorry|sorry|i (\w+ )?apologi[sz]e( for \w+ \w+)?|(my )?apologies|i regret",
        "CANNOT",
        r"CANNOTHOW (assist(ing)?( you)?(END| (with|in)\b)"
        r"|help(ing)?( you)? (with|in) (THAT|SOMEREQUEST|(creat|writ|generat|mak|plann)ing\b)"
        r"|(fulfil+(ing)?|satisfy(ing)?|comply(ing)? with|engag(e|ing) (in|with)) (THAT|SOMEREQUEST)|(answer|respond to)(ing)? SOMEREQUEST"
        r"|(provid|generat|creat|produc)(e|ing)( you with)? (THAT|SOMETEXT)|(writ|describ)(e|ing) SOMETEXT|offer(ing)? SOMETEXT"
        r"|(engag|participat|continu)(e|ing)( in| with)? SOMEPASTIME|discuss(ing)? SOME(topics?|subjects?|content|requests?)\b"
        r"|role-?play(ing)?\b|(play|portray)(ing)? (this|that|the|such an?) (role|character|persona)\b)"
        r"|i (must|have to|will have to) (\w+ )?decline(END| (this|that|your|the) (\w+ )?REQUEST)"
        # Those who "refuse to comply" are people.
        r"|i( can't| cannot|'m unable to| am unable to) complyEND"
        r"|CANNOTHOW help(ing)? you (to )?(make|build|create|write|commit|hurt|harm|kill|steal|obtain|hack|break|bypass|attack|plan)\b"
        r"|it (would be|is|'s) (\w+ )?(unethical|irresponsible|inappropriate)( and \w+)? (for me )?to"
        r" (describe|provide|explain|generate|assist)\b"
        r"|my (programming|guidelines|policies) (prevents?|prohibits?|forbids?|(do|does)(n't| not) allow)\b"
        r"|(this|that|it) (\w+ )?(goes|is) against my (guidelines|programming|policies|principles as an? AI)"
        r"|as an? (responsible|ethical) (and \w+ )?(\w+ )?(ai|assistant|language model)\b",
    ),
    "German": (
        r"(es )?tut mir (\w+ )?leid|entschuldigung|leider|ich bedaure",
        r"ich (kann|darf|werde)( \w+)? nicht|ich bin nicht in der lage",
        r"((ich kann|kann ich)( ihnen| dir| leider)* (dabei|damit|bei \w+ anfrage)|(dabei|damit) kann ich)( ihnen| dir| leider)* nicht"
        r" (weiter)?helfen\b|(ich kann|kann ich)( leider)? (dies|ihr|dein)er? anfrage (leider )?nicht (erfüllen|beantworten|nachkommen)\b"
        r"|(ich kann|kann ich) SOMEkeine SOME(informationen|anleitung(en)?|inhalte) SOME(geben|bereitstellen|erstellen)\b",
    ),
    "French": (
        r"(je suis )?(\w+ )?désolée?|je m'excuse|je regrette|malheureusement",
        r"je ne (peux( \w+)? pas|suis pas en mesure)",
        r"je (ne peux( \w+)? pas |ne suis pas en mesure (de |d')|dois (refuser|décliner) )"
        r"((vous |t')?aider (avec|dans|à) (cela|ça|ceci)END"
        r"|((vous |t')?aider (avec|dans) |(répondre|accéder) à |satisfaire |traiter )?(cette|votre|ta) (demande|requête)\b"
        r"|(vous )?(fournir|générer|créer) SOME([dl]')?(informations?|contenus?|instructions|aide|assistance|réponse)\b)",
    ),
    "Spanish": (
        r"lo siento( mucho)?|lo lamento|me disculpo|lamentablemente",
        r"(yo )?no puedo",
        r"(no (puedo|me es posible)|debo rechazar) ((ayudar|asistir)(te|le|les)? con (eso|esto|ello)END"
        r"|((ayudar|asistir)(te|le|les)? con |cumplir con |responder a |atender )?(est?a|tu|su) (solicitud|petición)\b"
        r"|(proporcionar|generar|crear|ofrecer)(te|le)? SOME(información|contenido|instrucciones|ayuda|asistencia|respuesta)\b)",
    ),
    "Chinese": (
        r"(我|非常|很)*(抱歉|对不起|對不起|遗憾)",
        r"我(无法|無法|不能)",
        r"我(恐怕|暂时|目前|也)?(无法|無法|不能)(继续|直接)?([为為给給向帮幫]助?[您你])?((协助|協助)END"
        r"|(提供|生成|创作|创建|编写|撰写|协助|協助|满足|滿足|完成|讨论|討論|参与|參與|回应|回答)[^。！？\n]{0,16}"
        r"(请求|請求|要求|信息|資訊|内容|內容|帮助|幫助|协助|協助|建议|建議|指导|服务|任务|话题|話題|对话|對話|角色扮演))",
    ),
}
# At the start: an answer is announced.
_ANNOUNCEMENTS = (
    r"certainly!",
    r"(sure|certainly|of course|absolutely|okay|ok|great)( thing)?[!,.:] ?HERE((an?|some|how|\d+)\b|[^.!?\n]{0,100}?(:|\bPIECE))",
    r"HERESOME(possible|potential|plausible|realistic|revised|rewritten|sample|fictional|hypothetical)\b",
    r"HERE[^.!?:\n]{0,60}\bPIECE[^.!?:\n]{0,60}:",
)
# At the start of any sentence: the assistant speaks of itself, takes its leave, or comments on its text.
_VOICES = (
    r"as an? ((mere|neutral|helpful|safe) )?AI(, ?(i|my|it)\b| i\b| my\b| (developed|created|trained) by\b|[.!;]|$)",
    r"i('m| am) ((just|only|merely|simply) )?an? AI(?=[.,;!]| (and|so|trained|designed|created|developed|without)\b|$)",
    r"als (eine? )?(ki|ki-\w+|künstliche intelligenz|(großes )?sprachmodell),? (\w+ )?ich\b",
    r"en tant qu('|e )(une? )?(ia|intelligence artificielle|modèle de langage)\b,? je\b",
    r"como (una? )?(ia|inteligencia artificial|modelo de lenguaje),? (no|yo|me|mi)\b",
    r"作[为為](一[个個名款种])?(大型|大)?(ai|人工智能|语言模型|語言模型)(语言|語言|模型|助手)*[，,]? ?我",
    r"i hope (this|that) helps(?=[.!;]|$)",
    r"(please )?let me know if you('d| would)? (like|need|want|have) (me to|more|any (other|further|more|additional|changes))\b",
    r"(please )?note(:| that)[ *_]{0,4}(that )?(this|the above) [^.!?\n]{0,40}(fiction|hypothetical|simulat|imaginary|role-?play)",
)
# A refusal squeezed into the few words of a name, where no sentence ends: an opener and nothing else.
_OPENERS = (
    *(rf"({sorry})([ ,，]*BUT)?[ ,，]*(({unable})\.?|i|ich|je|我)?|{unable}" for sorry, unable, _ in _REFUSALS.values()),
    r"CANNOT (help with|assist|provide|fulfil+|comply|generate|create|continue|discuss|answer|name|list|identify)( [\w'-]+){0,2}",
    "as an? AI",
)


def _compile(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile alternatives, each with or without a label before it: "Traits: I cannot"."""
    pattern = rf"(\w+: )?({'|'.join(patterns)})"
    for part, meaning in _PARTS.items():
        pattern = pattern.replace(part, meaning)
    return re.compile(pattern)


# Every refusal has one of these words.
_REFUSING = (
    "not", "n't", "unable", "decline", "refuse", "ethical", "responsible", "inappropriate", "my ", "nicht", "keine", "je ", "no puedo",
    "no me es", "rechazar", "无法", "無法", "不能",
)  # fmt: skip
_REFUSAL = _compile(f"{_PARTS['LEAD']}({refusal})".replace("SORRY", sorry) for sorry, _, refusal in _REFUSALS.values())
_ONLY_OPENER, _ANNOUNCEMENT, _VOICE = _compile(_OPENERS), _compile(_ANNOUNCEMENTS), _compile(_VOICES)
_FIRST_START = re.compile(r"[ *_(\[#>-]{0,6}")
_SENTENCE_START = re.compile(r"[.!?…\n。！？][ *_(\[#>-]{0,6}")
_QUOTED = re.compile(r'"[^"\n]*"?|“[^”\n]*”?|„[^“”\n]*[“”]?|«[^»\n]*»?|「[^」\n]*」?')
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´", "'"))
