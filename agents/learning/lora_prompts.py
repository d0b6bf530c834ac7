"""How a chat request becomes a pretrained model's tokens, and an answer the tokens after them.

Uses the tokenizer's own chat template; a plain one where it has none, or where its own refuses the messages of the request. What a
message says can never become a control token. Training and serving share this module, so they see the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from shoal.agents.traces.chat import ChatRequest, text_of
from shoal.errors import DataError

#: for a tokenizer without a template
PLAIN_TEMPLATE = (
    "{% if tools %}Functions:\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}\n{% endif %}"
    "{% for message in messages %}{{ message['role'] | capitalize }}:\n{{ message['content'] }}\n"
    "{% for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}\n{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:\n{% endif %}"
)
#: what templates that name today's date are told, so that the same request gives the same tokens on any day
_DATE = "1 January 2026"
#: what is given to a template besides messages and tools; those that do not know a name ignore it
_SETTINGS: dict[str, Any] = {
    "enable_thinking": False,
    "date_string": _DATE,
    "strftime_now": lambda form: _DATE,
}


@dataclass(frozen=True)
class Prompter:
    """Turns requests and answers into tokens.

    Attributes:
        tokenizer: the base's.
        template: the chat template; the tokenizer's own or `PLAIN_TEMPLATE`.
    """

    tokenizer: PreTrainedTokenizerFast
    template: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Prompter:
        """Raises DataError where the tokenizer has no token that ends an answer."""
        if tokenizer.eos_token_id is None:
            raise DataError(
                "The base's tokenizer names no end token (`eos_token`), and a model must be able to end its answer.",
                remedy="Name one in the base's tokenizer_config.json.",
            )
        own = tokenizer.chat_template
        return cls(tokenizer, own if isinstance(own, str) and own else PLAIN_TEMPLATE)

    def prompt(self, request: ChatRequest) -> list[int]:
        """The request's tokens, up to where the answer begins."""
        messages = [_plain(m) for m in request.messages]
        tools = [dict(t) for t in request.tools] or None
        for said in (messages, _alternating(messages)):
            try:
                return self._render(said, tools, self.template)
            except (TemplateError, TypeError, KeyError, ValueError):
                continue
        return self._render(messages, tools, PLAIN_TEMPLATE)

    def _render(self, messages: Sequence[Mapping[str, Any]], tools: Any, template: str) -> list[int]:
        ids = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            tools=tools,
            chat_template=template,
            add_generation_prompt=True,
            sanitize_control_tokens=True,
            return_dict=False,
            **_SETTINGS,
        )
        return [int(n) for n in ids]

    def answer(self, text: str) -> list[int]:
        """The answer's tokens and the end token."""
        ids = self._ids(text)
        if not text.startswith(" ") and self._pieces(ids[:1]).startswith("▁"):
            ids = next((bare for bare in self._without_space(text, ids) if self.text(bare) == text), ids)
        return [*ids, self.end]

    def _without_space(self, text: str, ids: Sequence[int]) -> Iterator[list[int]]:
        """Ways to write what SentencePiece would put a space before; an answer has none, and no rule allows one."""
        if self._pieces(ids[:1]) == "▁":
            yield list(ids[1:])
        for before in ("\n", "\t", "|"):
            first, whole = self._ids(before), self._ids(before + text)
            if whole[: len(first)] == first:
                yield whole[len(first) :]

    def _pieces(self, ids: Sequence[int]) -> str:
        return "".join(self.tokenizer.convert_ids_to_tokens(list(ids)))

    def _ids(self, text: str) -> list[int]:
        return [
            int(n)
            for n in self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ]

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(
            self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def end(self) -> int:
        """The token that ends an answer: what the template puts after one, if that is a token of its own, else the end of text."""
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int)
        marker = "answer marker"
        said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": marker}]
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    said, tokenize=False, chat_template=self.template, **_SETTINGS
                )
            )
        except (TemplateError, TypeError, KeyError, ValueError):
            return eos
        after = text.rpartition(marker)[2].strip()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        controls = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        return int(ids[0]) if ids and ids[0] in controls else eos

    @property
    def ends(self) -> list[int]:
        """All tokens after which nothing more is written."""
        eos = self.tokenizer.eos_token_id
        return sorted({self.end, int(eos)}) if isinstance(eos, int) else [self.end]

    @property
    def pad(self) -> int:
        found = self.tokenizer.pad_token_id
        return int(found) if isinstance(found, int) else self.end


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates read it: text content, and calls with arguments as an object."""
    out: dict[str, Any] = {"role": str(message["role"]), "content": text_of(message)}
    if out["role"] == "developer":
        out["role"] = "system"
    if message.get("tool_calls"):
        out["tool_calls"] = [_plain_call(call) for call in message["tool_calls"]]
    if message.get("tool_call_id"):
        out["tool_call_id"] = str(message["tool_call_id"])
    return out


def _plain_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments or "{}")
        except ValueError:
            function["arguments"] = {"text": arguments}
    return {"id": str(call.get("id") or ""), "type": "function", "function": function}


def _alternating(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For templates that know only user and assistant by turns: everything else is said in the user's turns."""
    out: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        content = str(message["content"])
        if message.get("tool_calls"):
            content = "\n".join(
                [content, *(json.dumps(c["function"]) for c in message["tool_calls"])]
            ).strip()
        if out and out[-1]["role"] == role:
            out[-1]["content"] += f"\n\n{content}"
        else:
            out.append({"role": role, "content": content})
    if out and out[0]["role"] == "assistant":
        out.insert(0, {"role": "user", "content": ""})
    return out
