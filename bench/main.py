#!/usr/bin/env python3
"""Measure cozesync beside plain PostgreSQL and what else can do its work.

Every workload runs on every system in turn, in one run on one machine, the order changing
from round to round; what counts is the ratio, taken round by round.

  tpcb      pgbench's TPC-B-like script while changes are captured
  bulk      many rows inserted, updated, deleted by one statement, or copied in
  wal       bytes of WAL, and of the system's own log, for a row
  wide      rows of 100 columns
  large     values of 1 MB, changed and left alone
  catchup   a backlog, of small transactions and of large ones, applied by a follower
  latency   from commit to visible on the follower, at 100 and 1,000 transactions a second
  policies  a table under last_update_wins while another table has policies
  bothways  pgbench on two nodes at once, on keys of their own and on the same
  scale     2 to 8 nodes, 1 to 1,000 tables; memory
  away      a member is away while ten million rows are written; memory, the pace of writing
"""

import argparse
import datetime
import os
import re
import subprocess
import sys
import time
import traceback

import psycopg2

import peers
import plot
import systems
import workload_capture
import workload_group
import workload_stream
from results import Results
from server import CONF, Failed, say

SYSTEMS = {system.name: system for system in (
    systems.Plain, systems.Trigger, systems.Cozesync,
    systems.Native, peers.Pglogical, peers.Slony, peers.Londiste, systems.Audit)}

# What it is, and the unit that its picture shows.
WORKLOADS = {
    "bulk": (workload_capture.bulk, "One statement, with changes captured", "s"),
    "tpcb": (workload_capture.tpcb, "pgbench, with changes captured", "tps"),
    "wal": (workload_capture.wal, "WAL for a row", "bytes a row"),
    "wide": (workload_capture.wide, "Rows of 100 columns", "s"),
    "large": (workload_capture.large, "Values of 1 MB", "s"),
    "catchup": (workload_stream.catchup, "Catching up on a backlog", "s"),
    "latency": (workload_stream.latency, "From commit to visible over there", "ms"),
    "policies": (workload_stream.policies, "While another table has policies", "s"),
    "bothways": (workload_group.bothways, "pgbench on two nodes at once", "tps of both"),
    "scale": (workload_group.scale, "Larger groups", "tps"),
    "away": (workload_group.away, "A member that is away for long", "s"),
}
# Only of systems that carry changes to a second server.
CARRIES = ("catchup", "latency")
# What --quick measures, and where it leaves systems out.
QUICK = "bulk,wal,tpcb,catchup,latency"
QUICK_SYSTEMS = {"tpcb": ("plain", "cozesync")}


def numbers(text):
    return [int(word) for word in text.split(",")]


