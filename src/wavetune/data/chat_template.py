"""Dialogues as a tokenizer's chat template writes them, with the places of the answers in the text.

Templates are rendered in the environment of transformers itself, by every command alike, without torch.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

from wavetune.cpu_limit import within_cpu_seconds
from wavetune.data.examples import Turn
from wavetune.data.pieces import encode
from wavetune.errors import ConfigError, DataError, ModelError, first_line, nearest
from wavetune.machine_memory import within_memory

MARKER = "wavetune-answer"
REASONING = ("reasoning_content", "thinking", "reasoning")
_MOST_MADE = 1_000_000  # letters, and a hundred for each that is given
_SEVERAL, _KINDS_OF_BLANK = 3, 3
_MOST_CPU_S = 10.0  # for what takes milliseconds
_MOST_BYTES = 1 << 30  # of memory
ELSE = "or write dialogues with world.data.template.kind=instruction"
Messages = Sequence[Mapping[str, Any]]


class _EndlessError(ModelError):
    """A template that writes or computes without an end."""


class Span(NamedTuple):
    """Where in a text an answer stands, from `start` to `stop`, and its end of turn, from there to `end`."""

    start: int
    stop: int
    end: int


def source_of(tokenizer: Any, name: str | None = None, tools: bool = False) -> str:
    """The tokenizer's chat template: the one of that name, else the one for tools where there are some, or its default.

    Raises: ConfigError if there is none, or none of that name; ModelError if it is no text.
    """
    known = getattr(tokenizer, "chat_template", None)
    if not known:
        raise ConfigError(
            "template 'chat' needs a tokenizer with a chat template; use template 'instruction' or 'plain'"
        )
    known = {"default": known} if isinstance(known, str) else known
    if not isinstance(known, Mapping) or not all(isinstance(template, str) for template in known.values()):
        found = type(known).__name__
        raise ModelError(f"the model's chat template is no text but a {found}; correct tokenizer_config.json, {ELSE}")
    wanted = name or ("tool_use" if tools and "tool_use" in known else "default")
    if wanted not in known:
        raise ConfigError(
            f"the tokenizer has no chat template {wanted!r}; {nearest(wanted, known)} "
            "(world.data.template.name chooses one)"
        )
    return known[wanted]


def brings_reasoning(turn: Turn) -> bool:
    """Whether an answer says how it was come to: in a field of its own, or between think tags of Qwen3's kind."""
    return "</think>" in turn.content or any(turn.message.get(name) for name in REASONING)


