"""Rank agreement between fidelities on the recorded table: what justifies the rungs.

    python -m tests.benchmarks.thrift.ranks

Spearman's correlation of the accuracy without training and after one epoch with that of the full
schedule, over all candidates, by crossbar height and by method; and of the full schedule from two
seeds, which is as high as any fidelity can reach. Writes `results/ranks.md`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.stats import bootstrap, spearmanr

from tests.benchmarks.thrift.record import rows
from tests.benchmarks.thrift.run import RESULTS

Row = Mapping[str, Any]


def main() -> None:
    table = rows()
    first = [row for row in table if row["seed"] == 0]
    groups: dict[str, Callable[[Row], bool]] = {"all": lambda _: True}
    for wordlines in sorted({row["wordlines"] for row in first}):
        groups[f"{wordlines} wordlines"] = lambda row, w=wordlines: row["wordlines"] == w
    for method in sorted({row["method"] for row in first}):
        groups[method] = lambda row, m=method: row["method"] == m
    lines = [
        "Spearman's rank correlation with the accuracy of the full schedule "
        "(95 % bootstrap interval).",
        "",
        "| candidates | n | no training | one epoch |",
        "|---|---|---|---|",
    ]
    for name, belongs in groups.items():
        own = [row for row in first if belongs(row)]
        cells = [agreement([(a[rung], a[-1]) for a in map(accuracies, own)]) for rung in (0, 1)]
        lines.append(f"| {name} | {len(own)} | {cells[0]} | {cells[1]} |")
    again = {row["candidate"]: accuracies(row)[-1] for row in table if row["seed"] == 1}
    pairs = [
        (accuracies(row)[-1], again[row["candidate"]]) for row in first if row["candidate"] in again
    ]
    lines += ["", f"Full schedule from two seeds: {agreement(pairs)}, n = {len(pairs)}."]
    (RESULTS / "ranks.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def accuracies(row: Row) -> list[float]:
    """By rung."""
    return [rung["values"]["accuracy"] for rung in row["rungs"]]


def agreement(pairs: Sequence[tuple[float, float]]) -> str:
    """The correlation with its interval."""

    def ranked(one: Any, other: Any) -> float:
        return float(spearmanr(one, other).statistic)

    one, other = zip(*pairs, strict=True)
    interval = bootstrap(
        (one, other), ranked, paired=True, vectorized=False, n_resamples=500, random_state=0
    ).confidence_interval
    return f"{ranked(one, other):.2f} ({interval.low:.2f} to {interval.high:.2f})"


if __name__ == "__main__":
    main()
