"""The phrase grammar: draws labelled sentences and says whether a sentence could have been drawn.

The phrases are text files in `phrases/`. A line `name: a | b` defines a slot, `[label]` opens a label, and
any other line is one template of that label: `{slot}` inserts a slot, `(a|b)` chooses, `[x]` may be left out.
A template that starts with `~` is a whole sentence; the others are imperatives, which take "please".
"""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

PHRASES = Path(__file__).parent / "phrases"
OUT_OF_SCOPE = "out_of_scope"
OUT_OF_SCOPE_SHARE = 0.25
MAX_TRIES = 60

_ARTICLES = frozenset({"the", "a", "an", "my"})
_CONTRACTED = """
i'm i've i'd i'll it's that's what's where's how's who's there's you're we're they're don't doesn't didn't
can't couldn't won't isn't aren't wasn't shouldn't mustn't let's we've wouldn't haven't
"""
_CONTRACTIONS = {whole.replace("'", ""): whole for whole in _CONTRACTED.split()}
_QUESTION = re.compile(
    r"(what|who|when|where|why|how|which|is|are|do|does|did|can|could|would|will|should|shall|may|any|have|has)\b"
)
_TOKEN = re.compile(r"\{(\w+)\}|([()\[\]|])|([^{}()\[\]|]+)")


@dataclass(frozen=True)
class Text:
    """Fixed characters; `words` is their canonical form."""

    text: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Slot:
    """A reference to a named slot."""

    name: str


