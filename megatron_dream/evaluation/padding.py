"""What of the sft stage's compute goes into PAD, by way of cutting and filling: a table and a plot.

A way decides how far answers are filled (PAD that is noised and pays) and, with the micro-batch, how much
dead padding is computed beside it. Only lengths are looked at, through the stream that training reads, so
the shares are those of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..config.schema import DiffusionConfig, RunConfig, SftConfig, SourceConfig
from ..data.sft.build import build_sft_streams
from ..data.sft.stream import SftStream
from ..files import atomic_write, write_json
from ..tokenizer.load import load_tokenizer
from .plots import import_pyplot, save_figure

LIKE_LENGTHS = 16  # samples of like length in a row, where a way groups them
WAYS = MappingProxyType(
    {
        "to the maximum": {"truncation": "off", "pad": "max"},
        "to the longest": {"truncation": "off", "pad": "longest"},
        "random_with_input_pad": {"truncation": "random_with_input_pad"},
        "random": {"truncation": "random"},
        "dead only": {"truncation": "off"},
        "dead only, like lengths": {"truncation": "off", "length_group_size": LIKE_LENGTHS},
        "random_with_input_pad, like lengths": {
            "truncation": "random_with_input_pad",
            "length_group_size": LIKE_LENGTHS,
        },
    }
)


@dataclasses.dataclass
class Shares:
    """Positions that a model computes, of some global batches.

    Attributes:
        way: a name of ``WAYS``.
        positions: all of them.
        text: prompts, answers and their ends.
        filled: PAD behind answers, which pays.
        dead: padding that nobody attends.
        cut: tokens of samples that stand in no row.
    """

    way: str
    positions: int = 0
    text: int = 0
    filled: int = 0
    dead: int = 0
    cut: int = 0

    @property
    def pad_share(self) -> float:
        """Filled and dead of all positions."""
        return (self.filled + self.dead) / self.positions

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "pad_share": self.pad_share}


def analyze_padding(
    data: Sequence[Path | str],
    tokenizer: Path | str,
    output: Path | str,
    *,
    sequence_length: int = 4000,
    global_batch_size: int = 576,
    micro_batch_size: int = 8,
    steps: int = 20,
) -> list[Shares]:
    """Write ``padding.json``, ``padding.md`` and ``padding.png`` into a folder, and print the table.

    Args:
        data: prefixes that prepare-sft wrote.
        tokenizer: the one that it was given.
        output: a folder; made if missing.
        sequence_length: maximum of a row.
        global_batch_size: samples of a step; a truncation group.
        micro_batch_size: rows that are computed side by side.
        steps: how many global batches are counted.

    Raises:
        UserError: data that cannot be read, or samples longer than a row.
    """
    config = RunConfig()
    config.data.train = [SourceConfig(prefix=str(prefix)) for prefix in data]
    config.data.sequence_length = sequence_length
    config.training.global_batch_size = global_batch_size
    found = [
        shares_of(way, stream, global_batch_size * steps, micro_batch_size)
        for way, stream in streams_of(config, tokenizer, global_batch_size * steps)
    ]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "sequence_length": sequence_length,
        "global_batch_size": global_batch_size,
        "micro_batch_size": micro_batch_size,
        "samples": global_batch_size * steps,
        "ways": [shares.as_dict() for shares in found],
    }
    write_json(folder / "padding.json", about)
    table = table_of(found)
    with atomic_write(folder / "padding.md") as stream:
        stream.write(table)
    plot_shares(found, folder / "padding.png")
    print(table, end="")
    return found


def streams_of(
    config: RunConfig, tokenizer: Path | str, samples: int
) -> Iterable[tuple[str, SftStream]]:
    """The stream of each way over the same data."""
    loaded = load_tokenizer(tokenizer)
    for way, fields in WAYS.items():
        run = dataclasses.replace(
            config,
            sft=SftConfig(**fields),  # type: ignore[arg-type]
            diffusion=DiffusionConfig(),
        )
        stream, _, _ = build_sft_streams(run, loaded, train_samples=samples)
        assert isinstance(stream, SftStream)
        yield way, stream


def shares_of(
    way: str, stream: SftStream, samples: int, micro_batch_size: int, first: int = 0
) -> Shares:
    """Count the positions of ``samples`` samples of a stream from ``first`` on."""
    shares = Shares(way)
    end = first + samples
    for start in range(first, end, micro_batch_size):
        members = range(start, min(start + micro_batch_size, end))
        fits = [stream.fit(n) for n in members]
        width = max(fit.total for fit in fits)
        for n, fit in zip(members, fits, strict=True):
            kept = fit.prompt + fit.response + fit.end
            shares.positions += width
            shares.text += kept
            shares.filled += fit.fill
            shares.dead += width - fit.total
            shares.cut += sum(stream.samples.lengths(n)) + 1 - kept
    return shares


def table_of(found: Sequence[Shares]) -> str:
    """Markdown, a line a way."""
    lines = [
        "| answers padded | PAD of all positions | filled | dead | positions a sample's text | cut off |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.way} | {one.pad_share:.1%} | {one.filled / one.positions:.1%} "
            f"| {one.dead / one.positions:.1%} | {one.positions / one.text:.2f} "
            f"| {one.cut / (one.cut + one.text):.1%} |"
        )
    return "\n".join(lines) + "\n"


def plot_shares(found: Sequence[Shares], path: Path) -> None:
    """One bar a way: text, filled, dead.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(found) + 1.2))
    left = [0.0] * len(found)
    for name, color in (("text", "#4c72b0"), ("filled", "#dd8452"), ("dead", "#c7c7c7")):
        widths = [getattr(one, name) / one.positions for one in found]
        axes.barh([one.way for one in found], widths, left=left, label=name, color=color)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of computed positions")
    axes.legend(loc="lower right", frameon=False, ncols=3, bbox_to_anchor=(1, 1))
    save_figure(figure, path)
