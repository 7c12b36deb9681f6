"""The runs of a sweep, ranked: a polars frame as Parquet, a table on the terminal and in Markdown, and a picture.

Better is a greater sum of Performance Shift's measured parts; which runs are worth having at all is the Pareto front
of forgetting against retention.
"""

import io
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipeline.console import print_table, say
from stages.errors import DataError
from stages.files import read_json, write_atomically
from stages.markdown_text import escaped
from stages.toml_text import toml_text, toml_value

if TYPE_CHECKING:
    import optuna

    from pipeline.sweep import Sweep

RECALL = "rouge_l_recall"


class Leaderboard:
    """Rows of one sweep folder. Use `collect` first; everything else reads `frame`."""

    def __init__(self, folder: Path, forget_files: Sequence[str]) -> None:
        self.folder = folder
        self.forget_files = tuple(forget_files)
        self.frame = pl.DataFrame()
        self.others: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return self.frame.height

    @property
    def failed(self) -> list[str]:
        """Why each failed run failed."""
        return self.frame.filter(pl.col("state") == "failed")["error"].to_list() if len(self) else []

    def objectives(self, run: Path, model: str = "student") -> tuple[float, float]:
        """Mean recall on the forget files (less is better) and on the others (more is better), in points."""
        from stages.evaluation.scores import scores_frame

        scores = scores_frame(read_json(run / "evaluation.json")["scores"])
        plain = scores.filter(
            pl.col("attack").is_null() & (pl.col("metric") == RECALL) & (pl.col("model") == model)
        ).with_columns(forget=pl.col("file").is_in(self.forget_files))
        means = dict(plain.group_by("forget").agg(pl.col("mean").mean()).iter_rows())
        if len(means) != 2:
            raise DataError(
                "A sweep needs question files on what is to be forgotten and on what is to be kept.",
                "One of the two is missing, so runs cannot be ranked.",
                "Name both under [evaluation.validation], and evaluation.forget_files.",
            )
        return means[True], means[False]

    def collect(self, trials: Sequence["optuna.trial.FrozenTrial"], sweep: "Sweep") -> None:
        """Read every run that the study knows, the best first, and write leaderboard.{parquet,md,png}."""
        # A trial that was killed before its point was chosen says nothing.
        told = [trial for trial in trials if trial.state.is_finished() and "axes" in trial.user_attrs]
        latest = {json.dumps(trial.user_attrs["axes"], sort_keys=True): trial for trial in told}
        rows = []
        for trial in latest.values():
            axes = trial.user_attrs["axes"]
            if "run" in trial.user_attrs:
                run = self.folder / trial.user_attrs["run"]
                rows.append({**self._row(run), "command": self._command(run, axes, sweep), **axes})
                for model in ("base", "teacher"):
                    self.others.setdefault(model, self.objectives(run, model))
            else:
                error = trial.user_attrs.get("error", "interrupted")
                rows.append({"state": "failed", "error": error, **axes})
        frame = pl.DataFrame(rows, infer_schema_length=None)
        if "shift" in frame.columns:
            frame = frame.sort("shift", descending=True, nulls_last=True)
        self.frame = frame
        table = io.BytesIO()
        frame.write_parquet(table)
        write_atomically(self.folder / "leaderboard.parquet", table.getvalue())
        if "forget" in frame.columns:
            write_atomically(self.folder / "leaderboard.md", self.markdown().encode())
            self.draw(self.folder / "leaderboard.png")

    def _row(self, run: Path) -> dict[str, Any]:
        evaluation = read_json(run / "evaluation.json")
        record = read_json(run / "run.json")
        forget, kept = self.objectives(run)
        scores = {
            f"{s['file']}{', ' + s['attack'] if s['attack'] else ''}, {s['metric']}": s["mean"]
            for s in evaluation["scores"]
            if s["model"] == "student"
        }
        return {
            "state": "finished",
            "error": None,
            "run": run.name,
            "forget": forget,
            "kept": kept,
            "shift": evaluation["performance_shift"]["sum_of_measured"],
            "loss_forget": record["last_step"]["loss_forget"],
            "loss_retain": record["last_step"]["loss_retain"],
            "seconds": record["seconds"],
            **scores,
        }

    def _command(self, run: Path, axes: dict[str, Any], sweep: "Sweep") -> str:
        values = [*sweep.overrides, *(f"{name}={toml_value(value)}" for name, value in axes.items())]
        options = " ".join(f"--set {shlex.quote(value)}" for value in values if not value.startswith("sweep."))
        cache = read_json(run / "run.json")["cache"]
        return f"duet distill --config {shlex.quote(sweep.config)} {options} --cache {cache} --out RUN"

    def axes(self) -> list[str]:
        """Columns that are axes."""
        return [name for name in self.frame.columns if name.startswith(("student.", "teacher."))]

    def front(self) -> list[str]:
        """Runs that no other run beats in forgetting and in retention at once."""
        done = self.frame.filter(pl.col("state") == "finished")
        points = list(zip(done["run"], done["forget"], done["kept"], strict=True))
        return [
            name
            for name, forget, kept in points
            if not any(f <= forget and k >= kept and (f, k) != (forget, kept) for _, f, k in points)
        ]

    def _lines(self) -> tuple[list[str], list[list[str]]]:
        # What a person reads first: where it stands, what was set, what came out.
        recalls = [name for name in self.frame.columns if name.endswith(", " + RECALL)]
        titles = [name.removesuffix(", " + RECALL) for name in recalls]
        degenerate = [name for name in self.frame.columns if name.endswith(", degenerate_rate")]
        head = [
            *(axis.split(".")[1] for axis in self.axes()),
            *titles,
            "degenerate, worst",
            "PS, measured parts",
            "front",
        ]
        front = set(self.front())
        lines = []
        for row in self.frame.filter(pl.col("state") == "finished").iter_rows(named=True):
            figures = [row[name] for name in recalls] + [max(row[name] for name in degenerate), row["shift"]]
            cells = ["–" if value is None else f"{value:.1f}" for value in figures]
            lines.append([*(str(row[axis]) for axis in self.axes()), *cells, "*" if row["run"] in front else ""])
        return head, lines

    def markdown(self) -> str:
        """The finished runs as a Markdown table, base and teacher in a line below."""
        head, lines = self._lines()
        title, *rows = (f"| {' | '.join(map(escaped, line))} |" for line in (head, *lines))
        table = [title, "|" + "---:|" * len(head), *rows]
        others = "; ".join(
            f"{name}: forget {forget:.1f}, kept {kept:.1f}" for name, (forget, kept) in self.others.items()
        )
        return "\n".join([*table, "", f"ROUGE-L recall in points (0–100). Mean over files, {others}."]) + "\n"

    def show(self) -> None:
        """The table on stdout, and where the rest lies."""
        if "forget" not in self.frame.columns:
            return
        head, lines = self._lines()
        print_table(f"{len(lines)} runs, the best first (* on the Pareto front)", head, lines, left=0)
        say(f"{self.folder}/leaderboard.parquet has every column; leaderboard.png shows forgetting against retention.")

    def draw(self, path: Path) -> None:
        """Forgetting against retention, one dot per run, the Pareto front as a line."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        done = self.frame.filter(pl.col("state") == "finished")
        figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
        axis.scatter(done["forget"], done["kept"], s=22, color="tab:blue", label="runs")
        front = done.filter(pl.col("run").is_in(self.front())).sort("forget")
        axis.step(front["forget"], front["kept"], where="post", color="tab:blue", linewidth=1, label="Pareto front")
        for (name, point), marker in zip(self.others.items(), "sD", strict=False):
            axis.scatter(*point, marker=marker, color="tab:orange" if name == "teacher" else "black", label=name)
        axis.set_xlabel("recall on forget files, points  (← better)")
        axis.set_ylabel("recall on the others, points  (better →)")
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, format="png")
        plt.close(figure)
        write_atomically(path, picture.getvalue())

    def write_preset(self, path: Path) -> None:
        """The best run's settings as TOML, to be used as --config."""
        best = self.frame.filter(pl.col("state") == "finished").row(0, named=True)
        settings = read_json(self.folder / "runs" / best["run"] / "run.json")["settings"]
        settings.pop("sweep", None)
        head = f"# The best of {len(self)} runs in {self.folder}: {best['command']}\n\n"
        write_atomically(path, (head + toml_text(settings)).encode())
        say(f"{path} holds the best run's settings:  duet distill --config {path} …")
