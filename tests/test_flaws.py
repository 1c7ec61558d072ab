"""What is cut from a completion, and what makes a text unusable. The texts are made up, after what models and people write."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from matrix_py.scene.flaws import _REFUSAL, clean, find_flaw, refuses

ENGLISH = "How do I ask my landlord to repair the heating before winter?"
CHINESE = "冬天快到了，我应该怎样请房东修理暖气呢？"
SPEAKERS = ("Doctor", "Nurse", "police officer", "O'Neill")


def in_world(text: str, like: str = ENGLISH) -> str | None:
    return find_flaw(text, like=(like,), in_world=True)


# Thoughts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>He is angry.</think>He leaves.", "He leaves."),
        ("<think>\nHe is angry.\n\n</think>\n\nHe leaves.", "He leaves."),
        ("  \n<think></think> He leaves.", "He leaves."),
        ("<THINKING>Hm.</THINKING>He leaves.", "He leaves."),
        ("<reasoning>Hm.</reasoning> He leaves.", "He leaves."),
        ("He is angry, so he may leave.\n</think>\n\nHe leaves.", "He leaves."),
        ("</think>He leaves.", "He leaves."),
        ("<think>a</think><think>b</think> He leaves.", "He leaves."),
        ("<think>a <think> b</think> c</think> He leaves.", "He leaves."),
        ("<think>Doctor: no.\nNurse: yes.</think>Doctor: He leaves.", "He leaves."),
        ("Doctor: <think>Hm.</think> He leaves.", "He leaves."),
        ("<think>He is angry.</think>", ""),
        ("<think>He is angry, and then", ""),
        ("<think>", ""),
    ],
)
def test_thoughts_at_the_start_are_cut(text: str, left: str) -> None:
    cleaned, cuts = clean(text, SPEAKERS)
    assert cleaned == left
    assert "thinking" in cuts


@pytest.mark.parametrize(
    "text",
    [
        "The tag <think> begins a block.",
        "She writes <think> on the board and </think> below it.",
        "He stops to think.",
        "< think >He leaves.",
        "<thinker>He leaves.</thinker>",
        "<p>He leaves.</p>",
    ],
)
def test_tags_elsewhere_and_other_tags_stay(text: str) -> None:
    assert clean(text) == (text, ())


@pytest.mark.parametrize("text", ["<think>I should", "<think>I should say nothing.</think>", "<think>a</think>\n..."])
@pytest.mark.parametrize("world", [True, False])
def test_all_thoughts_is_told_from_empty(text: str, world: bool) -> None:
    cleaned, cuts = clean(text)
    assert find_flaw(cleaned, like=(ENGLISH,), in_world=world, cuts=cuts) == "thinking"
    assert find_flaw(cleaned, like=(ENGLISH,), in_world=world) == "empty"


# Labels and run-ons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label", ["Doctor: ", "doctor: ", "**Doctor:** ", "**Doctor**: ", "[Doctor]: ", "The doctor: ", "### Doctor:\n", "Doctor："]
)
@pytest.mark.parametrize("before", ["", "\n ", "- ", "> ", "Doctor: "])
def test_the_speakers_own_label_is_cut(label: str, before: str) -> None:
    assert clean(f"{before}{label}I go.", SPEAKERS) == ("I go.", ("label",))


@pytest.mark.parametrize("text", ["Doctor (sighing): I go.", "Doctor : I go.", "Doctor: I go.\n"])
def test_a_label_may_say_how_the_role_speaks(text: str) -> None:
    assert clean(text, SPEAKERS) == ("I go.", ("label",))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("I go.\nNurse: Wait!", "I go."),
        ("I go.\n\nNURSE: Wait!", "I go."),
        ("I go.\n  **Nurse**: Wait!", "I go."),
        ("I go.\nNurse (running): Wait!", "I go."),
        ("I go. Nurse: Wait!", "I go."),
        ("I go! The nurse: Wait!", "I go!"),
        ('He says "no." Nurse: Wait!', 'He says "no."'),
        ("我走了。Nurse：等等！", "我走了。"),
        ("I go\nPolice  Officer: Wait!", "I go\nPolice  Officer: Wait!"),
        ("I go\nPolice Officer: Wait!", "I go"),
        ("I go.\nO'Neill: Wait!", "I go."),
        ("I go.\nDoctor: I come back.", "I go."),
        ("I go.\nNurse: Wait!\nPolice officer: Stop!", "I go."),
    ],
)
def test_the_text_ends_where_the_next_turn_begins(text: str, left: str) -> None:
    assert clean(text, SPEAKERS)[0] == left


def test_label_and_run_on_are_named_in_order() -> None:
    assert clean("Doctor: I go.\nNurse: Wait!", SPEAKERS) == ("I go.", ("label", "run_on"))


def test_of_another_roles_words_nothing_is_left() -> None:
    assert clean("Nurse: Doctor, come!", SPEAKERS) == ("", ("run_on",))


def test_without_a_speaker_of_its_own_a_text_may_still_run_on() -> None:
    assert clean("Doctor: I go.", ["", "Doctor"]) == ("", ("run_on",))


@pytest.mark.parametrize(
    "text",
    [
        "He tells the nurse: wait!",
        "She asks one thing of the doctor: patience.",
        "Nurses: there are too few of them.",
        "A Nurse: that is what he wants to be.",
        "I go, Nurse: wait!",
        "At 10:30 the doctor leaves.",
        "I go.\nNurse Anna waits: she is tired.",
        "The rules are as follows.\nFirst: wait.",
        "Head doctor: I go.",
    ],
)
def test_a_name_within_a_sentence_ends_nothing(text: str) -> None:
    assert clean(text, SPEAKERS) == (text, ())


def test_without_speakers_labels_stay() -> None:
    assert clean("Doctor: I go.\nNurse: Wait!") == ("Doctor: I go.\nNurse: Wait!", ())


@pytest.mark.parametrize("name", ["a+", "(b", "[c", "d\\", ".*", "{2}", "^"])
def test_names_are_taken_literally(name: str) -> None:
    assert clean(f"{name}: I go.", [name]) == ("I go.", ("label",))
    assert clean(f"I go.\nx{name}: no", [name]) == (f"I go.\nx{name}: no", ())


# Loops -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("I will go now. " * 4, "I will go now."),
        ("I will go. " * 40, "I will go."),
        ("I will go. " * 40 + "I wi", "I will go."),
        ("He waits.\n" * 10, "He waits."),
        ("and then he ran " * 12, "and then he ran"),
        ("the " * 60, "the"),
        ("ha" * 60, "ha"),
        ("!" * 80, "!"),
        ("a b c d e f g h i j k l m n o p q r s t. " * 4, "a b c d e f g h i j k l m n o p q r s t."),
        ("We go home. " + "You go home. " * 8, "We go home. You go home."),
        ("He ran" + " and he ran" * 12, "He ran and he"),
        ("She says: " + '"I want my money back." ' * 8, 'She says: "I want my money back."'),
        ("我要去医院。" * 6, "我要去医院。"),
        ("我要去医院" * 6, "我要去医院"),
        ("Я ухожу отсюда. " * 6, "Я ухожу отсюда."),
        ("ฉันจะไปโรงพยาบาล" * 5, "ฉันจะไปโรงพยาบาล"),
        ("A long and quite sensible beginning, which goes on for some time. " * 1 + "And then he ran away. " * 4 + "And then", None),
        ("".join(f"Sentence {number} says something else. " for number in range(40)) + "It never ends. " * 20, None),
        (("b" + " a" * 50 + " ") * 5, "b a"),
    ],
)
def test_a_loop_is_cut_to_its_first_occurrence(text: str, left: str | None) -> None:
    cleaned, cuts = clean(text)
    assert cuts == ("loop",)
    if left is None:
        phrase = cleaned[cleaned.rindex(". ", 0, len(cleaned) - 1) + 2 :]
        assert cleaned.count(phrase) == 1
        left = text[: text.index(phrase) + len(phrase)]
    assert cleaned == left


@pytest.mark.parametrize(
    "text",
    [
        "No, no, no!",
        "No, no, no, no, no!",
        "Help! Help! Help! Help!",
        "救命！救命！救命！救命！",
        "Noooooooooooooo!",
        "Wait... wait... wait...",
        "Ha ha ha ha ha, he laughs.",
        "1. Go home 2. Go home 3. Go home 4. Go home 5. Go home",
        "1. a 2. b 3. c 4. d 5. e 6. f 7. g 8. h 9. i 10. j 11. k 12. l",
        "I will go home now. I will go home now. I will go home now.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "He knocks again and again and again and again, but nobody opens, and in the end he goes home and lies awake.",
        "She counts: one, two, three, four, five, six, seven, eight, nine, ten.",
        "The answer has a table:\n| name | age |\n| --- | --- |\n| Anna | 40 |\n| Ben | 41 |",
        "He thinks about it for a long time before he says anything at all to anybody. " + "-" * 60,
    ],
)
def test_what_people_say_more_than_once_is_no_loop(text: str) -> None:
    assert clean(text) == (text, ())
    assert in_world(text, like=text) is None


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"On day {number} he goes to the office and asks for his money again. " for number in range(1, 9)),
        "He asks the clerk for his money, and the clerk says that there is none today. " * 3,
        ("He asks the clerk for his money. The clerk says no. " * 5) + "In the end he goes home.",
        "他每天都去办公室要回自己的钱，可是没有人理他，于是他又回家去了，什么也没有说。" * 3,
    ],
)
@pytest.mark.parametrize("world", [True, False])
def test_a_text_that_mostly_repeats_itself_is_a_loop(text: str, world: bool) -> None:
    like = CHINESE if "他" in text else ENGLISH
    assert find_flaw(clean(text)[0], like=(like,), in_world=world) == "loop"


@pytest.mark.parametrize(
    "text",
    [
        "He asks the clerk for his money, and the clerk says that there is none today, and that he should come again. " * 2,
        "1. The doctor talks to the patient. 2. The nurse talks to the family. 3. The mayor talks to the press. 4. The clerk calls her.",
        "The wheels on the bus go round and round, round and round, round and round. The wheels on the bus go round, all day long.",
        "┌────────────┬────────────┐\n│ name       │ age        │\n├────────────┼────────────┤\n" * 3,
    ],
)
def test_a_refrain_a_list_and_a_table_are_no_loop(text: str) -> None:
    assert in_world(text) is None


# Refusals --------------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t assist with that.",
    "I'm sorry, but I cannot assist with that request.",
    "I am sorry, but I am unable to assist you with this request.",
    "Sorry, I can't help with that.",
    "Sorry, but I can't help you with that.",
    "I can't help with that.",
    "I can't help you with that because it is against the law.",
    "I cannot help with creating such things.",
    "I won't be able to help you with this.",
    "I'm unable to help with this request.",
    "I'm not able to provide instructions for that.",
    "I cannot fulfill your request.",
    "I cannot fulfil this request, as it goes against my guidelines.",
    "I can't fulfill that request.",
    "I cannot comply with your request.",
    "I'm sorry, but I cannot comply.",
    "I apologize, but I cannot provide information on how to do that.",
    "I apologise, but I can't provide a response to this.",
    "I apologize for the confusion, but I am not able to generate content of that kind.",
    "My apologies, but I cannot create content that demeans people.",
    "Unfortunately, I cannot provide guidance on that topic.",
    "However, I cannot provide any assistance with this.",
    "I must decline.",
    "I must respectfully decline this request.",
    "I must decline to provide such information.",
    "I have to decline to write this story.",
    "I will not provide instructions for this.",
    "I won't engage in this role-play.",
    "I can't engage with this topic in a role-play scenario.",
    "I refuse to participate in this conversation.",
    "I don't feel comfortable writing a story about that.",
    "I'm not comfortable continuing this scenario.",
    "I can't continue this role-play.",
    "I cannot discuss topics of that kind.",
    "I can't roleplay as this person.",
    "I cannot in good conscience provide such advice.",
    "I cannot and will not provide such a description.",
    "I simply cannot write a description of it.",
    "I'm afraid I can't assist with that.",
    "I am afraid that I cannot help with that.",
    "I understand your concern, but I cannot provide instructions for this.",
    "I understand that you are curious but I can't help with that.",
    "While I understand the wish behind it, I cannot generate such content.",
    "As an AI language model, I cannot provide advice of this kind.",
    "As a responsible AI, I want everybody to be safe.",
    "As a responsible and ethical AI assistant I think of everybody.",
    "**I'm sorry, but I can't assist with that.**",
    "(I cannot fulfill this request.)",
    "Doctor: I'm sorry, but I can't assist with that.",
    "Traits: I cannot provide this information",
    "Thank you for asking. I'm sorry, but I can't assist with that.",
    "This is about a sad thing.\nI cannot assist with this.",
    "I'm sorry,  but I can't\tassist with that.",
    "Thank you for asking, but I cannot help with that.",
    "I am a friendly voice. Therefore, I cannot fulfill your request.",
    "Ich kann Ihnen bei dieser Anfrage nicht helfen.",
    "Lo siento, pero no puedo asistir con esa petición.",
    "Es tut mir leid, aber ich kann dabei nicht helfen.",
    "Tut mir leid, ich kann Ihnen dabei leider nicht weiterhelfen.",
    "Leider kann ich Ihnen damit nicht helfen.",
    "Dabei kann ich dir nicht helfen.",
    "Ich kann diese Anfrage nicht beantworten.",
    "Ich kann Ihnen keine Informationen dazu geben.",
    "Je suis désolé, mais je ne peux pas vous aider avec cela.",
    "Je suis désolée, mais je ne peux pas répondre à cette demande.",
    "Je ne peux pas fournir d'informations à ce sujet.",
    "Désolé, je ne peux pas satisfaire votre demande.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Lo siento, no puedo cumplir con esa solicitud.",
    "No puedo proporcionar información sobre ese tema.",
    "很抱歉，我无法提供这方面的信息。",
    "抱歉，我不能协助您完成这个请求。",
    "对不起，我无法满足您的要求。",
    "您好，我无法提供此类内容。",
    "對不起，我無法協助。",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_found(text: str) -> None:
    assert in_world(text, CHINESE if text[-1] == "。" else ENGLISH) == "refusal"


OPENERS = """I cannot|I can't|I can’t|I'm sorry|I am sorry|I'm very sorry|Sorry but I|I'm sorry but I|I apologize|I apologize but I cannot
Sorry I can't|I'm unable to|I am not able to|I must decline|I cannot provide names|I cannot fulfill this|I can't assist|I cannot identify
As an AI|As an AI language|As an AI language model|As a language model|I'm sorry, but I can't.|es tut mir leid|ich kann nicht|je suis désolé
lo siento|no puedo|抱歉|很抱歉|我无法"""


@pytest.mark.parametrize("name", OPENERS.replace("\n", "|").split("|"))
def test_a_refusal_squeezed_into_a_name_is_found(name: str) -> None:
    assert in_world(name) == "refusal"


ROLES_LINES = [
    # Apologies.
    "I'm sorry, the shop is closed.",
    "I'm sorry.",
    "I'm so sorry!",
    "Sorry, I did not see you there.",
    "I am sorry for what I did, he says, and looks at the floor.",
    "I apologize to my neighbour and offer to pay for the window.",
    "My apologies, the train was late.",
    "He says that he is sorry and that he cannot come.",
    "I'm sorry, but I can't stay any longer; my daughter is waiting.",
    "I'm sorry, but I cannot sell you this without a prescription.",
    "Unfortunately, I can't find my keys.",
    "I regret what happened, and I write to the family.",
    # Refusing something in the story.
    "The doctor refuses to help.",
    "The pharmacist cannot help him with that and sends him away.",
    "The bank declines the request.",
    "I can't help him with his homework tonight.",
    "I can't help you with that box, my back hurts.",
    "I can't help it, I laugh.",
    "I cannot help crying.",
    "I can't help you if you lie to me.",
    "I refuse to sign, and I leave the room.",
    "I refuse to comply.",
    "I won't do it, and I tell him so.",
    "I can't do that. It is against the law, and I would lose my job.",
    "I cannot let you do this.",
    "I can't believe this",
    "I cannot walk",
    "I must decline your invitation, I am on duty.",
    "I must decline the money and call the police.",
    "I decline the offer and hang up.",
    "I am unable to sleep and call my sister.",
    "I'm not able to lift the box.",
    "I will not write to him again.",
    "I can't continue like this; I hand in my notice.",
    "I cannot provide for my family on this wage.",
    "I can't create a scene in front of the children.",
    "I can't answer that question, the witness says.",
    "I'm not going to open the door for a stranger.",
    "I don't feel comfortable in this house any more.",
    "I am not comfortable with him near the school.",
    "I cannot grant your request, says the clerk.",
    "The clerk says, I cannot assist you with that, and closes the window.",
    "\"I'm sorry, but I can't assist with that,\" the clerk says and closes the window.",
    "“I cannot help you with that,” says the pharmacist. “It is against the law.”",
    "The librarian says: “I can’t provide that information.”",
    "He shakes his head. „Dabei kann ich dir nicht helfen“, sagt er.",
    "« Je ne peux pas vous aider avec cela », dit-elle.",
    'She reads the letter aloud: "I cannot fulfill your request." Then she tears it up.',
    # Of machines, and of assistants.
    "As an AI researcher, Dr. Lee worries about the results.",
    "I am an AI engineer, and I report the fault to my manager.",
    "The robot stops and says that it is a machine without feelings.",
    'The teacher finds that the essay begins with "As an AI language model" and calls the parents.',
    "The chatbot of the bank refuses to assist him, so he goes there himself.",
    "As an assistant to the mayor, I call the press.",
    "As a nurse, I cannot look away.",
    "As an artist I paint what I see.",
    "Artificial intelligence frightens my grandmother.",
    # Words that assistants like, too.
    "Sure, I will drive her home.",
    "Sure! I know the way.",
    "Of course, the mayor knows about it.",
    "Certainly, sir, your table is ready.",
    "Here's the money I owe you.",
    "Here is my card, call me.",
    "Here are the keys, the janitor says.",
    "Okay, here we go again, thinks the driver.",
    "I hope this helps my brother to find work.",
    "Let me know if you need anything, the nurse says.",
    "Let me know if you hear from her.",
    "Note: this house is under surveillance.",
    "She leaves a note that this is her last day.",
    # Other languages.
    "Es tut mir leid, der Laden ist geschlossen.",
    "Ich kann dir helfen, sagt der Nachbar.",
    "Ich kann nicht mehr warten und gehe nach Hause.",
    "Je suis désolé, le magasin est fermé.",
    "Je ne peux pas dormir et j'appelle ma sœur.",
    "Lo siento, la tienda está cerrada.",
    "No puedo dormir y llamo a mi hermana.",
    "I meet the others at the Café Šibenik, says Łukasz.",
    # Short answers in forms.
    "nobody",
    "none",
    "Verdict: yes",
    "doctor",
    "the money",
    "Age: 45",
    "42",
]
CHINESE_LINES = [
    "对不起，商店已经关门了。",
    "医生拒绝帮助他，让他去别的医院。",
    "我不能再等了，我先回家。",
    "我无法入睡，给姐姐打了电话。",
    "作为AI研究员，他很担心结果。",
    "房东说：“很抱歉，我无法提供这方面的信息。”",
    "護士把病人送到了醫院。",
]


@pytest.mark.parametrize("text", ROLES_LINES)
def test_what_a_role_may_say_has_no_flaw(text: str) -> None:
    assert in_world(text) is None
    assert clean(text, SPEAKERS) == (text, ())


@pytest.mark.parametrize("text", CHINESE_LINES)
def test_what_a_role_may_say_in_chinese_has_no_flaw(text: str) -> None:
    assert in_world(text, CHINESE) is None


@given(st.from_regex(rf"\A(?:{_REFUSAL.pattern})", alphabet=st.characters(codec="utf-8")))
def test_no_way_to_refuse_is_passed_over_for_its_words(text: str) -> None:
    assert refuses(text, [0])


def test_a_refusal_far_from_the_start_is_part_of_the_story() -> None:
    story = "The clerk reads the form twice and looks at the man. " * 2 + "He has seen many such forms in his years at the office, and "
    story += "few of them were filled in so badly. "
    assert len(story) > 200
    assert in_world("I can't assist with that. " + story) == "refusal"
    assert in_world(story + "I can't assist with that.") is None


# The assistant's voice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "As an AI, I do not have feelings about this.",
        "As an AI language model, I have no personal opinion.",
        "As a language model I have no body.",
        "As a large language model, it is not for me to judge.",
        "The old man waits. As an AI, I should add that waiting is healthy.",
        "I'm just an AI, but this is what may happen.",
        "I am an AI assistant and want to be fair to everybody.",
        "As an AI developed by people, I have no family.",
        "Sure! Here is a short reaction:",
        "Sure, here's what the doctor might say:",
        "Sure! Here are some ways in which the nurse could react",
        "Certainly! The doctor goes home.",
        "Of course! Here is a list of the roles.",
        "Okay, here is the revised critique.",
        "Here's a possible reaction of the doctor: he goes home.",
        "Here is a realistic account of what follows.",
        "Here are five roles: a doctor, a nurse, a mayor, a driver, a clerk.",
        "The doctor goes home. I hope this helps!",
        "The doctor goes home.\n\nLet me know if you would like me to continue.",
        "The doctor goes home. Please let me know if you have any other questions.",
        "The doctor goes home.\n\nNote: this is a fictional scenario.",
        "The doctor goes home. (Note that this is purely hypothetical.)",
        "Als KI habe ich keine Meinung dazu.",
        "En tant qu'intelligence artificielle, je n'ai pas d'avis.",
        "Como modelo de lenguaje, no tengo opiniones.",
        "作为一个人工智能语言模型，我没有个人意见。",
    ],
)
def test_the_assistants_voice_is_found(text: str) -> None:
    assert in_world(text, CHINESE if text[-1] == "。" else ENGLISH) == "assistant"


# Language --------------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "Latin": ENGLISH,
    "Greek": "Πώς ζητώ από τον ιδιοκτήτη να επισκευάσει τη θέρμανση;",
    "Cyrillic": "Как попросить хозяина починить отопление до зимы?",
    "Hebrew": "איך אני מבקש מבעל הבית לתקן את החימום לפני החורף?",
    "Arabic": "كيف أطلب من المالك إصلاح التدفئة قبل الشتاء؟",
    "Devanagari": "मैं मकान मालिक से सर्दी से पहले हीटिंग ठीक करने को कैसे कहूँ?",
    "Thai": "ฉันจะขอให้เจ้าของบ้านซ่อมเครื่องทำความร้อนก่อนฤดูหนาวได้อย่างไร",
    "Chinese": CHINESE,
    "Hangul": "겨울이 오기 전에 집주인에게 난방을 고쳐 달라고 어떻게 말하나요?",
    "Armenian": "Ինչպե՞ս խնդրել տանտիրոջը վերանորոգել ջեռուցումը",
    "Georgian": "როგორ ვთხოვო მეპატრონეს გათბობის შეკეთება",
    "Tamil": "குளிர்காலத்திற்கு முன் வெப்பத்தை சரிசெய்ய எப்படி கேட்பது?",
}


@pytest.mark.parametrize("like", SCRIPTS)
@pytest.mark.parametrize("text", SCRIPTS)
def test_scripts_are_told_apart(text: str, like: str) -> None:
    assert in_world(SCRIPTS[text], SCRIPTS[like]) == (None if text == like else "language")


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("暖房を直してもらうように大家さんにお願いします。", CHINESE),
        ("カタカナだけのテキストです", CHINESE),
        ("Он ушёл", ENGLISH),
        ("医生", ENGLISH),
        ("Łódź", CHINESE),
        ("The doctor goes home.", "你好"),
        ("The doctor goes home.", "12 + 30 = ?"),
        ("The doctor meets Владимир Иванович at the station.", ENGLISH),
        ("医生说 Python 和 JavaScript 都很好，然后回家去休息了。", CHINESE),
        ("The doctor goes home.", "Translate into English, please: " + CHINESE),
        ("医生今天晚上不回家，他在医院里值班。", "Translate into English, please: " + CHINESE),
        ("Übermäßig fröhlich läuft Łukasz nach Hause.", ENGLISH),
        ("Ｆｕｌｌ ｗｉｄｔｈ", ENGLISH),
    ],
)
def test_kin_few_or_mixed_letters_are_no_other_language(text: str, like: str) -> None:
    assert in_world(text, like) is None


@pytest.mark.parametrize("text", ["He goes home 然后他在家里等了很久，没有人来敲门。", "医生回家了", "Он ушёл домой"])
def test_a_text_mostly_in_another_script_is_found(text: str) -> None:
    assert in_world(text) == "language"


# Empty texts, and the assistant's own answers --------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t", "...", "?!", "—", "“”", "***", "🙂", "。", "\u200b"])
@pytest.mark.parametrize("world", [True, False])
def test_a_text_without_letter_or_digit_is_empty(text: str, world: bool) -> None:
    assert find_flaw(text, like=(ENGLISH,), in_world=world) == "empty"


@pytest.mark.parametrize("text", [*REFUSALS, "I cannot", "As an AI, I think so.", "Sure! Here is a list:", CHINESE])
def test_the_assistant_may_refuse_speak_as_itself_and_choose_its_language(text: str) -> None:
    assert find_flaw(text, like=(ENGLISH,), in_world=False) is None


def test_a_refusal_counts_more_than_its_repetition() -> None:
    assert in_world("I'm sorry, but I can't assist with that. This is not something that I do. " * 3) == "refusal"


# Properties ------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from([
    "<think>", "</think>", "<THINKING>", "Doctor:", "the nurse: ", "**Nurse**:", "Doctor (a): ", "\n", " ", ". ", "。", "...", "no ", "a",
    "ab ", "I'm sorry, ", "but I can't ", "assist with that", "As an AI, I ", "Sure! ", "Here is ", "我无法", "提供", "信息", "é", "İ", "ß",
    "ſ", "🙂", "-", '"', ".\" ",
])  # fmt: skip
PHRASES = st.lists(PIECES, max_size=6).map("".join)
LOOPS = st.builds(lambda head, phrase, times, end: head + phrase * times + end, st.text(), PHRASES, st.integers(0, 60), st.text())
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join), LOOPS)
NAMES = st.lists(st.sampled_from([*SPEAKERS, "", " ", "医生", "a", "no"]), max_size=4)


@settings(max_examples=400)
@given(text=TEXTS, speakers=NAMES)
@example(text="Doctor: <think>a</think>Doctor: b</think>", speakers=["Doctor"])
@example(text=("x" + " a" * 40 + ". ") * 6, speakers=[])
def test_clean_returns_a_stretch_of_the_text_that_it_leaves_as_it_is(text: str, speakers: list[str]) -> None:
    cleaned, cuts = clean(text, speakers)
    assert cleaned in text
    assert (cleaned == text.strip()) == (cuts == ())
    assert len(set(cuts)) == len(cuts)
    assert clean(cleaned, speakers) == (cleaned, ())


@settings(max_examples=300)
@given(text=TEXTS, like=TEXTS, world=st.booleans())
def test_find_flaw_answers_any_text_and_the_same_each_time(text: str, like: str, world: bool) -> None:
    found = find_flaw(text, like=(like,), in_world=world)
    assert found in (None, "refusal", "assistant", "loop", "language", "empty")
    assert find_flaw(text, like=(like,), in_world=world) == found
    if not world:
        assert found in (None, "loop", "empty")


@given(refusal=st.sampled_from(REFUSALS), more=st.text(max_size=500))
def test_what_follows_a_refusal_makes_it_no_better(refusal: str, more: str) -> None:
    assert in_world(refusal + "\n" + more) == "refusal"


@given(text=st.text())
def test_the_flaw_does_not_depend_on_white_space_at_the_ends(text: str) -> None:
    assert in_world(f" \n{text.strip()}\t ") == in_world(text.strip())


def steps(text: str) -> int:
    """Return how many lines of Python it takes to clean and judge a text."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        cleaned, cuts = clean(text, SPEAKERS)
        find_flaw(cleaned, like=(text,), in_world=True, cuts=cuts)
        find_flaw(text, like=(ENGLISH,), in_world=True)
    finally:
        sys.settrace(before)
    return count


