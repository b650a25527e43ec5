"""What the command prints, writes and answers."""

import json
import re
from html.parser import HTMLParser

import pytest

from megatron_dream.cli import main

CONFIG = """
model: {preset: qwen2.5-coder-1.5b}
parallel: {tensor_model_parallel_size: 2, sequence_parallel: true}
data: {sequence_length: 2048}
training: {train_steps: 1000, global_batch_size: 256, micro_batch_size: 2}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def words(config, *more, gpus=16, gpu="H100"):
    return ["plan", "--config", str(config), "--gpus", str(gpus), "--gpu", gpu, *more]


def test_the_text_names_every_figure(config, capsys):
    assert main(words(config)) == 0
    text = capsys.readouterr().out
    for part in ("world size 16 = TP 2", "stage 0", "fits", "Step", "tokens/s", "MFU", "days"):
        assert part in text
    assert "Beyond 256 GPUs (with micro batch 1: 512) only TP and CP help" in text
    assert "dp_reshardable" in text and "GPU hours" in text


def test_json_has_the_same_numbers(config, capsys):
    assert main(words(config, "--json", "--search", "--token-budget", "10B")) == 0
    answer = json.loads(capsys.readouterr().out)
    plan = answer["plan"]
    assert plan["token_budget"] == 10**10
    memory = plan["memory"][plan["worst_stage"]]
    assert memory["total"] == pytest.approx(sum(v for k, v in memory.items() if k != "total"))
    speeds = [found["tokens_per_second"] for found in answer["search"]["ranked"]]
    assert max(speeds) == speeds[0] >= plan["tokens_per_second"]
    assert answer["limit"]["gpus"] == 256


def test_overrides_are_heard(config, capsys):
    assert main(words(config, "--training.recompute", "full", "--json")) == 0
    assert "recompute full" in json.loads(capsys.readouterr().out)["plan"]["layout"]


def test_what_does_not_fit_answers_1(config, capsys):
    code = main(words(config, "--model.preset", "qwen2.5-coder-32b", gpus=2))
    assert code == 1
    assert "does NOT fit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--gpu", "V100"], "there is no GPU"),
        (["--gpus", "0"], "at least 1"),
        (["--gpus", "3"], "is not whole"),
        (["--token-budget", "many"], "--token-budget"),
        (["--training.train_steps", "0"], "train_steps is 0"),
        (["--precision", "fp4"], "invalid choice"),
        (["--top", "0", "--search"], "--top must be at least 1"),
        (["--training.train_steps", "-5"], "training.train_steps must be above 0"),
        (["--data.sequence_length", "0"], "data.sequence_length must be 2 or more"),
        (["--data.sequence_length", "-8"], "data.sequence_length must be 2 or more"),
        (["--model.num_layers", "-28"], "model.num_layers must be 0 or more"),
        (["--model.hidden_size", "-1536", "--search"], "model.hidden_size must be 0 or more"),
        (["--model.head_chunk_rows", "0"], "model.head_chunk_rows must be above 0"),
        (["--training.recompute", "full", "--training.recompute_num_layers", "0"], "above 0"),
        (["--training.recompute", "selective", "--training.recompute_modules", "[]"], "is empty"),
        (["--parallel.num_distributed_optimizer_instances", "0"], "instances must be above 0"),
        (["--optimizer.optimizer_offload_fraction", "3"], "above 0 and at most 1"),
        (["--optimizer.optimizer", "sgd"], "knows only adam"),
        (["--diffusion.t_min", "2"], "diffusion.t_min must be"),
        (["--model.layer_spec", "local", "--training.offload_modules", "[qkv_linear]"], "local"),
    ],
)
def test_bad_input_is_one_sentence(config, capsys, more, match):
    assert main([*words(config), *more]) == 2
    error = capsys.readouterr().err
    assert match in error and error.count("\n") == 1


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.widths, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.links += [values[name] for name in ("src", "href") if name in values]
        if tag == "rect" and values.get("height") == "24" and values["class"] != "limit":
            self.widths.append((float(values["x"]), float(values["width"])))


def test_the_page_stands_alone(config, tmp_path, capsys):
    page = tmp_path / "plan.html"
    assert main(words(config, "--search", "--html", str(page))) == 0
    text = page.read_text(encoding="utf-8")
    read = Page()
    read.feed(text)
    assert not read.links and "script" not in read.tags and "@import" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    # The parts of a bar follow one another without gaps.
    ends = [x + width for x, width in read.widths]
    starts = [x for x, _ in read.widths]
    joined = [(end, start) for end, start in zip(ends, starts[1:], strict=False) if start > 0]
    assert joined and all(abs(end - start) < 0.02 for end, start in joined)
    shown = float(re.search(r"<b>([\d.]+) s</b><span>a step", text)[1])
    assert f"Step {shown:.3f} s" in capsys.readouterr().out


def test_a_name_is_no_markup(tmp_path, capsys):
    path = tmp_path / "a<b>&.yaml"
    path.write_text(CONFIG)
    page = tmp_path / "plan.html"
    assert main(words(path, "--html", str(page))) == 0
    assert "<h1>a&lt;b&gt;&amp;</h1>" in page.read_text(encoding="utf-8")


def test_an_illegal_layout_of_its_own_still_searches(config, capsys):
    assert main(words(config, "--search", gpus=24)) == 0
    captured = capsys.readouterr()
    assert "own layout is not legal" in captured.err
    assert "layouts fit" in captured.out
    assert "More layouts: 24 GPUs do not divide the global batch" in captured.out
