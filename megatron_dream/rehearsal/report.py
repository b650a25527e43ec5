"""What a rehearsal found, as a page for a person and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..config.layout import Layout
from .communicators import Groups
from .data import DataReport
from .files import SavePlan
from .shapes import RankClass

GB = 1e9


@dataclasses.dataclass
class Report:
    """Everything that a rehearsal computed.

    Attributes:
        stage: pretrain, sft or rl.
        layout: of the processes.
        gpus_per_node: that nodes were taken to have.
        classes: of ranks, by stage and tensor-parallel rank.
        parameters: of the whole model, counted from the classes.
        save: files of a save; None where the run saves nothing.
        node_memory: host memory of a save on the node where it is most, bytes.
        disk_bytes: of all checkpoints that lie there at once, at most.
        groups: communicators.
        data: what is read; None in rl and without files.
        problems: what rl asks; None in other stages.
        start: what the run starts from.
        notes: what was not checked, or is still to happen.
        warnings: what is possible and unwise.
    """

    stage: str
    layout: Layout
    gpus_per_node: int
    classes: list[RankClass]
    parameters: int
    save: SavePlan
    node_memory: int
    disk_bytes: int
    groups: list[Groups]
    data: DataReport | None
    problems: str | None
    start: str
    notes: list[str]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. Members of groups and sizes of single files are there, tensors' places are not."""
        found = dataclasses.asdict(self)
        for held in found["classes"]:
            del held["tensors"], held["optimizer_tensors"], held["shard_parts"]
        found["save"]["total_bytes"] = self.save.total
        found["layout"]["equation"] = self.layout.equation()
        return found

    def lines(self) -> list[str]:
        """For a person: a name and what was found a line."""
        nodes = -(-self.layout.world_size // self.gpus_per_node)
        rows = [
            (
                "rehearsal",
                f"{self.stage} on {self.layout.world_size:,} GPUs, {nodes:,} nodes of {self.gpus_per_node}; "
                "nothing was started or written",
            ),
            ("layout", self.layout.equation()),
            *(("ranks", line) for line in _class_lines(self.classes)),
            ("parameters", f"{self.parameters:,} in all, as the formula says"),
            *(("groups", str(groups)) for groups in self.groups),
            *(("data", line) for line in self._data_lines()),
            ("start", self.start),
            *(("save", line) for line in self._save_lines()),
            *(("note", note) for note in self.notes),
            *(("warning", warning) for warning in self.warnings),
        ]
        return [f"{name:<11} {text}" for name, text in rows]

    def _data_lines(self) -> list[str]:
        if self.problems is not None:
            return [self.problems]
        if self.data is None:
            return []
        data = self.data
        index = data.index_hash or "not built yet"
        lines = [f"samples {data.first:,} to {data.samples:,} of the stream; index {index}"]
        for rank, (first, last) in data.by_rank.items():
            lines.append(
                f"next step, data-parallel rank {rank}: ordinals {first[0]:,} to {first[1] - 1:,} first, "
                f"{last[0]:,} to {last[1] - 1:,} last"
            )
        for name, rows, epochs in data.sources:
            lines.append(f"{name}: {rows:,} rows an epoch, read {epochs:,.2f} times")
        return lines

    def _save_lines(self) -> list[str]:
        save = self.save
        per_rank = save.by_rank.values()
        return [
            f"{save.optimizer_format}: {save.total / GB:,.1f} GB in {len(save.files):,} files "
            f"(weights {save.model_bytes / GB:,.1f}, optimizer {save.optimizer_bytes / GB:,.1f}); a rank "
            f"writes {min(per_rank) / GB:,.2f} to {max(per_rank) / GB:,.2f} GB",
            f"on disk at once at most {self.disk_bytes / GB:,.1f} GB",
            f"host memory of a save: up to {max(c.save.peak for c in self.classes) / GB:,.2f} GB a rank, "
            f"{self.node_memory / GB:,.2f} GB a node",
        ]


def _class_lines(classes: list[RankClass]) -> list[str]:
    """A line for each stage; tensor-parallel ranks that differ get their own."""
    lines: list[str] = []
    by_facts: dict[Any, list[RankClass]] = {}
    for held in classes:
        facts = (held.stage, held.parameters, held.gradient_bytes, held.optimizer_bytes)
        by_facts.setdefault(facts, []).append(held)
    for alike in by_facts.values():
        held = alike[0]
        parts = (["embedding"] if held.has_embedding else []) + [_numbers(held.layers)]
        parts += ["head"] if held.has_head else []
        tp = f"TP ranks {alike[0].tp_rank} to {alike[-1].tp_rank}, " if len(alike) > 1 else ""
        lines.append(
            f"stage {held.stage}: {tp}{len(alike) * len(held.members):,} ranks ({', '.join(parts)}): "
            f"{held.parameters:,} parameters each; weights {held.weight_bytes / GB:,.2f}, gradients "
            f"{held.gradient_bytes / GB:,.2f}, optimizer {held.optimizer_bytes / GB:,.2f} GB"
        )
    return lines


def _numbers(layers: list[int]) -> str:
    """``layers 0 to 6, 14 to 20``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return "layers " + ", ".join(f"{a} to {b}" if a != b else str(a) for a, b in runs)