@dataclass(frozen=True)
class ChatWriter:
    """Writes dialogues with one tokenizer's template as of a date.

    Where the answers bring their `reasoning`, whatever the template writes between an assistant's heading and its
    answer belongs to the answer; else it is given, such as the empty think block of Qwen3.
    """

    tokenizer: Any
    name: str | None = None
    date: str | None = None
    reasoning: bool = False
    system: str = "keep"
    variables: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def text(self, messages: Messages, tools: Sequence[Any] = (), heading: bool = False, where: str = "") -> str:
        """The dialogue; with `heading`, that of the assistant's turn to come follows. Raises DataError, ModelError."""
        return "".join(self._blocks(messages, tools, heading, where))

    def located(self, messages: Messages, tools: Sequence[Any] = (), where: str = "") -> tuple[str, dict[int, Span]]:
        """The text of a dialogue, and for the place of every assistant's turn where its answer stands in the text.

        Raises: DataError if the template refuses the dialogue or an answer cannot be found.
        """
        marked = list[tuple[int, int]]()
        text = "".join(self._blocks(messages, tools, False, where, marked))
        self._check_system(messages, text, where)
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        found, together = dict[int, Span](), self._together(text, messages, answers, tools, where)
        for order, place in enumerate(answers):
            span = together.get(place) or self._span(text, messages, place, tools, where)
            if marked:
                span = _within(span, marked, order if len(marked) == len(answers) else None, text)
            elif span is None:
                raise DataError(
                    f"{where or 'a dialogue'}: turn {place + 1} is not to be found in what the model's chat template "
                    f"makes of it, so it cannot be learned; correct the template, {ELSE}"
                )
            if span is not None:
                found[place] = span
        return text, found

    def prompt(self, messages: Messages, tools: Sequence[Any] = (), where: str = "") -> str:
        """What stands before the answer to a dialogue, as `located` would have it."""
        whole = [*messages, {"role": "assistant", "content": MARKER}]
        text = self.text(whole, tools, where=where)
        self._check_system(messages, text, where)
        span = self._span(text, whole, len(messages), tools, where)
        if span is None:
            raise ModelError(f"the model's chat template leaves answers out of a dialogue; correct it, {ELSE}")
        return text[: span.start]

    @cached_property
    def end(self) -> str:
        """What the template writes behind every assistant's turn, less white space; empty if that is nothing."""
        one, other = "wavetune-first", "wavetune-last"
        asked = {"role": "user", "content": "?"}
        twice = [asked, {"role": "assistant", "content": one}, asked, {"role": "assistant", "content": other}]
        try:
            text = self.text(twice)
        except DataError:  # a template for one question alone
            text = self.text(twice[2:])
        tail, between = text.rpartition(other)[2], text.partition(one)[2]
        return _common_end(self.tokenizer, tail, between) if one in text else tail.strip()

    @cached_property
    def _sources(self) -> tuple[str, str]:
        """The template without tools and with them."""
        return source_of(self.tokenizer, self.name), source_of(self.tokenizer, self.name, tools=True)

    @cached_property
    def _special_tokens(self) -> dict[str, Any]:
        return dict(getattr(self.tokenizer, "special_tokens_map", {}))

    def _span(self, text: str, messages: Messages, place: int, tools: Sequence[Any], where: str) -> Span | None:
        """Where the answer of a turn stands: from the assistant's heading, or what is given after it, to its end."""
        heading = self._heading(messages[:place], tools)
        start = len(heading) if heading is not None and text.startswith(heading) else None
        content = messages[place].get("content")
        around = self._around(text, messages, place, tools, where) if isinstance(content, str) and content else None
        if around is None:
            found = None if start is None else self._ended(text, start, place == len(messages) - 1)
            lost = found is not None and content and not text[found.start : found.stop].strip()
            return None if lost else found
        first, last = around
        own = self.reasoning or bool({*messages[place]} - {"role", "content"})
        if start is None or start > first or not (own or not text[start:first].strip()):
            start = first
        return self._closed(start, last, text[last:])

    def _closed(self, start: int, last: int, behind: str) -> Span:
        """An answer from `start` to `last`, with its end of turn where that stands `behind` it."""
        visible = behind.lstrip()
        end = last + len(behind) - len(visible) + len(self.end)
        return Span(start, last, end if self.end and visible.startswith(self.end) else last)

    def _together(
        self, text: str, messages: Messages, answers: Sequence[int], tools: Sequence[Any], where: str
    ) -> dict[int, Span]:
        """`_span` of all answers at once, so that many turns take no time with their square; none where it cannot be.

        It takes several answers of words alone, each of which the template writes as it is or less white space at its
        ends, and the same around them whatever they are.
        """
        said = [messages[place].get("content") for place in answers]
        plain = all(isinstance(one, str) and one.strip() and "</think>" not in one for one in said)
        if len(answers) < _SEVERAL or self.reasoning or not plain:
            return {}
        if any({*messages[place]} - {"role", "content"} for place in answers):
            return {}
        marked, around, rest = list(messages), list[str](), ""
        for place in answers:
            marked[place] = {**messages[place], "content": f"{MARKER}-{place}."}
        rest = self.text(marked, tools, where=where)
        for place in answers:
            before, marker, rest = rest.partition(f"{MARKER}-{place}.")
            around.append(before)
            if not marker:
                return {}
        around.append(rest)
        stands = _stands(text, said, around)
        if stands is None:
            return {}
        shifts = self._shifts(text, messages, tools, dict(zip(answers, stands, strict=True)), around)
        if shifts is None:
            return {}
        return {
            place: self._closed(first - shift, last, text[last : last + len(behind) + len(self.end)])
            for place, (first, last), shift, behind in zip(answers, stands, shifts, around[1:], strict=True)
        }

    def _shifts(
        self,
        text: str,
        messages: Messages,
        tools: Sequence[Any],
        stands: Mapping[int, tuple[int, int]],
        around: Sequence[str],
    ) -> list[int] | None:
        """How much white space before each answer stands behind its heading; None where answers behind the same differ.

        Headings are written for the first and the last answer behind each kind of white space.
        """
        blanks = [before[len(before.rstrip()) :] for before in around[:-1]]
        of_blank: dict[str, int] = {"": 0}
        for blank in {*blanks} - {""}:
            behind = [place for place, own in zip(stands, blanks, strict=True) if own == blank]
            found = {self._shift(text, messages, place, tools, stands[place][0]) for place in (behind[0], behind[-1])}
            if len(found) > 1 or len(of_blank) > _KINDS_OF_BLANK:
                return None
            of_blank[blank] = found.pop()
        return [of_blank[blank] for blank in blanks]

    def _shift(self, text: str, messages: Messages, place: int, tools: Sequence[Any], first: int) -> int:
        heading = self._heading(messages[:place], tools)
        start = len(heading) if heading is not None and text.startswith(heading) else first
        return 0 if start > first or text[start:first].strip() else first - start

    def _ended(self, text: str, start: int, is_last: bool) -> Span | None:
        """An answer from `start` to the next end of a turn, or to the end of the text."""
        stop = text.find(self.end, start) if self.end else -1
        if stop >= 0:
            return Span(start, stop, stop + len(self.end))
        stop = len(text.rstrip())
        return Span(start, stop, stop) if is_last else None

    def _heading(self, before: Messages, tools: Sequence[Any]) -> str | None:
        try:
            return self.text(before, tools, heading=True) if before else None
        except _EndlessError:
            raise
        except (DataError, ModelError):  # not all beginnings of a dialogue are dialogues to a template
            return None

    def _around(
        self, text: str, messages: Messages, place: int, tools: Sequence[Any], where: str
    ) -> tuple[int, int] | None:
        """Where a turn's content stands, if all around it is as it would be around another."""
        marked = [*messages[:place], {**messages[place], "content": MARKER}, *messages[place + 1 :]]
        before, marker, behind = self.text(marked, tools, where=where).partition(MARKER)
        same = marker and text.startswith(before) and text.endswith(behind)
        return (len(before), len(text) - len(behind)) if same and len(before) + len(behind) <= len(text) else None

    def _check_system(self, messages: Messages, text: str, where: str) -> None:
        for message in messages:
            if message["role"] == "system" and str(message.get("content") or "").strip() not in text:
                raise DataError(f"{where or 'a dialogue'}: {self._no_system('leaves it out')}")

    def _blocks(
        self,
        messages: Messages,
        tools: Sequence[Any],
        heading: bool,
        where: str,
        marked: list[tuple[int, int]] | None = None,
    ) -> list[str]:
        """The text in parts; `marked` gets the ranges between `generation` tags, where a template has them."""
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template

        messages = [_plain(message) for message in self._with_system(messages)]
        blocks, made, given = list[str](), 0, len(str(messages)) + len(str(tools))
        most = _MOST_MADE + 100 * given
        slow, large = (
            _EndlessError(f"the model's chat template {what} for a dialogue of {given} letters; correct it, {ELSE}")
            for what in (
                f"computes for more than {_MOST_CPU_S:g} s",
                f"takes more than {_MOST_BYTES / 1e9:.3g} GB of memory",
            )
        )
        try:
            with within_memory(_MOST_BYTES, large), within_cpu_seconds(_MOST_CPU_S, slow):
                template = _compile_jinja_template(self._sources[bool(tools)])
                values = {
                    **self._special_tokens,
                    **self.variables,
                    "messages": messages,
                    "tools": list(tools) or None,
                    "documents": None,
                    "add_generation_prompt": heading,
                }
                if self.date is not None:
                    values["strftime_now"] = datetime.fromisoformat(self.date).strftime
                track: Any = template.environment
                with nullcontext() if marked is None else track.activate_tracker(blocks, marked):
                    for block in template.generate(values):
                        blocks.append(block)
                        made += len(block)
                        if made > most:
                            raise _EndlessError(
                                f"the model's chat template makes more than {most} letters of a dialogue of {given}; "
                                f"correct it, {ELSE}"
                            )
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(f"the model's chat template cannot be read ({error}); correct it, {ELSE}") from error
        except (ConfigError, ModelError):
            raise
        except Exception as error:  # a template is a program: whatever it does may fail
            raise DataError(f"{where or 'a dialogue'}: {self._refusal(messages, error)}") from error
        return blocks

    def _with_system(self, messages: Messages) -> Messages:
        """The messages; where the template has no system turn, what is said in one stands before the user's first."""
        if self.system == "keep" or not messages or messages[0]["role"] != "system":
            return messages
        said, others = str(messages[0].get("content") or ""), list(messages[1:])
        if not others or others[0]["role"] != "user":
            return [{"role": "user", "content": said}, *others]
        return [{**others[0], "content": f"{said}\n\n{others[0].get('content') or ''}"}, *others[1:]]

    def _refusal(self, messages: Messages, error: Exception) -> str:
        reason = first_line(error)
        if messages and messages[0]["role"] == "system" and self.system == "keep":
            try:
                self.text(messages[1:])
            except (DataError, ModelError):
                pass
            else:
                return self._no_system(f"says {reason!r}")
        roles = ", ".join(str(message["role"]) for message in messages)
        return (
            f"the model's chat template refuses a dialogue of the turns {roles or 'none'} ({reason}); correct the row, "
            f"{ELSE}"
        )

    def _no_system(self, what: str) -> str:
        return (
            f"the model's chat template takes no system turn ({what}); set world.data.template.system=first_user to "
            "write it before the user's first"
        )


