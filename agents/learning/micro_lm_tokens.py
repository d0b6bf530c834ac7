"""How a small language model sees a task: prompts and answers as token ids.

Owns the vocabulary (byte-level BPE pieces for text, tokens for known values, paths, slots and forms) and both
directions of the conversion. Text of a user can never become a slot token: those ids lie outside of the BPE's.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shoal.agents.learning.forms import read_number
from shoal.agents.learning.records import Leaf, general_path
from shoal.agents.learning.slots import Prompt, Ref, Slot, SlotRules

PAD, BOS, SEP, EOS, GLUE = "<pad>", "<bos>", "<sep>", "<eos>", "<glue>"
NEGATIVE, ZERO, ONE, VOWEL, PLURAL, MORE, LESS = (
    "<neg>",
    "<zero>",
    "<one>",
    "<vowel>",
    "<plural>",
    "<more>",
    "<less>",
)
STRANGE_PATH = "<path?>"
_FIXED = (PAD, BOS, SEP, EOS, GLUE, NEGATIVE, ZERO, ONE, VOWEL, PLURAL, MORE, LESS, STRANGE_PATH)
#: slots without a name of their own
GENERIC = 24
#: a value or slot name needs this many sightings to have a token
MIN_TOKEN = 3
#: a field tells kinds of records apart where at most this share of its values stands there once or twice
_MOST_RARE = 0.01
#: literal text of one value, in characters, that the model reads
MAX_LITERAL = 600
_WORDS = re.compile(r"[^\W_]+")
_VOWEL = re.compile(r"[aeiouAEIOU]|8|1[18](?!\d)")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt for the model.

    Attributes:
        ids: `<bos>` ... `<sep>`.
        tokens: slot by the id that stands for it in this prompt.
        strange: what the training data never had: paths, values that steer the wording, words of free text.
        foreign: it is a record of a kind that training never had: one of `Vocabulary.kinds` has another value.
    """

    ids: list[int]
    tokens: Mapping[int, Slot]
    strange: tuple[str, ...]
    foreign: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token ids of one task: those of the BPE first, then `special`."""

    bpe: Tokenizer
    special: Mapping[str, int]
    words: frozenset[str]
    #: literal text that all prompts share, which the model need not read
    constant: frozenset[str]
    #: paths whose literal values are open, so that a new value is nothing strange
    open_paths: frozenset[str]
    #: paths that nearly every prompt has
    usual: frozenset[str]
    #: of those, the ones that say what kind of record it is (a service, a type): each has one of a few values, again and again
    kinds: frozenset[str]
    #: tokens of the longest answer in training
    longest: int
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return int(self.bpe.get_vocab_size()) + len(self.special)

    def text_ids(self, text: str) -> list[int]:
        ids: list[int] = self.bpe.encode(text, add_special_tokens=False).ids
        return ids

    def encode_prompt(
        self,
        prompt: Prompt,
        slots: Sequence[Slot],
        vary: random.Random | None = None,
        carried: frozenset[str] = frozenset(),
    ) -> Encoded:
        """The prompt's ids. `vary` hides names and known values at random, so that the model copes without them;
        values only of slots `carried` by the answer that is to be learnt: no other could be written unseen."""
        by_leaf = {id(slot.leaf): slot for slot in slots}
        ids = [self.special[BOS]]
        tokens: dict[int, Slot] = {}
        strange: list[str] = []
        foreign = False
        before: Slot | None = None
        if not prompt.free:
            there = {general_path(leaf.path) for leaf in prompt.leaves}
            strange += [f"no {path}" for path in sorted(self.usual - there)]
        elif self.usual:
            strange.append("no record")
        for part in prompt.parts:
            if vary is not None and vary.random() < 0.005:
                ids += self._distraction(vary)
            if isinstance(part, str):
                if part not in self.constant:
                    ids += self.text_ids(" " + part[:MAX_LITERAL])
                    strange += [w for w in _WORDS.findall(part.lower()) if w not in self.words]
            elif (slot := by_leaf.get(id(part))) is not None:
                ids += self._slot(slot, tokens, strange, vary, slot.name in carried)
                ids += self._features(slot, before)
                before = slot
            else:
                ids += self._literal(part, strange, vary)
                foreign = foreign or self._foreign(part)
        ids.append(self.special[SEP])
        return Encoded(ids, tokens, tuple(strange), foreign)

    def _foreign(self, leaf: Leaf) -> bool:
        path = general_path(leaf.path)
        return path in self.kinds and f"={path}={leaf.text}" not in self.special

    def _distraction(self, vary: random.Random) -> list[int]:
        """Something that does not belong here: the model learns to leave it out."""
        pieces = int(self.bpe.get_vocab_size())
        return [self.special[STRANGE_PATH], *(vary.randrange(pieces) for _ in range(vary.randrange(1, 4)))]

    def _slot(
        self,
        slot: Slot,
        tokens: dict[int, Slot],
        strange: list[str],
        vary: random.Random | None,
        carried: bool,
    ) -> list[int]:
        path = general_path(slot.leaf.path)
        ids: list[int] = []
        known = None if slot.required else self.special.get(f"={path}={slot.leaf.text}")
        if known is not None and not (vary is not None and carried and vary.random() < 0.3):
            ids.append(known)
        token = self.special.get(f"@{slot.name}")
        hidden = vary is not None and vary.random() < 0.04
        if token is None or hidden:
            ids.append(self.special.get(f"/{path}", self.special[STRANGE_PATH]))
            if f"/{path}" not in self.special:
                strange.append(path)
            free = [self.special[f"@#{n}"] for n in range(GENERIC) if self.special[f"@#{n}"] not in tokens]
            if not free:
                strange += [f"more than {GENERIC} values"] * 100
                return ids
            token = free[0]
        tokens[token] = slot
        return [*ids, token]

    def _features(self, slot: Slot, before: Slot | None) -> list[int]:
        """What the wording around a value may depend on."""
        text = slot.leaf.text
        number = read_number(text)
        names = [VOWEL] if _VOWEL.match(text.lstrip("-")) else []
        if number is None:
            names += [PLURAL] if text.endswith("s") else []
        else:
            names += [NEGATIVE] if number.value < 0 else [ZERO] if number.value == 0 else []
            names += [ONE] if abs(number.value) == 1 else []
            other = read_number(before.leaf.text) if before is not None else None
            if other is not None and "[" not in slot.leaf.path and other.value != number.value:
                names.append(MORE if number.value > other.value else LESS)
        return [self.special[name] for name in names]

    def _literal(self, leaf: Leaf, strange: list[str], vary: random.Random | None) -> list[int]:
        path = general_path(leaf.path)
        known = self.special.get(f"={path}={leaf.text}")
        if known is not None and not (vary is not None and vary.random() < 0.03):
            return [known]
        if f"/{path}" not in self.special:
            strange.append(path)
        elif known is None and path not in self.open_paths:
            strange.append(f"{path}={leaf.text[:40]}")
        head = self.special.get(f"/{path}", self.special[STRANGE_PATH])
        return [head, *self.text_ids(" " + leaf.text[:MAX_LITERAL])]

    def encode_answer(self, parts: Sequence[str | Ref], encoded: Encoded) -> list[int]:
        """The answer's ids up to and with `<eos>`. A value has a space before it unless `<glue>` says otherwise."""
        token_of = {slot.name: token for token, slot in encoded.tokens.items()}
        ids: list[int] = []
        spaced = True  # the text so far ends where a word may begin: a space that is not yet written
        for part in parts:
            if isinstance(part, str):
                text = (" " if spaced and not ids else "") + part
                spaced = text.endswith(" ")
                ids += self.text_ids(text[:-1] if spaced else text)
                continue
            if not spaced:
                ids.append(self.special[GLUE])
            slot = encoded.tokens[token_of[part.slot]]
            if part.form != slot.order[0] and f"^{part.form}" in self.special:
                ids.append(self.special[f"^{part.form}"])
            ids.append(token_of[part.slot])
            spaced = False
        return [*ids, self.special[EOS]]

    def decode_answer(self, ids: Sequence[int], encoded: Encoded) -> list[str | Ref]:
        """The parts that `ids` (without `<eos>`) stand for. Ids that mean nothing in an answer are left out."""
        parts: list[str | Ref] = []
        buffer: list[int] = []
        form, glue = "", False

        def flush(end: str) -> None:
            text = self.bpe.decode(buffer) + end if buffer else end
            buffer.clear()
            if text:
                parts.append(text if parts else text.lstrip(" "))

        limit = int(self.bpe.get_vocab_size())
        for token in ids:
            if token < limit:
                buffer.append(token)
            elif (slot := encoded.tokens.get(token)) is not None:
                flush(" " if not glue and (parts or buffer) else "")
                parts.append(Ref(slot.name, form or slot.order[0]))
                form, glue = "", False
            else:
                name = self.names[token]
                form = name[1:] if name.startswith("^") else form
                glue = glue or name == GLUE
        flush("")
        return [part for part in parts if part]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `vocabulary.json`."""
        self.bpe.save(str(folder / "tokenizer.json"))
        data = {
            "special": list(self.special),
            "words": sorted(self.words),
            "constant": sorted(self.constant),
            "open_paths": sorted(self.open_paths),
            "usual": sorted(self.usual),
            "kinds": sorted(self.kinds),
            "longest": self.longest,
        }
        (folder / "vocabulary.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Raises OSError, ValueError, KeyError or TypeError where the files are not what `save` wrote."""
        bpe = Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        data: dict[str, Any] = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        sets = {name: frozenset(data[name]) for name in ("words", "constant", "open_paths", "usual")}
        # one that was written before kinds were told apart
        sets["kinds"] = frozenset(data.get("kinds", sets["usual"] - sets["open_paths"]))
        return _assemble(bpe, data["special"], sets, int(data["longest"]))