@dataclass(frozen=True)
class Sequence:
    """Parts one after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True)
class Choice:
    """Exactly one of the options."""

    options: tuple["Node", ...]


Node = Text | Slot | Sequence | Choice


@dataclass(frozen=True)
class Template:
    """One line of a label: its tree, whether it is an imperative, its share of draws, words it always has."""

    body: Node
    imperative: bool
    weight: float
    needs: frozenset[str]


def canonical(text: str) -> list[str]:
    """The words that matching compares: lower case, no punctuation or articles, contractions alike."""
    text = text.lower().replace("’", "'").replace("%", " percent ")
    text = re.sub(r"[a-z]+", lambda found: _CONTRACTIONS.get(found[0], found[0]), text)
    text = re.sub(r"(?<=\d)(?=[a-z])|(?<=[a-z])(?=\d)", " ", text)
    return [word for word in re.findall(r"[a-z]+|\d+", text) if word not in _ARTICLES]


def parse(template: str) -> Node:
    """The tree of one template. Raises ValueError naming a template with unbalanced brackets."""
    stack: list[tuple[str, list[list[Node]]]] = [("", [[]])]
    if "".join(found[0] for found in _TOKEN.finditer(template)) != template:
        raise ValueError(f"unreadable template {template!r}: check its braces")
    for found in _TOKEN.finditer(template):
        name, mark, text = found.groups()
        options = stack[-1][1]
        if name:
            options[-1].append(Slot(name))
        elif text:
            options[-1].append(Text(text, tuple(canonical(text))))
        elif mark == "|":
            options.append([])
        elif mark in "([":
            stack.append((mark, [[]]))
        elif len(stack) > 1 and stack[-1][0] + mark in ("()", "[]"):
            closed = [Sequence(tuple(parts)) for parts in stack.pop()[1]]
            stack[-1][1][-1].append(Choice((*closed, Sequence(())) if mark == "]" else tuple(closed)))
        else:
            raise ValueError(f"unbalanced {mark!r} in template {template!r}")
    if len(stack) != 1:
        raise ValueError(f"unclosed {stack[-1][0]!r} in template {template!r}")
    choices = [Sequence(tuple(parts)) for parts in stack[0][1]]
    return choices[0] if len(choices) == 1 else Choice(tuple(choices))


def misspellings(word: str) -> list[str]:
    """Forms of `word` with two inner letters swapped or one inner letter left out; none for short words."""
    if len(word) < 5 or not word.isalpha():
        return []
    swaps = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 2)]
    return [
        form for form in swaps + [word[:i] + word[i + 1 :] for i in range(2, len(word) - 1)] if form != word
    ]


@dataclass(frozen=True)
class Grammar:
    """All templates by label, and the slots that they use."""

    templates: dict[str, list[Template]]
    slots: dict[str, Node]
    readings: dict[str, frozenset[str]] = field(repr=False)

    def labels(self) -> list[str]:
        """Label names, `out_of_scope` last."""
        return sorted(self.templates, key=lambda label: (label == OUT_OF_SCOPE, label))

    def texts(self) -> Iterator[str]:
        """The fixed texts of all templates and slots."""
        for node in [*self.slots.values(), *(one.body for many in self.templates.values() for one in many)]:
            yield from (leaf.text for leaf in _leaves(node))

    def draw(self, label: str, rng: random.Random) -> str:
        """One sentence of `label`, with spelling, case and punctuation as people type or dictate them."""
        templates = self.templates[label]
        template = rng.choices(templates, [one.weight for one in templates])[0]
        body = self._fill(template.body, rng)
        tail = "tail" if template.imperative else "softtail"
        if template.imperative and rng.random() < 0.35:
            body = f"{self._fill(Slot('ask'), rng)} {body}"
        if rng.random() < 0.10:
            body = f"{self._fill(Slot('hail'), rng)}{rng.choice([',', ''])} {body}"
        if rng.random() < (0.18 if template.imperative else 0.06):
            body = f"{body}{rng.choice([',', ''])} {self._fill(Slot(tail), rng)}"
        return _dress(_scuff(" ".join(body.split()).replace(" ,", ",").strip(" ,"), rng), rng)

    def examples(self, seed: int, count: int) -> list[tuple[str, str]]:
        """`count` different (text, label) pairs, shuffled; a quarter of them are out of scope.

        Raises ValueError if a label has too few sentences for that.
        """
        rng = random.Random(seed)
        labels = self.labels()
        commands = labels[:-1]
        outside = round(count * OUT_OF_SCOPE_SHARE)
        wanted = {label: (count - outside) // len(commands) for label in commands}
        for label in rng.sample(commands, (count - outside) % len(commands)):
            wanted[label] += 1
        wanted[OUT_OF_SCOPE] = outside
        seen: set[str] = set()
        pairs: list[tuple[str, str]] = []
        for label in labels:
            for _ in range(wanted[label]):
                text = next((text for text in self._tries(label, rng) if text.lower() not in seen), None)
                if text is None:
                    raise ValueError(
                        f"label {label} has too few sentences for a draw of {count}: ask for fewer"
                    )
                seen.add(text.lower())
                pairs.append((text, label))
        rng.shuffle(pairs)
        return pairs

    def can_generate(self, text: str) -> bool:
        """Whether a template reads all of `text`, up to case, punctuation, articles and one-letter typos.

        Never false for a sentence that `draw` gives, and true for more typos than `draw` makes.
        """
        words = [self.readings.get(word, frozenset()) | {word} for word in canonical(text)]
        memo: dict[tuple[str, int], frozenset[int]] = {}

        def ends(node: Node, starts: frozenset[int]) -> frozenset[int]:
            if isinstance(node, Text):
                size = len(node.words)
                return frozenset(
                    start + size
                    for start in starts
                    if start + size <= len(words)
                    and all(word in words[start + i] for i, word in enumerate(node.words))
                )
            if isinstance(node, Sequence):
                for part in node.parts:
                    starts = ends(part, starts) if starts else starts
                return starts
            if isinstance(node, Choice):
                return frozenset[int]().union(*(ends(option, starts) for option in node.options))
            for start in starts:
                if (node.name, start) not in memo:
                    memo[node.name, start] = ends(self.slots[node.name], frozenset({start}))
            return frozenset[int]().union(*(memo[node.name, start] for start in starts))

        plain = frozenset({0})
        plain |= ends(Slot("hail"), plain)
        asked = plain | ends(Slot("ask"), plain)
        heard = frozenset[str]().union(*words)
        for template in (one for many in self.templates.values() for one in many if one.needs <= heard):
            found = ends(template.body, asked if template.imperative else plain)
            found |= ends(Slot("tail" if template.imperative else "softtail"), found)
            if len(words) in found:
                return True
        return False

    def _tries(self, label: str, rng: random.Random) -> Iterator[str]:
        return (self.draw(label, rng) for _ in range(MAX_TRIES))

    def _fill(self, node: Node, rng: random.Random) -> str:
        if isinstance(node, Text):
            return node.text
        if isinstance(node, Sequence):
            return "".join(self._fill(part, rng) for part in node.parts)
        if isinstance(node, Choice):
            return self._fill(rng.choice(node.options), rng)
        return self._fill(self.slots[node.name], rng)


def _scuff(text: str, rng: random.Random) -> str:
    """Leaves out an article or an apostrophe, or misspells a word, now and then."""
    words = text.split()
    if rng.random() < 0.10:
        words = [word for word in words if word not in _ARTICLES] or words
    if rng.random() < 0.20:
        words = [word.replace("'", "") if word.replace("'", "") in _CONTRACTIONS else word for word in words]
    if rng.random() < 0.30:
        words = " ".join(words).replace(" percent", "%").split()
    if rng.random() < 0.05:
        at = rng.randrange(len(words))
        forms = misspellings(words[at])
        words[at] = rng.choice(forms) if forms else words[at]
    return " ".join(words)


def _dress(text: str, rng: random.Random) -> str:
    """Case and final punctuation."""
    style = rng.random()
    if style < 0.50:
        return text
    mark = "?" if _QUESTION.match(text) else rng.choice([".", ".", "!"])
    if style < 0.60:
        return text + mark
    if style < 0.63:
        return text.upper()
    text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
    return text if style < 0.75 else text + mark


def _leaves(node: Node) -> Iterator[Text]:
    if isinstance(node, Text):
        yield node
    elif isinstance(node, Sequence | Choice):
        for part in node.parts if isinstance(node, Sequence) else node.options:
            yield from _leaves(part)


def _count(node: Node, slots: dict[str, Node]) -> float:
    """How many ways there are to fill `node`."""
    if isinstance(node, Text):
        return 1.0
    if isinstance(node, Sequence):
        return math.prod(_count(part, slots) for part in node.parts)
    if isinstance(node, Choice):
        return sum(_count(option, slots) for option in node.options)
    return _count(slots[node.name], slots)


@cache
def load(folder: Path = PHRASES) -> Grammar:
    """The grammar in `folder`. Raises ValueError for an unreadable template, KeyError for an unknown slot."""
    slots: dict[str, Node] = {}
    lines: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.txt")):
        label = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            if header := re.fullmatch(r"\[(\w+)\]", line):
                label = header[1]
            elif definition := re.match(r"(\w+): (.*)", line):
                slots[definition[1]] = parse(re.sub(r" *\| *", "|", definition[2]))
            else:
                lines.setdefault(label, []).append(line)
    templates: dict[str, list[Template]] = {}
    for label, bodies in lines.items():
        for body in bodies:
            tree = parse(body.removeprefix("~"))
            # Templates with many fillings are drawn more often, but far less than in proportion.
            weight = min(max(math.log2(_count(tree, slots)), 1.0), 8.0)
            parts = tree.parts if isinstance(tree, Sequence) else ()
            needs = {word for part in parts if isinstance(part, Text) for word in part.words}
            template = Template(tree, not body.startswith("~"), weight, frozenset(needs))
            templates.setdefault(label, []).append(template)
    readings: dict[str, set[str]] = {}
    plain = Grammar(templates, slots, {})
    for word in {word for text in plain.texts() for word in canonical(text)}:
        for form in misspellings(word):
            readings.setdefault(form, set()).add(word)
    return replace(plain, readings={form: frozenset(words) for form, words in readings.items()})
