"""Figures by workload, case, system and round; tables of medians and ratios."""

import collections
import json
import statistics

from server import say

# What the project wants to reach: (workload, case begins with, of, against, at most or least).
TARGETS = [
    ("tpcb", "synchronous_commit on, 2 clients", "tps", "plain", ">=", 0.97),
    ("tpcb", "synchronous_commit on, 8 clients", "tps", "plain", ">=", 0.97),
    ("tpcb", "synchronous_commit off", "tps", "plain", ">=", 0.92),
    ("bulk", "insert", "s", "plain", "<=", 1.35),
    ("bulk", "update", "s", "plain", "<=", 1.3),
    ("bulk", "delete", "s", "plain", "<=", 2.7),
    ("bulk", "insert", "s", "trigger", "<=", 1.2),
    ("bulk", "update", "s", "trigger", "<=", 1.2),
    ("bulk", "delete", "s", "trigger", "<=", 1.6),
    ("wal", "insert", "bytes a row", "native", "<=", 1.6),
    ("wal", "update", "bytes a row", "native", "<=", 1.6),
    ("catchup", "small", "s", "native", "<=", 1 / 2),
    ("catchup", "insert", "s", "native", "<=", 1 / 2),
    ("catchup", "update", "s", "native", "<=", 1 / 1.5),
    ("catchup", "delete", "s", "native", "<=", 1 / 1.5),
    ("latency", "p50", "ms", "native", "<=", 1.3),
    ("latency", "p99", "ms", "native", "<=", 1.3),
    ("policies", "", "s", "cozesync", "<=", 1.05),
    ("bothways", "disjoint", "tps of both", "plain", ">=", 0.7),
]
OURS = "cozesync"
# Workloads in which something else of ours is set against it.
OTHERS = {"policies": "policies"}


def spread(values):
    """The median, with the least and the greatest if there are several."""
    text = f"{statistics.median(values):.4g}"
    if len(values) > 1:
        text += f" ({min(values):.4g} .. {max(values):.4g})"
    return text


class Results:
    def __init__(self):
        # workload -> (case, unit) -> system -> [figure of each round]
        self.figures = collections.OrderedDict()
        self.notes = []

    def add(self, workload, case, unit, system, figure):
        cases = self.figures.setdefault(workload, collections.OrderedDict())
        of_case = cases.setdefault((case, unit), collections.OrderedDict())
        of_case.setdefault(system, []).append(figure)
        say(f"  {case}: {system} {figure:.4g} {unit}")

    def note(self, text):
        """Something that whoever reads the table must know."""
        if text not in self.notes:
            self.notes.append(text)
            say(f"  note: {text}")

    def ratios(self, workload, case, unit, of, against):
        """Round by round; empty if one of the two was not measured."""
        systems = self.figures.get(workload, {}).get((case, unit), {})
        pairs = zip(systems.get(of, []), systems.get(against, []))
        return [a / b for a, b in pairs if b != 0]

    def systems_of(self, workload):
        found = []
        for systems in self.figures[workload].values():
            found += [name for name in systems if name not in found]
        return found

    def table(self, workload, titles):
        names = self.systems_of(workload)
        base = names[0]
        lines = ["| case | unit | " + " | ".join(titles[n] for n in names) + " |",
                 "|---|---|" + "---|" * len(names)]
        for (case, unit), systems in self.figures[workload].items():
            cells = []
            for name in names:
                cell = spread(systems[name]) if name in systems else "-"
                ratio = self.ratios(workload, case, unit, name, base) if name != base else []
                if ratio:
                    cell += f"; **{statistics.median(ratio):.2f}**"
                cells.append(cell)
            lines.append(f"| {case} | {unit} | " + " | ".join(cells) + " |")
        if len(names) > 1:
            lines += ["", f"Bold: the ratio to \"{titles[base]}\", taken round by round."]
        return lines

    def against_targets(self, titles):
        lines = []
        for workload, begins, of, against, relation, limit in TARGETS:
            for case, unit in self.figures.get(workload, {}):
                if not case.startswith(begins) or unit != of:
                    continue
                ratio = self.ratios(workload, case, unit, OTHERS.get(workload, OURS), against)
                if not ratio:
                    continue
                median = statistics.median(ratio)
                reached = median >= limit if relation == ">=" else median <= limit
                lines.append(f"| {workload}: {case} | {unit} / {titles[against]} | {relation} {limit:.2f} | "
                             f"{spread(ratio)} | {'yes' if reached else 'no'} |")
        if lines:
            lines = ["| workload | ratio | wanted | measured | reached |", "|---|---|---|---|---|"] + lines
        return lines

    def dump(self, path, about):
        flat = [{"workload": w, "case": c, "unit": u, "system": s, "figures": f}
                for w, cases in self.figures.items() for (c, u), systems in cases.items()
                for s, f in systems.items()]
        with open(path, "w") as out:
            json.dump({"about": about, "notes": self.notes, "figures": flat}, out, indent=1)
            out.write("\n")
