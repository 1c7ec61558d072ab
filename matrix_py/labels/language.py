"""Detector `language`: the answer is in another script (`script`) or another language (`language`) than the instruction.

Scripts are told apart by their letters, languages of one script by their commonest words, of which a text of some length has many. A text
whose language is not plain gets no label, nor does one whose instruction asks for a translation or names a language. Turns of the scene's
world may also answer in the language of the prompt.
"""

import re
from collections import Counter
from functools import lru_cache

from matrix_py.labels.detector import Detector, Subject, every_text
from matrix_py.scene.flaws import in_other_script

# The commonest words of each language, less those that several of these share.
_WORDS = {
    "English": (
        "the and of to is was that it for you with as his they be at this have from or had by but what were we when your can "
        "said there each which their if will how up out many then them these she him would who been its now my than her not are "
        "should do where why"
    ),
    "German": (
        "der die das und ist nicht ein eine einen einem einer zu den dem mit sich auf für von sie ich er es wir ihr ihm ihn im "
        "dass auch wie bei oder nach aus wenn werden wird sind kann noch nur über zum zur haben hat war sein ihre seit mir mich "
        "schon mehr"
    ),
    "French": (
        "le la les des et est une un dans qui que pas pour sur au aux avec ce cette il elle nous vous je ne sont du plus par ou "
        "mais comme ses leur être avoir fait votre lui faut peut tout bien aussi ensuite deux mon son"
    ),
    "Spanish": (
        "el la los las y es una un en que no por para con su se lo al del más pero como le sus este esta está ha son muy hay "
        "ser cuando también hasta desde dos qué cómo mi él ya puede todo antes"
    ),
    "Portuguese": (
        "o os as e é uma um em que não por para com seu sua se no na do da dos das mais mas como ao ele ela foi são está ou ser "
        "quando muito também há eu você já até antes diga isso"
    ),
    "Italian": (
        "il lo gli le e è una un di che non per con si da del della dei nel alla al ma come più anche sono ha questo quando se "
        "ci mi sua suo entro dopo prima essere può fare ho"
    ),
    "Dutch": (
        "de het een en is van niet dat op te zijn voor met die aan er om hem ook maar naar bij uit of nog wordt heeft kan wat "
        "door over dan ik je hij zij wij deze dit als worden"
    ),
    "Polish": "i w nie na się z do to że jest jak o po co ale tak za od przez dla czy już tym być są jego był może przed oraz aby",
    "Turkish": "ve bir bu da de için ile çok ne daha gibi ben sen var olarak kadar sonra mi olan ama her değil ya en şey",
    "Swedish": "och att det i som en på är av för den till inte med har de om ett han jag var från men kan så hon när nu eller",
    "Russian": "и в не на что с по как это я к у из за его то все от так же о вы для мы бы ему чтобы если или при он она они",
    "Ukrainian": "і в не на що з як це я до у за його та від так вы для ми щоб якщо або при він вона вони й є",
}
_LANGUAGES: dict[str, list[str]] = {}
for _language, _list in _WORDS.items():
    for _word in _list.split():
        _LANGUAGES.setdefault(_word, []).append(_language)
_WORD = re.compile(r"[^\W\d_]+")
# The language of an answer is plain where it has that many of its words, and so many times as many as of any other; an instruction is
# shorter, and fewer will do.
_LEAST, _LEAST_ASKED, _CLEAR = 4, 2, 1.5
_MAX_WORDS = 400

# Whoever names a language, or asks for a translation, may want an answer in another one.
_ABOUT_LANGUAGE = re.compile(
    r"\b(?:translat|traduc|tradui|tradut|tradur|übersetz|vertaal|перевед|перевод|language\b|sprache\b|langue\b|idioma\b|lingua\b"
    r"|english|german\b|french|spanish|portuguese|italian|dutch|polish|turkish|swedish|russian|ukrainian|chinese|mandarin|japanese|korean|arabic"
    r"|hindi|latin\b|greek|hebrew"
    r"|englisch|deutsch|französisch|spanisch|italienisch|russisch|chinesisch|anglais|allemand|français|espagnol|inglés|alemán|francés|español"
    r"|inglês|alemão|inglese|tedesco|francese|английск|немецк|французск|русск|испанск)"
    r"|翻译|翻譯|译成|英文|英语|中文|汉语|法语|德语|日语|俄语|訳して|翻訳|英語|日本語|번역|영어|ترجم",
    re.IGNORECASE,
)


def _find(subject: Subject) -> str | None:
    if _is_about_language(subject.instruction):
        return None
    text = subject.cleaned()
    like = [subject.instruction, *([subject.prompt] if subject.in_world and subject.prompt else [])]
    if all(in_other_script(text, wanted) for wanted in like):
        return "script"
    # Beside a text of another script, its own common words say nothing.
    spoken = language_of(text, least=_LEAST)
    if spoken is None or any(in_other_script(text, wanted) for wanted in like):
        return None
    wanted_languages = [_language_asked(wanted) for wanted in like]
    return "language" if all(wanted not in (None, spoken) for wanted in wanted_languages) else None


# The instruction and the prompts stay the same for many turns.
@lru_cache(maxsize=128)
def _is_about_language(instruction: str) -> bool:
    return bool(_ABOUT_LANGUAGE.search(instruction))


@lru_cache(maxsize=128)
def _language_asked(wanted: str) -> str | None:
    return language_of(wanted, least=_LEAST_ASKED)


def language_of(text: str, *, least: int) -> str | None:
    """Return the language, of those whose words are known here, that a text is plainly in, or None."""
    words = _WORD.findall(text.lower())[:_MAX_WORDS]
    found: Counter[str] = Counter(language for word in words for language in _LANGUAGES.get(word, ()))
    if not found:
        return None
    (first, number), *others = found.most_common(2)
    second = others[0][1] if others else 0
    return first if number >= least and number >= _CLEAR * second else None


LANGUAGE = Detector("language", 1, every_text, _find)
