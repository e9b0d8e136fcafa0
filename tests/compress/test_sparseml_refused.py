"""What of SparseML's recipes is refused, and how hostile ones end."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert_compress.errors import RecipeError
from edgebert_compress.recipe import (
    load_recipe,
)
from edgebert_compress.sparseml.expression import evaluate
from tests.compress.sparseml_recipes import GRADUAL, PRUNE, RANGE, read


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("  - !MovementPruningModifier {}\n", 3, ["MovementPruningModifier", "no equivalent"]),
        ("  - !MFACPruningModifier {params: x}\n", 3, ["MFACPruningModifier"]),
        ("  - !StructuredPruningModifier {}\n", 3, ["StructuredPruningModifier"]),
        (PRUNE + "    mask_type: filter\n", 10, ["GMPruningModifier", "'mask_type: filter'"]),
        (PRUNE + "    mask_type: [4, 1]\n", 10, ["mask_type"]),
        (PRUNE + "    inter_func: linear\n", 10, ["inter_func", "only cubic"]),
        (PRUNE + "    leave_enabled: False\n", 10, ["leave_enabled"]),
        (PRUNE + "    score_type: movement\n", 10, ["score_type"]),
        (PRUNE + "    surprise: 1\n", 10, ["surprise", "no equivalent"]),
        (PRUNE.replace("0.5", "1.0"), 6, ["final_sparsity", "[0, 1)"]),
        (PRUNE.replace("0.5", "{0.5: [a], 0.6: [b]}"), 6, ["final_sparsity", "each tensor"]),
        (PRUNE.replace("0.1", "__FROM_PARAM__"), 5, ["init_sparsity", "own sparsity"]),
        (PRUNE.replace("update_frequency: 1", "update_frequency: 0"), 9, ["update_frequency"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "__ALL__"), 4, ["params", "__ALL__"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "[bert.pooler.dense.weight]"), 4, ["bert.pooler.dense.weight"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "['re:(']"), 4, ["regular expression"]),
        (PRUNE.replace("__ALL_PRUNABLE__", "['re:(a+)+(b+)+(c*)*x']"), 4, ["too long"]),
        (PRUNE + PRUNE.replace("0.5", "0.6"), 10, ["same time", "line 3"]),
        (PRUNE + "  - !QuantizationModifier\n    start_epoch: 3\n", 11, ["start_epoch: 3", "pruning ends"]),
        (
            "  - !QuantizationModifier\n    quantize_embeddings: 0\n",
            4,
            ["quantize_embeddings: 0", "leaves the embeddings float", "set it to 1"],
        ),
        ("  - !QuantizationModifier\n    weight_bits: 4\n", 4, ["weight_bits: 4", "INT8"]),
        ("  - !QuantizationModifier\n    scheme: {weights: {num_bits: 4}}\n", 4, ["scheme", "4 bits"]),
        ("  - !QuantizationModifier\n    ignore: [classifier]\n", 4, ["ignore", "classifier"]),
        ("  - !QuantizationModifier\n    submodules: [bert.encoder]\n", 4, ["submodules", "embeddings"]),
        ("  - !LearningRateFunctionModifier\n    lr_func: cubic\n", 4, ["lr_func: cubic", "cosine"]),
        ("  - !LearningRateModifier\n    lr_class: StepLR\n", 3, ["has no 'init_lr'"]),
        ("  - !LearningRateFunctionModifier\n    init_lr: 2\n    final_lr: 0\n", 4, ["init_lr", "[0, 1]"]),
        ("  - !LayerPruningModifier\n    layers: [bert.pooler]\n", 4, ["bert.pooler"]),
        ("  - !LayerPruningModifier\n    layers: [a.layer.1]\n    start_epoch: 2\n", 5, ["start_epoch: 2"]),
        ("  - !TrainableParamsModifier\n    params: __ALL__\n    trainable: False\n", 4, ["freezes every"]),
        ("  - !DistillationModifier\n    hardness: 1.5\n", 4, ["hardness", "[0, 1]"]),
        ("  - !DistillationModifier\n    hardness: eval(missing)\n", 4, ["unknown variable 'missing'"]),
        ("  - !DistillationModifier\n    hardness: eval(__import__('os'))\n", 4, ["cannot compute"]),
        ("  - !!python/object/apply:os.system [ls]\n", 3, ["no '!…Modifier'"]),
        ("  - SparseGPTModifier: {sparsity: 0.5}\n", 3, ["no '!…Modifier'"]),
    ],
)  # fmt: skip
def test_what_has_no_equivalent_is_named_by_line(tmp_path, text, line, words):
    path = tmp_path / "theirs.yaml"
    path.write_text(f"modifiers:\n{RANGE}{text}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "content", ["modifiers:\n", "x_modifiers: []\n", "modifiers: [!EpochRangeModifier 5]\n"]
)
def test_documents_without_anything_to_do(content):
    with pytest.raises(RecipeError) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_variables_in_a_circle_end():
    text = "a: eval(b)\nb: eval(a)\nmodifiers:\n  - !EpochRangeModifier {end_epoch: eval(a)}\n"
    with pytest.raises(RecipeError, match="without end"):
        read(text)


NUMBERS = st.floats(-1e3, 1e3, allow_nan=False).map(lambda value: round(value, 3))


@given(NUMBERS, NUMBERS, st.sampled_from(["+", "-", "*"]))
def test_arithmetic_is_pythons(a, b, sign):
    expected = {"+": a + b, "-": a - b, "*": a * b}[sign]
    assert evaluate(f"x {sign} ({b!r})", {"x": a}.__getitem__) == pytest.approx(expected)
    assert evaluate(f"max(x, {b!r}) // 1", {"x": a}.__getitem__) == math.floor(max(a, b))


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "1/0",
        "'a' * 9",
        "(lambda: 1)()",
        "x.real",
        "[1]",
        "",
        "1e999",
        "True",
        "()" * 5000,
        "-" * 900 + "1e4000",
    ],
)
def test_what_is_no_arithmetic_is_refused(text):
    with pytest.raises(ValueError):
        evaluate(text, {"x": 1.0}.__getitem__)


@given(st.text(alphabet="x+-*/%()<>=!&|~.,:[]{}'\"0123456789e_ \n", max_size=40))
def test_hostile_expressions_give_a_number_or_an_error(text):
    try:
        value = evaluate(text, {"x": 2.0}.get)  # type: ignore[arg-type]
    except ValueError:
        return
    assert math.isfinite(value)


SCALARS = st.one_of(
    st.integers(-5, 10**9).map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "",
            "null",
            "true",
            "[]",
            "{}",
            "[1, [2]]",
            "eval(a)",
            "eval(1)",
            "re:(",
            "-1",
            "1e400",
            "!X 3",
            "'",
            ".nan",
            "0",
        ]
    ),
)


@given(st.data())
def test_a_damaged_recipe_is_a_recipe_or_one_line(data):
    lines = (
        GRADUAL + "quantization_modifiers:\n  - !QuantizationModifier\n    start_epoch: 13\n"
    ).splitlines()
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = lines[number].split(":")[0] + ": " + data.draw(SCALARS)
    try:
        read("\n".join(lines))
    except RecipeError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("theirs.yaml")