def parse():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", help="of: " + ", ".join(WORKLOADS))
    parser.add_argument("--systems", help="of: " + ", ".join(SYSTEMS))
    parser.add_argument("--quick", action="store_true", help="some five minutes: what tells most")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of one pgbench run")
    parser.add_argument("--scale", type=int, default=10, help="of pgbench's tables")
    parser.add_argument("--both-scale", type=int, help="the same, on both nodes")
    parser.add_argument("--clients", type=numbers, help="of pgbench, as 1,2,8")
    parser.add_argument("--rows", type=int, help="of a bulk statement")
    parser.add_argument("--backlog", type=int, help="small transactions to catch up on")
    parser.add_argument("--long-backlog", type=int, default=10000000, help="rows, for away")
    parser.add_argument("--nodes", type=numbers, default=[2, 4, 8], help="sizes of groups, for scale")
    parser.add_argument("--tables", type=numbers, default=[1, 100, 1000], help="for scale")
    for name in ("base", "bindir", "output"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--revision", default="unknown")
    args = parser.parse_args()
    args.all_systems = args.systems is not None or not args.quick
    defaults = dict(workloads=QUICK, systems="plain,trigger,cozesync,native",
                    rounds=3, seconds=3, both_scale=10, clients=[2, 8], rows=200000, backlog=40000) \
        if args.quick else \
        dict(workloads=",".join(WORKLOADS), systems=",".join(SYSTEMS),
             rounds=3, seconds=10, both_scale=50, clients=[1, 2, 8], rows=1000000, backlog=200000)
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.warm = not args.quick
    args.workloads = args.workloads.split(",")
    args.systems = args.systems.split(",")
    for given, known in ((args.workloads, WORKLOADS), (args.systems, SYSTEMS)):
        unknown = [name for name in given if name not in known]
        if unknown:
            parser.error("unknown: " + ", ".join(unknown))
    return args


def versions(args):
    def of(program, *arguments):
        try:
            return subprocess.run([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True, check=False).stdout.strip()
        except OSError:
            return ""
    packages = of("dpkg-query", "-W", "-f", "${Package} ${Version}; ", "postgresql-15-pglogical",
                  "slony1-2-bin", "postgresql-15-pgq3", "python3-londiste")
    return of(os.path.join(args.bindir, "postgres"), "--version"), packages


def about(args, began):
    with open("/proc/meminfo") as info:
        memory = int(re.search(r"MemTotal: +(\d+)", info.read()).group(1)) // 1024 // 1024
    with open("/proc/cpuinfo") as info:
        model = re.search(r"model name\s*: (.*)", info.read())
    postgres, packages = versions(args)
    return {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "command": "bench/run.sh " + " ".join(os.environ.get("BENCH_ARGUMENTS", "").split()),
        "revision": args.revision,
        "machine": f"{model.group(1) if model else 'processor'}, {os.cpu_count()} cores, {memory} GiB",
        "load average at the start": f"{began[0]:.1f}",
        "server": postgres,
        "peers": packages.rstrip("; "),
        "settings": "; ".join(line for line in CONF.strip().splitlines() if "prefix" not in line),
        "sizes": f"{args.rounds} rounds, {args.seconds} s of pgbench at scale {args.scale}, {args.rows} rows, "
                 f"backlog {args.backlog}",
    }


def usable(args, results):
    """The names of the systems that can be measured here; why the others cannot is noted."""
    found = []
    for name in args.systems:
        reason = SYSTEMS[name](args).missing()
        if reason:
            results.note(f"{SYSTEMS[name].title} was not measured: {reason}")
        else:
            found.append(name)
    return found


def fresh_folder(args):
    args.runs += 1
    args.folder = os.path.join(args.base, str(args.runs))
    os.makedirs(args.folder)


def stop_all(args, left):
    """What a failed run has left behind."""
    for system in left:
        system.stop()
    for folder, _, files in os.walk(args.folder):
        if "postmaster.pid" in files:
            subprocess.run([os.path.join(args.bindir, "pg_ctl"), "-s", "-m", "immediate", "-D", folder, "stop"],
                           check=False)


def run_workload(name, args, names, results):
    """Without a system that cannot do it, if need be: then a note says why, and the rest runs again."""
    names = [n for n in names if (name not in CARRIES or SYSTEMS[n].pairs) and
             (args.all_systems or n in QUICK_SYSTEMS.get(name, names))]
    while names:
        fresh_folder(args)
        chosen = [SYSTEMS[n](args) for n in names]
        try:
            WORKLOADS[name][0](args, chosen, results)
            return
        except Exception as error:
            stop_all(args, chosen)
            known = isinstance(error, (Failed, psycopg2.Error))
            results.note(f"{name}: {error if known else traceback.format_exc(limit=4)}")
            culprits = [n for n in names if str(error).startswith(n)]
            if not culprits or not known:
                return
            names = [n for n in names if n not in culprits]
            results.figures.pop(name, None)


def report(args, facts, results):
    titles = {system.name: system.title for system in (*SYSTEMS.values(), systems.Policed)}
    lines = [f"# Measurements of {facts['date']}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if key != "date" and value]
    lines += ["", "Medians of the rounds, with the least and the greatest.", ""]
    lines += ["## What is wanted", ""] + results.against_targets(titles) + [""]
    for name in results.figures:
        lines += [f"## {name}: {WORKLOADS[name][1]}", ""] + results.table(name, titles) + [""]
    if results.notes:
        lines += ["## Notes", ""] + [f"- {' '.join(note.split())}" for note in results.notes] + [""]
    with open(args.output + ".md", "w") as out:
        out.write("\n".join(lines))
    results.dump(args.output + ".json", facts)
    for name, cases in results.figures.items():
        shown = {key: of for key, of in cases.items() if key[1] == WORKLOADS[name][2]}
        with open(f"{args.output}-{name}.svg", "w") as out:
            out.write(plot.picture(WORKLOADS[name][1], shown, titles))
    return lines


def main():
    args = parse()
    args.runs = 0
    facts = about(args, os.getloadavg())
    results = Results()
    if os.getloadavg()[0] > os.cpu_count():
        results.note("the machine was busy with other work: times say little, processor time and bytes more")
    names = usable(args, results)
    lines = []
    for name in args.workloads:
        began = time.monotonic()
        say(f"{name} ...")
        run_workload(name, args, names, results)
        say(f"  took {time.monotonic() - began:.0f} s")
        facts["load average at the end"] = f"{os.getloadavg()[0]:.1f}"
        lines = report(args, facts, results)
    print("\n".join(lines))
    sys.exit(0 if results.figures else 1)


if __name__ == "__main__":
    main()
