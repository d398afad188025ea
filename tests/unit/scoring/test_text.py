"""Which texts a question finds by its words: forms of letters, compounds, names, scripts, languages."""

from __future__ import annotations

import pytest

from agent_memory.scoring import MemoryIndex, languages

FOUND = [
    # accents and forms of letters
    ("french", "Elle habite à Besançon.", "Besancon"),
    ("english", "We met at the café in São Paulo.", "cafe Sao"),
    ("english", "München is where she lives.", "Munchen"),
    ("english", "Zoe\u0308 moved to Malmo\u0308.", "Malmö"),
    ("english", "The café in the old town.", "cafe\u0301"),
    ("english", "予約番号はＡＢＣ１２３です", "ABC123"),
    ("english", "Năm 2023 tôi sống ở Hà Nội với vợ", "song o Ha Noi"),
    ("german", "Die Straße ist lang", "strasse"),
    # compounds, numbers, emoji
    ("english", "The function parse_user_input raises an error.", "user input"),
    ("english", "getUserName returns None", "user name"),
    ("english", "An HTMLParser was built", "parser"),
    ("english", "Write to ann@example.com", "example"),
    ("english", "Upgrade to v2.3.1 on Friday", "2.3.1"),
    ("english", "Upgrade to 2.3.1 on Friday", "v2.3.1"),
    ("english", "The rent is 1,200 euros.", "1200"),
    ("english", "The rent is 1.200 euros.", "1200"),
    ("english", "The rent is 1200 euros.", "1,200"),
    ("english", "I like the e-mail client.", "email"),
    ("english", "I like the email client.", "e-mail"),
    ("english", "Her favourite is 🍕", "🍕"),
    ("english", "She waved 👋🏽 at him", "👋"),
    ("english", "The year ٢٠٢٣ was good", "2023"),
    # names among the stop words
    ("english", "The wedding is in May.", "What happens in May?"),
    ("english", "The wedding is in May.", "may"),
    ("english", "She moved to the US.", "US"),
    ("english", "Will lives in Oslo.", "Will"),
    ("english", "Plan D was chosen.", "D"),
    ("english", "O'Brien paid", "OBrien"),
    ("french", "l'homme est grand", "homme"),
    # scripts
    ("english", "사용자는 서울에 살고 있습니다", "서울"),
    ("english", "انتقلت سارة إلى المدينة", "مدينة"),
    ("english", "مُحَمَّد يسكن هنا", "محمد"),
    ("english", "היא גרה בירושלים", "ירושלים"),
    ("english", "वह किताबें पढ़ता है", "किताब"),
    ("english", "Ahmet İstanbul'da oturuyor.", "istanbul"),
    ("english", "她喜欢喝绿茶", "绿茶"),
    ("english", "她喜欢喝绿茶", "茶"),
    ("english", "ฉันชอบดื่มชาเขียวทุกวัน", "ชาเขียว"),
    ("english", "Она живёт в Москве", "Москва живет"),
    ("english", "Ζει στην Αθήνα", "αθηνα"),
]  # fmt: skip

NOT_FOUND = [
    ("english", "What may I do?", "In which May was it?"),  # a stop word in small letters is no name
    ("english", "It is his.", "IT"),
    ("english", "I am what I am", "I"),
]


def find(language: str, text: str, question: str) -> list[str]:
    index = MemoryIndex(1, language=language)
    index.upsert(["wanted", "one", "two"], texts=[text, "zzz unrelated text", "another thing entirely"])
    return list(index.search(text=question, k=3).ids)


@pytest.mark.parametrize(("language", "text", "question"), FOUND)
def test_it_is_found(language, text, question):
    assert "wanted" in find(language, text, question)


@pytest.mark.parametrize(("language", "text", "question"), NOT_FOUND)
def test_it_is_not_found(language, text, question):
    assert "wanted" not in find(language, text, question)


@pytest.mark.parametrize("language", languages())
def test_every_language_finds_its_own_words(language):
    assert find(language, "Oslo 2023 über naïve Αθήνα Москва 서울", "oslo") == ["wanted"]


def test_an_exact_tone_ranks_first_in_vietnamese():
    index = MemoryIndex(1)
    index.upsert(["ghost", "but"], texts=["con ma ở chợ, đã lâu", "nhưng mà ở chợ, đã lâu"])
    assert index.search(text="mà ở chợ", k=1).ids == ["but"]
    assert sorted(index.search(text="cho", k=2).ids) == ["but", "ghost"]


def test_further_terms_of_a_compound_do_not_make_a_text_longer():
    index = MemoryIndex(1)
    index.upsert(["plain", "compound"], texts=["river stone", "river parse_user_input_of_it"])
    found = index.search(text="river", k=2)
    assert found.scores[0] == pytest.approx(found.scores[1])
