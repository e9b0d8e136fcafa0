"""The bundled task: the grammar against a brute-force enumeration, the data, and the model that ships."""

import collections
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.demo.home_intents import grammar, task
from edgebert.errors import DataError

SMALL = """\
hail: hey
ask: please
tail: now
softtail: thanks
[open_it]
open {what} [wide|fast]
~it is (shut|closed), [again]
[out_of_scope]
~hello (you|there)
"""
WHAT = "what: the box|jar | door\n"


def small_grammar(folder: Path) -> grammar.Grammar:
    (folder / "small.txt").write_text(WHAT + SMALL, encoding="utf-8")
    return grammar.load(folder)


def small_language() -> set[str]:
    """Every sentence of the small grammar, written out by hand-made loops, without articles."""
    bodies = [
        (" ".join(f"open {what} {how}".split()), True)
        for what, how in itertools.product(["box", "jar", "door"], ["", "wide", "fast"])
    ]
    bodies += [(f"it is {state}{end}", False) for state in ("shut", "closed") for end in ("", " again")]
    bodies += [("hello you", False), ("hello there", False)]
    found = set()
    for body, imperative in bodies:
        for hail, ask, tail in itertools.product(
            ["", "hey "], ["", "please "] if imperative else [""], ["", " now" if imperative else " thanks"]
        ):
            found.add(hail + ask + body + tail)
    return found


def test_matching_is_exact_on_a_small_grammar(tmp_path: Path) -> None:
    small = small_grammar(tmp_path)
    language = small_language()
    words = sorted({word for text in language for word in text.split()})
    assert all(small.can_generate(text) for text in language)
    for size in (1, 2, 3, 4):
        for text in map(" ".join, itertools.product(words, repeat=size)):
            assert small.can_generate(text) == (text in language), text


def test_a_small_grammar_draws_only_its_language_and_all_of_it(tmp_path: Path) -> None:
    small = small_grammar(tmp_path)
    rng = random.Random(1)
    drawn = {" ".join(grammar.canonical(small.draw("open_it", rng))) for _ in range(8000)}
    bare = {text for text in small_language() if "hello" not in text}
    assert bare <= drawn
    assert all(small.can_generate(text) for text in drawn)


@pytest.mark.parametrize("bad", ["open (a|b", "open a)", "open [a)", "open {a", "open }a{"])
def test_an_unbalanced_template_is_named(bad: str) -> None:
    with pytest.raises(ValueError, match="template"):
        grammar.parse(bad)


def test_canonical_words_ignore_case_punctuation_articles_and_apostrophes() -> None:
    assert grammar.canonical("What's the TIME, at 7:30am?") == ["what", "s", "time", "at", "7", "30", "am"]
    assert grammar.canonical("whats  time at 7 30 am") == grammar.canonical("What's the TIME, at 7:30am?")
    assert grammar.canonical("dim to 40%") == grammar.canonical("dim to 40 percent")


@given(st.from_regex(r"[a-z]{5,9}", fullmatch=True))
def test_misspellings_differ_by_one_letter_and_keep_the_ends(word: str) -> None:
    for form in grammar.misspellings(word):
        assert form != word and form[0] == word[0] and form[-1] == word[-1]
        missing = collections.Counter(word) - collections.Counter(form)
        assert missing.total() == len(word) - len(form) <= 1


def test_everything_drawn_is_recognised() -> None:
    drawn = task.training_examples(seed=11, count=600)
    assert [text for text, _ in drawn if not grammar.load().can_generate(text)] == []


def test_a_foreign_word_is_not_recognised() -> None:
    rng = random.Random(2)
    for text, _ in task.training_examples(seed=12, count=120):
        words = text.split()
        words.insert(rng.randrange(len(words) + 1), "xylophonist")
        assert not grammar.load().can_generate(" ".join(words))


def test_training_draws_repeat_balance_and_never_double() -> None:
    pairs = task.training_examples(seed=0, count=6000)
    assert pairs == task.training_examples(seed=0, count=6000)
    assert pairs != task.training_examples(seed=1, count=6000)
    assert len({text.lower() for text, _ in pairs}) == 6000
    shares = collections.Counter(label for _, label in pairs)
    assert set(shares) == set(task.LABELS)
    assert shares.pop("out_of_scope") == 1500
    assert set(shares.values()) <= {155, 156}


def test_labels_have_many_templates() -> None:
    templates = grammar.load().templates
    assert set(templates) == set(task.LABELS) and len(task.LABELS) == 30
    assert all(len(lines) >= 30 for lines in templates.values())
    assert len(templates["out_of_scope"]) >= 150


@pytest.mark.parametrize("count", [0, 119])
def test_too_few_sentences_is_an_error(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} training sentences"):
        task.training_examples(0, count)


def test_too_many_sentences_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few sentences"):
        small_grammar(tmp_path).examples(0, 100_000)


def test_heldout_is_large_labelled_and_covers_every_label() -> None:
    pairs = task.heldout_examples()
    shares = collections.Counter(label for _, label in pairs)
    assert len({text.lower() for text, _ in pairs}) == len(pairs) >= 600
    assert set(shares) == set(task.LABELS)
    assert min(shares.values()) >= 10


def test_the_grammar_cannot_write_any_heldout_sentence() -> None:
    assert [text for text, _ in task.heldout_examples() if grammar.load().can_generate(text)] == []


def test_model_files_fit_the_promise() -> None:
    folder = task.model_folder()
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "model.safetensors").stat().st_size <= 6 * 2**20
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] >= 4
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert [config["id2label"][str(index)] for index in range(30)] == list(task.LABELS)


def test_vocabulary_file_and_tokenizer_agree() -> None:
    from tokenizers import Tokenizer

    folder = task.model_folder()
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(vocabulary)}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["vocab_size"] == len(vocabulary)


def test_the_model_knows_the_heldout_sentences() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = task.model_folder()
    model = transformers.BertForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pairs = task.heldout_examples()
    right = 0
    for start in range(0, len(pairs), 64):
        part = pairs[start : start + 64]
        with torch.inference_mode():
            inputs = tokenizer([text for text, _ in part], padding=True, truncation=True, return_tensors="pt")
            guesses = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).logits.argmax(1)
        right += sum(
            task.LABELS[guess] == label for guess, (_, label) in zip(guesses.tolist(), part, strict=True)
        )
    assert right / len(pairs) >= 0.89
