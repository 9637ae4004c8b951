"""A server's ordinary tokens: words that are one token each wherever they stand, and counting with its tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headway.probe.asking import Server
    from headway.probe.nouns import Endpoint

#: How many of a server's tokens are looked at; about one in three is a plain word.
_LOOKED_AT = 8192
#: Ids that are ordinary tokens in the vocabularies of 32,000 and more: special ones stand at either end.
_ORDINARY = (1_000, 30_000)
#: One token each in the usual vocabularies, where a server has no tokenizer to ask.
_WORDS = """the and for that with this from have not are was were will can all any one two time year people way day man
world life hand part child eye woman place work week case point company number group problem fact water money story
month book word business issue side kind head house service friend power hour game line end member law car city name
team minute idea body back face others level office door health person art war history party result change morning
reason research girl guy moment air teacher force education"""
_PLAIN = tuple(_WORDS.split())
#: Stands between tokens whose texts are asked for together: no token has it inside.
_MARK = "\n#=#\n"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens to make prompts of.

    Attributes:
        ids: (n,) token ids; −1 where they are not known.
        words: their texts, each with the blank before it.
        opening: those that are one token at the start of a text too, where no blank comes before.
        exact: whether a text of n of these words was seen to be n tokens.
    """

    ids: Any
    words: tuple[str, ...]
    opening: tuple[str, ...]
    exact: bool

    def text(self, numbers: Sequence[int]) -> str:
        """Return a text of as many tokens as numbers, for the start of a message."""
        if not len(numbers):
            return ""
        return self.opening[numbers[0] % len(self.opening)] + "".join(self.words[each] for each in numbers[1:])


class Tokenizer:
    """A server's own tokenizer, by the routes of its engine."""

    def __init__(self, server: Server, endpoint: Endpoint) -> None:
        """Note whom to ask, and for which model."""
        self._server, self._engine, self._model = server, endpoint.engine, endpoint.model

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, special ones in it read as such, none added; empty where it cannot tell."""
        asked: dict[str, Any] = {"model": self._model, "prompt": text, "add_special_tokens": False}
        if self._engine == "llama-cpp":
            asked = {"content": text, "add_special": False, "parse_special": True}
        return _tokens(self._server.post("/tokenize", asked))

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the tokens of a conversation as the server's template writes it; empty where it cannot tell."""
        if self._engine == "llama-cpp":
            return self.ids(str(self._server.post("/apply-template", {"messages": messages}).get("prompt") or ""))
        if self._engine != "vllm":
            return []
        asked = {"model": self._model, "messages": messages, "add_generation_prompt": True}
        return _tokens(self._server.post("/tokenize", asked))

    def text(self, ids: list[int]) -> str:
        """Return the text of tokens; empty where it cannot tell."""
        said = self._server.post("/detokenize", {"model": self._model, "tokens": ids})
        return str(said.get("content") or said.get("prompt") or said.get("text") or "")

    def size(self) -> int:
        """Return how many tokens it has, at least."""
        for entry in self._server.told("/v1/models").get("data") or ():
            if entry.get("id") == self._model and (entry.get("meta") or {}).get("n_vocab"):
                return int(entry["meta"]["n_vocab"])
        return _ORDINARY[1]


def _tokens(said: dict[str, Any]) -> list[int]:
    """Return the tokens a server told; empty where they are no list of ids."""
    found = said.get("tokens")
    return found if isinstance(found, list) and all(type(each) is int and 0 <= each < 2**31 for each in found) else []


def vocabulary(tokenizer: Tokenizer, *, ids: bool) -> Vocabulary:
    """Return tokens to make prompts of: looked up with the server's tokenizer, else by what is usual.

    Args:
        tokenizer: the server's.
        ids: whether prompts may be lists of ids.
    """
    mark = tokenizer.ids(_MARK)
    found = _looked_up(tokenizer, mark) if mark else None
    if found is not None:
        return found
    if ids:
        usual = np.arange(*_ORDINARY)
        return Vocabulary(
            usual, tuple(" " + _PLAIN[i % len(_PLAIN)] for i in range(len(usual))), tuple(_PLAIN), exact=False
        )
    return Vocabulary(np.full(len(_PLAIN), -1), tuple(" " + word for word in _PLAIN), tuple(_PLAIN), exact=False)


def _looked_up(tokenizer: Tokenizer, mark: list[int]) -> Vocabulary | None:
    """Take the tokens that are a blank and small letters: between marks, so that each can be told."""
    size = tokenizer.size()
    looked = np.unique(np.linspace(min(_ORDINARY[0], size // 4), size - 1, _LOOKED_AT).astype(int))
    texts = _texts(tokenizer, looked.tolist(), mark)
    pairs = [
        (token, word) for token, word in zip(looked.tolist(), texts, strict=False) if re.fullmatch(" [a-z]{2,}", word)
    ]
    if len(pairs) < len(_PLAIN):
        return None
    words = tuple(word for _, word in pairs)
    bare = [word[1:] for word in words[:1024]]
    known = set(_texts(tokenizer, tokenizer.ids("\n".join(bare)), mark))
    opening = tuple(word for word in bare if word in known)
    again = tokenizer.ids("x" + "".join(words))
    exact = bool(opening) and again[-len(pairs) :] == [token for token, _ in pairs]
    return Vocabulary(np.array([token for token, _ in pairs]), words, opening or tuple(bare), exact=exact)


def _texts(tokenizer: Tokenizer, ids: list[int], mark: list[int]) -> list[str]:
    """Return the text of each token, none where the server does not tell them apart."""
    texts = tokenizer.text([token for each in ids for token in (each, *mark)]).split(_MARK)
    return texts[:-1] if len(texts) == len(ids) + 1 else []


@dataclass(frozen=True, slots=True)
class Frame:
    """What comes around the words of a prompt.

    Attributes:
        head_tokens: before them.
        tokens: before and after them.
        per_word: tokens of a word.
    """

    head_tokens: int = 0
    tokens: int = 0
    per_word: float = 1.0


def chat_frame(tokenizer: Tokenizer, known: Vocabulary) -> Frame | None:
    """Return what a template puts around one message, None where the server does not tell."""
    numbers = list(range(1, 33))
    ids = tokenizer.chat_ids([{"role": "user", "content": known.text(numbers)}])
    body = [int(known.ids[each]) for each in numbers[1:]]
    at = next((i for i in range(len(ids)) if ids[i : i + len(body)] == body), 0)
    return Frame(head_tokens=at - 1, tokens=len(ids) - len(numbers)) if at else None


def estimated_frame(server: Server, endpoint: Endpoint, known: Vocabulary, path: str) -> Frame:
    """Return the frame by the usage blocks of two short requests.

    Raises:
        InputError: the server does not say how long prompts were.
    """
    sizes = (32, 160)
    counted: list[int] = []
    for size in sizes:
        text = known.text([each % len(known.words) for each in range(size)])
        content = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
        answer = server.post(path, {"model": endpoint.model, "max_tokens": 1, **content}, needed=True)
        said = answer.get("usage")
        if not isinstance(said, dict) or not isinstance(said.get("prompt_tokens"), int):
            raise InputError(
                "it has no tokenizer to ask, and does not say how long prompts are",
                file=endpoint.url,
                hint="prompts of known length cannot be made for it",
            )
        counted.append(said["prompt_tokens"])
    per_word = (counted[1] - counted[0]) / (sizes[1] - sizes[0])
    around = round(counted[0] - per_word * sizes[0])
    return Frame(head_tokens=around, tokens=around, per_word=max(per_word, 0.1))
