"""In which script and, roughly, in which language a text is written.

Owns a small table of function words; decides only where the evidence is plain, so that a short or mixed text counts as
undecided rather than as foreign. Knows nothing of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

#: words that are frequent in one language and rare in the others of this table
_FUNCTION_WORDS: Mapping[str, str] = {
    "en": "the and is are was of to in that it for you with have this not what how can my i do does please would"
    " there your from which when where why who be has been will should could get on at if they we as so an or but by",
    "de": "der die das und ist nicht ein eine einen ich mit auf für wie kann mein meine meiner wird sind bitte auch von zu"
    " den dem wo warum habe haben mir mich sie wir aber oder wenn im am",
    "fr": "le la les et est une des je vous pas pour dans que qui avec mon ma mes comment puis avez suis du au ce cette"
    " où pourquoi sur nous être ai votre il elle",
    "es": "el los las es una por para que con mi mis cómo puedo no en del al se está qué dónde cuándo tengo quiero su"
    " lo como más pero hay y usted",
    "it": "il gli è una per che con mio mia come posso non di del della nel sono dove perché quando ho voglio si alla"
    " lo questo anche più ma",
    "pt": "o os as é uma para que com meu minha como posso não em do da no na está onde por quando tenho quero se"
    " mais mas você ao",
    "nl": "de het een en is niet ik met op voor hoe kan mijn wordt zijn van te dat waar waarom heb naar ook maar bij"
    " wat u je deze",
    "pl": "nie jest się na do jak mogę moja mój czy to że w z i co gdzie dlaczego mam chcę są ale po",
    "sv": "och är inte ett en jag med på för hur kan min mitt som det att var varför har till vill men om av",
    "tr": "bir ve bu için nasıl mi mı ne var değil ben benim ile çok neden nerede da de",
}
_LANGUAGES_OF: dict[str, tuple[str, ...]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF[_word] = (*_LANGUAGES_OF.get(_word, ()), _language)

_SCRIPTS = (
    ("cyrillic", re.compile(r"[\u0400-\u04ff]")),
    ("greek", re.compile(r"[\u0370-\u03ff]")),
    ("arabic", re.compile(r"[\u0600-\u06ff]")),
    ("hebrew", re.compile(r"[\u0590-\u05ff]")),
    ("devanagari", re.compile(r"[\u0900-\u097f]")),
    ("thai", re.compile(r"[\u0e00-\u0e7f]")),
    ("hangul", re.compile(r"[\uac00-\ud7af]")),
    ("kana", re.compile(r"[\u3040-\u30ff]")),
    ("han", re.compile(r"[\u4e00-\u9fff]")),
)
_WORD = re.compile(r"[^\W\d_]+")
_READ_CHARS = 1500
_MIN_HITS = 2
UNDECIDED = ""


def language_of(text: str) -> str:
    """A script (`cyrillic`, `han`, ...) or, for Latin letters, a language code; `""` where it cannot be told.

    Reads the first 1,500 characters. A language is named only if its function words are at least a fifth of all words
    and at least twice as many as those of any other language.
    """
    text = text[:_READ_CHARS]
    if not text.isascii():
        letters = sum(character.isalpha() for character in text)
        for name, pattern in _SCRIPTS:
            if letters and len(pattern.findall(text)) > 0.4 * letters:
                return name
    words = _WORD.findall(text.lower())
    hits: dict[str, float] = {}
    found = 0
    for word in words:
        languages = _LANGUAGES_OF.get(word)
        if languages:
            found += 1
            for language in languages:
                hits[language] = hits.get(language, 0.0) + 1.0
    if found < _MIN_HITS:
        return UNDECIDED
    best = max(hits, key=lambda language: (hits[language], language))
    second = max((count for language, count in hits.items() if language != best), default=0.0)
    if hits[best] < max(_MIN_HITS, 0.2 * len(words)) or hits[best] < 2 * second:
        return UNDECIDED
    return best
