import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.conversations.language import LANGUAGES, NO_LANGUAGE, find_other_languages, load_identifier

TEXTS = {
    "en": "Could you please explain how the weather changes when the wind comes from the north in winter?",
    "de": "Könntest du mir bitte erklären, wie sich das Wetter ändert, wenn der Wind im Winter aus dem Norden kommt?",
    "fr": "Pourrais-tu m'expliquer comment le temps change quand le vent vient du nord pendant l'hiver ?",
    "ru": "Объясни, пожалуйста, как меняется погода, когда зимой дует северный ветер и падает снег.",
    "zh": "请你解释一下冬天刮北风的时候天气会怎么变化以及为什么有时候会下雪有时候只是很冷而已。",
    "ja": "冬に北風が吹くとき、天気がどのように変わるのか、なぜ雪が降ることがあるのかを説明してください。",
    "ar": "من فضلك اشرح لي كيف يتغير الطقس في الشتاء عندما تأتي الرياح من الشمال ولماذا يسقط الثلج أحيانا.",
}

CODE = "for (i = 0; i < n; i++) { a[i] = b[i] * c[i]; }\nif (a[0] == x0ff) { ptr->next = NULL; }\n" * 4


@pytest.mark.parametrize("language", TEXTS)
def test_other_language_text_in_each_language_is_kept_for_its_code_alone(language):
    texts = list(TEXTS.values())
    assert find_other_languages(texts, [language]) == [code != language for code in TEXTS]


def test_other_language_several_codes_keep_all_of_them():
    assert find_other_languages([TEXTS["de"], TEXTS["fr"], TEXTS["ru"]], ["fr", "de"]) == [False, False, True]


def test_other_language_too_short_or_no_language_is_kept():
    texts = ["", "Ja!", "42 + 17 = 59", "🙂" * 50, "1.5, 2.5, 3.5, 4.5, 5.5\n" * 30, CODE]
    assert find_other_languages(texts, ["zh"]) == [False] * len(texts)


def test_other_language_long_text_is_told_by_beginning_and_end():
    numbers = "1 2 3 4 5 6 7 8 9 " * 60
    texts = [TEXTS["de"] + numbers, numbers + TEXTS["de"], numbers + TEXTS["de"] + numbers]
    assert find_other_languages(texts, ["en"]) == [True, True, False]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=200), max_size=5))
def test_other_language_any_texts_equal_those_of_each_alone(texts):
    found = find_other_languages(texts, ["en"])
    assert found == [find_other_languages([text], ["en"])[0] for text in texts]


def test_languages_are_the_two_letter_codes_of_the_library():
    assert {*load_identifier().labels} == {*LANGUAGES, NO_LANGUAGE}
    assert all(len(code) == 2 for code in LANGUAGES)
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    whole = LanguageIdentifier.from_model_file(MODEL_FILE).labels
    assert {code for code in whole if len(code) == 2} == LANGUAGES


def test_language_module_imported_loads_no_library():
    script = "import sys, stages.conversations.language; sys.exit('py3langid' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