def _assemble(
    bpe: Tokenizer, special: Sequence[str], sets: Mapping[str, frozenset[str]], longest: int
) -> Vocabulary:
    start = int(bpe.get_vocab_size())
    ids = {name: start + n for n, name in enumerate(special)}
    return Vocabulary(
        bpe=bpe,
        special=ids,
        words=sets["words"],
        constant=sets["constant"],
        open_paths=sets["open_paths"],
        usual=sets["usual"],
        kinds=sets["kinds"],
        longest=longest,
        names={number: name for name, number in ids.items()},
    )


def build_vocabulary(
    pairs: Sequence[tuple[Prompt, Sequence[Slot], Sequence[str | Ref]]], rules: SlotRules, pieces: int
) -> Vocabulary:
    """The vocabulary of training pairs (prompt, its slots, answer with slots), with at most `pieces` BPE pieces."""
    literals: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    values: Counter[tuple[str, str]] = Counter()
    steering: Counter[tuple[str, str]] = Counter()
    names: Counter[str] = Counter()
    texts: list[str] = []
    used: set[str] = set()
    prompts_with: Counter[str] = Counter()
    for prompt, slots, answer in pairs:
        literals.update({part for part in prompt.parts if isinstance(part, str)})
        prompts_with.update({general_path(leaf.path) for leaf in prompt.leaves} if not prompt.free else ())
        mine = {id(slot.leaf): slot for slot in slots}
        for leaf in prompt.leaves:
            path = general_path(leaf.path)
            paths[path] += 1
            values[path, leaf.text] += 1
            # the wording around a value that is always carried must not depend on which value it is: new ones come
            if (slot := mine.get(id(leaf))) is None or not slot.required:
                steering[path, leaf.text] += 1
            if slot is None:
                texts.append(" " + leaf.text[:MAX_LITERAL])
        names.update(slot.name for slot in slots if slot.label)
        texts += [" " + part.strip(" ") for part in answer if isinstance(part, str)]
        used.update(part.form for part in answer if isinstance(part, Ref))
    constant = {text for text, n in literals.items() if n >= 0.99 * len(pairs)}
    texts += [" " + text[:MAX_LITERAL] for text in literals if text not in constant]
    single = Counter(path for (path, _), n in values.items() if n == 1)
    different = Counter(path for path, _ in values)
    open_paths = {path for path in paths if single[path] > 0.05 * paths[path] and different[path] > 20}
    known = [
        f"={path}={text}"
        for (path, text), n in sorted(steering.items())
        if n >= MIN_TOKEN and path not in open_paths
    ]
    usual = {path for path, n in prompts_with.items() if n >= 0.98 * len(pairs)}
    again = Counter[str]()
    for (path, _), n in steering.items():
        again[path] += n if n >= MIN_TOKEN else 0
    kinds = {path for path in usual - open_paths if again[path] >= (1 - _MOST_RARE) * paths[path]}
    special = [
        *_FIXED,
        *(f"@#{n}" for n in range(GENERIC)),
        *(f"@{name}" for name, n in sorted(names.items()) if n >= MIN_TOKEN),
        *(f"^{form}" for form in sorted(used)),
        *(f"/{path}" for path in sorted(paths)),
        *known,
    ]
    words = {word for text in literals for word in _WORDS.findall(text.lower())}
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=pieces,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    sets = {
        "words": frozenset(words),
        "constant": frozenset(constant),
        "open_paths": frozenset(open_paths),
        "usual": frozenset(usual),
        "kinds": frozenset(kinds),
    }
    vocabulary = _assemble(bpe, special, sets, 0)
    lengths = (
        len(vocabulary.encode_answer(answer, vocabulary.encode_prompt(prompt, slots)))
        for prompt, slots, answer in pairs
        if len(slots) <= GENERIC
    )
    return replace(vocabulary, longest=max(lengths, default=0))