def _stands(text: str, said: Sequence[Any], around: Sequence[str]) -> list[tuple[int, int]] | None:
    """Where in a text contents stand that all this is around, in order; None where it is not the whole text."""
    at, found = len(around[0]), list[tuple[int, int]]()
    if not text.startswith(around[0]) or not all(map(str.strip, around[:-1])):
        return None
    for content, behind in zip(said, around[1:], strict=True):
        ways = (content, content.strip(), content.lstrip(), content.rstrip())
        own = next((way for way in ways if text.startswith(way + behind, at)), None)
        if own is None:
            return None
        found.append((at, at + len(own)))
        at += len(own) + len(behind)
    return found if at == len(text) else None


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers hands it to a template: without nulls, its reasoning under every name in use."""
    own = {name: value for name, value in message.items() if value is not None}
    reasoning = next((own[name] for name in REASONING if name in own), None)
    return own if reasoning is None else {"thinking": reasoning, **own, "reasoning_content": reasoning}


def _within(span: Span | None, marked: Sequence[tuple[int, int]], order: int | None, text: str) -> Span | None:
    """An answer that stands between the template's own `generation` tags; none if it is not to be learned.

    One that was not found is all between the tags of its order.
    """
    if span is None and order is not None:
        start, stop = marked[order]
        stop = start + len(text[start:stop].rstrip())
        return Span(start, stop, stop)
    if span is None or not any(start < span.stop and stop > span.start for start, stop in marked):
        return None
    return span


def _common_end(tokenizer: Any, tail: str, between: str) -> str:
    """What two texts behind answers begin with alike, in whole tokens, less white space; else the whole of `tail`."""
    shorter = min(len(tail), len(between))
    common = next((i for i in range(shorter) if tail[i] != between[i]), shorter)
    if common == len(tail):
        return tail.strip()
    ids, others = encode(tokenizer, [tail, between])
    for stop in range(common, 0, -1):
        own = encode(tokenizer, [tail[:stop]])[0]
        if tail[:stop].strip() and ids[: len(own)] == others[: len(own)] == own:
            return tail[:stop].split()[0]
    return tail.strip()