HOSTILE = [
    "a", " a", "ab", "-", "\n", ".", ". ", "no, ", "\n\n ", "<think>", "</think>", "<think></think>", "x</think>", "Doctor:", "\nDoctor",
    "Doctor (", "*", "**(", '"', "“", "I can't ", "I cannot really ", "i , ", "I'm sorry, but ", "sorry ", "as an ai ", "here is ",
    "note: this ", "我无法提供", "leider ", "(a", "a.b", "1. ", "...", "I won't provide ", "I can't write a-", "'", "but ",
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_texts_take_linear_time(piece: str) -> None:
    # The steps of Python code are counted. What a pattern does within one step is bounded by the time that this test may take: where a
    # pattern tried a hundred thousand characters in quadratic time, this would run for minutes.
    short, long = (piece * (size // len(piece)) for size in (1_000, 4_000))
    assert steps(long) < 6 * steps(short) + 200
    huge = piece * (100_000 // len(piece)) + "x: y"
    find_flaw(clean(huge, SPEAKERS)[0], like=(huge,), in_world=True)
    find_flaw(huge, like=(ENGLISH,), in_world=True)


def test_nested_loops_take_linear_time() -> None:
    text = "b"
    while len(text) < 20_000:
        text = text * 5 + "c"
    assert steps(text) < 20 * len(text)


def test_random_words_have_no_flaw() -> None:
    words = ["the", "doctor", "goes", "sees", "an", "old", "man", "home", "and", "says", "nothing", "to", "him", "again"]
    text = " ".join(random.Random(7).choices(words, k=3_000))
    assert clean(text, SPEAKERS) == (text, ())
    assert in_world(text) is None
