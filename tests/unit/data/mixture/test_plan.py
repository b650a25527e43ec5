"""plan-data: its arithmetic on real token files, its warnings, and the blend that it writes."""

import json
import math
import sysconfig
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.cli import main
from megatron_dream.config.load import load_config
from megatron_dream.config.validate import validate
from megatron_dream.data.indexed import inspect_token_files
from megatron_dream.data.mixture.found import SourceFiles
from megatron_dream.data.mixture.plan import Entry, Target, make_plan
from megatron_dream.data.mixture.plan_command import plan_data
from megatron_dream.data.mixture.recipe import load_recipe
from megatron_dream.errors import ConfigError, DataError
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB_JSON = Path(sysconfig.get_path("stdlib")) / "json"
EXAMPLES = Path(__file__).parents[4] / "examples" / "dream_coder_7b"


def write_texts(path: Path, count: int, word: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [f"def {word}_{n}(x):\n    return x + {n}\n" * (n % 5 + 1) for n in range(count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recipe of three sources: one file, several files, and one of which only the input is there."""
    folder = tmp_path_factory.mktemp("mixture")
    for name, count in (("one", 60), ("many", 200), ("raw", 50)):
        write_texts(folder / name / "a.jsonl", count, name)
    train_sentencepiece([STDLIB_JSON], 400, folder / "tok.model")
    source = "  - {{name: {0}, input: [{1}/{0}], suffixes: [.jsonl], weight: {2}}}\n"
    (folder / "r.yaml").write_text(
        f"tokenizer: {folder}/tok.model\noutput: {folder}/data\ntoken_budget: 200_000\nsources:\n"
        + source.format("one", folder, 0.5)
        + source.format("many", folder, 0.25)
        + source.format("raw", folder, 0.25)
    )
    words = ["preprocess", "--recipe", str(folder / "r.yaml"), "--source"]
    assert main([*words, "one"]) == 0
    assert main([*words, "many", "--max-file-gb", "0.000008"]) == 0
    return folder


def plan(folder, **options):
    return plan_data(folder / "r.yaml", quiet=True, **options)


def test_counts_are_those_of_the_files(folder):
    one, many, raw = plan(folder, sequence_length=128).sources
    files = inspect_token_files(folder / "data" / "one")
    assert one.tokens_available == files.num_tokens and not one.is_estimate
    assert one.tokens_needed == 100_000 and one.epochs == 100_000 / files.num_tokens
    assert one.entry.found.disk_bytes == files.bin_bytes + files.idx_bytes
    assert one.bytes_needed == 2 * 100_000  # a small vocabulary
    assert len(many.entry.found.files) > 2
    each = [inspect_token_files(file.prefix).num_tokens for file in many.entry.found.files]
    assert many.tokens_available == sum(each)
    assert raw.is_estimate and raw.entry.found.input_files == 1
    assert raw.entry.found.input_bytes == (folder / "raw" / "a.jsonl").stat().st_size
    assert raw.entry.found.disk_bytes == 0


def test_samples_and_steps(folder):
    without = plan(folder, sequence_length=128)
    assert without.target.samples == math.ceil(200_000 / 128) and without.target.train_steps is None
    with_batch = plan(folder, sequence_length=128, global_batch_size=32)
    assert with_batch.target.train_steps == math.ceil(200_000 / (128 * 32))
    assert with_batch.target.samples == 32 * with_batch.target.train_steps
    for made in (without, with_batch):
        assert sum(source.samples for source in made.sources) == made.target.samples
        assert sum(source.tokens_needed for source in made.sources) == 200_000


def test_warnings(folder):
    warnings = "\n".join(plan(folder).warnings)
    assert "one is passed" in warnings and "over 4 epochs" in warnings
    assert "raw is not preprocessed: 1 input files" in warnings and "an estimate" in warnings
    assert "add up" not in warnings and "another tokenizer" not in warnings
    assert plan(folder).contamination == "not decontaminated"
    assert not [w for w in plan(folder, token_budget="4K").warnings if "epochs" in w]


def test_what_a_source_may_have_at_four_epochs(folder):
    one = plan(folder).sources[0]
    words = next(w for w in plan(folder).warnings if w.startswith("one is passed"))
    share = float(words.split("at most ")[1].split(" of the mixture")[0])
    assert share * 200_000 == pytest.approx(4 * one.tokens_available, rel=1e-3)


def changed(folder, tmp_path, old, new):
    text = (folder / "r.yaml").read_text()
    assert old in text
    (tmp_path / "r.yaml").write_text(text.replace(old, new))
    return plan_data(tmp_path / "r.yaml", quiet=True)


def test_weights_that_do_not_add_up(folder, tmp_path):
    made = changed(folder, tmp_path, "weight: 0.5", "weight: 1.5")
    assert made.warnings[0].startswith("The weights add up to 2, not 1")
    assert [source.share for source in made.sources] == [0.75, 0.125, 0.125]


def test_a_source_without_input(folder, tmp_path):
    made = changed(folder, tmp_path, f"{folder}/raw", f"{folder}/nowhere")
    raw = made.sources[2]
    assert raw.tokens_available is None and raw.epochs is None
    assert any("raw is not preprocessed, and" in w and "nowhere" in w for w in made.warnings)


def test_remote_input_is_not_asked_for(folder, tmp_path):
    made = changed(folder, tmp_path, f"{folder}/raw", "s3://nobody/at-all")
    assert any("its input is remote and was not listed" in w for w in made.warnings)


def test_tokens_of_another_tokenizer(folder, tmp_path):
    train_sentencepiece([STDLIB_JSON], 380, tmp_path / "o.model")
    made = changed(folder, tmp_path, f"{folder}/tok.model", f"{tmp_path}/o.model")
    assert sum("tokens of another tokenizer" in w for w in made.warnings) > 3
    made = changed(folder, tmp_path, f"{folder}/tok.model", f"{tmp_path}/nothing.model")
    assert "is not there: 2 bytes a token are assumed" in "\n".join(made.warnings)


def test_documents_without_eod(folder, tmp_path):
    made = changed(folder, tmp_path, "sources:", "append_eod: false\nsources:")
    assert any("was not made with append_eod: false" in w for w in made.warnings)


def test_filters_that_were_changed_since(folder, tmp_path):
    """Silence here would train on documents that the recipe says are dropped."""
    assert not any("other filters" in w for w in plan(folder).warnings)
    filters = "filters:\n  - length: {min_characters: 3}\nsources:"
    made = changed(folder, tmp_path, "sources:", filters)
    found = [w for w in made.warnings if "other filters" in w]
    assert len(found) == 2 and "(none; now length)" in found[0]  # one, and the first file of many


def test_a_file_of_several_that_is_gone(folder, tmp_path):
    for file in (folder / "data").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "many_00001.idx").unlink()
    with pytest.raises(DataError, match="lists many_00001, which is not beside it"):
        changed(folder, tmp_path, f"{folder}/data", str(tmp_path))


def test_a_source_that_is_begun(folder, tmp_path):
    text = (folder / "r.yaml").read_text().replace(f"{folder}/data", f"{tmp_path}/data")
    (tmp_path / "r.yaml").write_text(text)
    words = ["preprocess", "--recipe", str(tmp_path / "r.yaml"), "--source", "many"]
    assert main([*words, "--part", "0/2", "--shard-mb", "0.005"]) == 0
    (tmp_path / "data" / "many.idx").touch()  # as a kill between two renames leaves it
    many = plan_data(tmp_path / "r.yaml", quiet=True).sources[1]
    done, planned = many.entry.found.shards
    assert 0 < done < planned and many.is_estimate and not many.entry.found.is_ready


def test_the_blend_is_a_configuration(folder, tmp_path):
    made = plan(folder, config_out=tmp_path / "b.yaml", global_batch_size=8, sequence_length=128)
    config = load_config(tmp_path / "b.yaml")
    weights = {Path(entry.prefix).name: entry.weight for entry in config.data.train}
    assert weights["one"] == 0.5 and weights["raw"] == 0.25
    many = made.sources[1].entry.found
    for file in many.files:
        assert weights[file.prefix.name] == pytest.approx(0.25 * file.num_tokens / many.tokens)
    assert math.isclose(sum(weights.values()), 1.0, abs_tol=1e-9)
    assert len(weights) == len(config.data.train) == 2 + len(many.files)
    assert config.training.train_steps == made.target.train_steps
    assert (config.data.sequence_length, config.training.global_batch_size) == (128, 8)
    assert config.tokenizer.path == f"{folder}/tok.model"


def test_the_blend_in_the_rest_of_a_configuration(folder, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(
        "model: {preset: tiny}\ntraining: {global_batch_size: 16}\ndata: {sequence_length: 64}\n"
        "optimizer: {lr: 0.5}\ncheckpoint: {run_folder: r}\n"
    )
    plan(folder, config=base, config_out=tmp_path / "b.yaml")
    config = load_config(tmp_path / "b.yaml")
    validate(config)
    assert config.optimizer.lr == 0.5 and config.data.sequence_length == 64
    assert config.training.train_steps == math.ceil(200_000 / (16 * 64))


def test_another_file_is_not_written_over(folder, tmp_path):
    out = tmp_path / "b.yaml"
    out.write_text("model: {preset: tiny}\n")
    with pytest.raises(DataError, match="is not of plan-data"):
        plan(folder, config_out=out)
    assert out.read_text() == "model: {preset: tiny}\n"
    out.unlink()
    plan(folder, config_out=out)
    plan(folder, config_out=out)  # its own it replaces


def test_a_runs_own_blend(folder, tmp_path):
    run = tmp_path / "run.yaml"
    run.write_text(
        f"tokenizer: {{path: {folder}/tok.model}}\ntraining: {{train_steps: 10, global_batch_size: 4}}\n"
        f"data: {{sequence_length: 64, train: [{{prefix: {folder}/data/one, weight: 3}}]}}\n"
    )
    made = plan_data(config=run, quiet=True)
    assert made.target.token_budget == 10 * 4 * 64 and made.target.samples == 40
    assert made.sources[0].share == 1.0 and "add up to 3" in made.warnings[0]


def test_json_and_plain(folder, capsys):
    words = ["plan-data", "--recipe", str(folder / "r.yaml"), "--global-batch-size", "4"]
    assert main([*words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["token_budget"] == 200_000 == sum(s["tokens_needed"] for s in values["sources"])
    assert values["train_steps"] == math.ceil(200_000 / (2048 * 4))
    assert [s["state"] for s in values["sources"]][0] == "ready"
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "│" not in out
    row = next(line for line in out.splitlines() if line.startswith("one "))
    assert "100,000" in row and row.endswith("ready")
    assert f"{values['train_steps']:,} train steps" in out and "not decontaminated" in out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "needs --recipe"),
        (["--recipe", "R", "--sequence-length", "1"], "--sequence-length is 1"),
        (["--recipe", "R", "--global-batch-size", "0"], "--global-batch-size is 0"),
        (["--recipe", "R", "--token-budget", "much"], "--token-budget must be a number of tokens"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: there is no such configuration file"),
    ],
)
def test_impossible_flags(folder, capsys, words, error):
    words = [str(folder / "r.yaml") if word == "R" else word for word in words]
    assert main(["plan-data", *words]) == 2
    assert error in capsys.readouterr().err


def test_config_may_name_a_recipe(folder):
    made = plan_data(config=folder / "r.yaml", quiet=True)
    assert made.target.token_budget == 200_000
    with pytest.raises(ConfigError, match="needs --recipe"):
        plan_data(quiet=True)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(min_value=1e-9, max_value=1e9), min_size=1, max_size=12),
    st.integers(1, 10**15),
)
def test_parts_add_up_and_are_within_one_of_their_share(weights, budget):
    entries = [Entry(f"s{n}", weight, SourceFiles()) for n, weight in enumerate(weights)]
    made = make_plan(entries, Target(budget))
    total = sum(Fraction(repr(weight)) for weight in weights)
    assert sum(source.tokens_needed for source in made.sources) == budget
    assert sum(source.samples for source in made.sources) == made.target.samples
    for source, weight in zip(made.sources, weights, strict=True):
        assert abs(source.tokens_needed - Fraction(repr(weight)) / total * budget) <= 1
        assert source.tokens_needed >= 0


def test_the_published_mixture():
    recipe = load_recipe(EXAMPLES / "mixture.yaml")
    made = plan_data(EXAMPLES / "mixture.yaml", config=EXAMPLES / "pretrain.yaml", quiet=True)
    assert made.weight_sum == 1 and made.target.token_budget == 322_000_000_000
    assert made.target.train_steps == 163_778 and made.target.samples == 157_226_880
    blend = load_config(EXAMPLES / "pretrain.yaml").data.train
    names = [Path(entry.prefix).name.removesuffix("_text") for entry in blend]
    assert [(source.name, source.weight) for source in recipe.sources] == [
        (name, entry.weight) for name, entry in zip(names, blend, strict=True)
    ]
    dclm = recipe.filters_of(recipe.sources[0])[0]
    assert (dclm.name, dclm.options.keep_over, dclm.options.sample_over) == ("dclm", 0.5, 0.09532)


def test_every_line_of_the_published_mixture_that_is_not_published_is_marked():
    published = {"name", "weight", "token_budget", "dclm"}
    published_datasets = ("dclm-baseline", "stack-edu")
    for line in (EXAMPLES / "mixture.yaml").read_text().splitlines():
        parts = line.split("#")[0].replace("- ", "  ").split(":")
        if len(parts) < 2 or not parts[1].strip():
            continue
        is_published = parts[0].strip() in published or parts[1].strip() in published_datasets
        assert is_published != ("# ours" in line), line


def test_the_filters_that_it_leaves_to_be_switched_on_can_be(tmp_path):
    text = (EXAMPLES / "mixture.yaml").read_text().replace("filters: []", "filters:")
    lines = [
        line.replace("#", " ", 1) if line.startswith("# ") else line for line in text.splitlines()
    ]
    on = [line for line in lines if not line.startswith("  ") or ":" in line]
    start = next(n for n, line in enumerate(on) if line.startswith("filters:"))
    (tmp_path / "r.yaml").write_text(
        "\n".join(line for line in on[:start] if line[:1] != " ") + "\n" + "\n".join(on[start:])
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert [spec.name for spec in recipe.filters] == ["decontamination", "duplicates"]
    assert recipe.evaluation_sets(recipe.sources[3]) == ["HumanEval", "mbpp", "cruxeval"]
