"""What only a group of several writers shows: load on both nodes, size of the group,
number of tables, a member that is away for long.
"""

import os
import subprocess
import threading
import time

from sampler import Sampler
from server import tps_of
from systems import MARK, MARK_TABLE
from workload_capture import BULK_ROWS, BULK_TABLE, TPCB
from workload_stream import check_equal, make_pair, script

# Accounts of the lower half of the branches, or of the upper: two nodes that do not meet.
HALF_SCRIPT = """
\\set aid random(:half * 50000 * :scale + 1, (:half + 1) * 50000 * :scale)
\\set bid random(:half * :scale / 2 + 1, (:half + 1) * :scale / 2)
\\set tid random(:half * 5 * :scale + 1, (:half + 1) * 5 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""

WAITS = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0) * 1000
FROM pg_locks l
WHERE NOT l.granted AND l.waitstart IS NOT NULL
  AND EXISTS (SELECT FROM unnest(pg_blocking_pids(l.pid)) b
              JOIN pg_stat_activity a ON a.pid = b WHERE a.backend_type = 'cozesync applier')
"""


class Waits:
    """The longest that a session was seen waiting for the applier (ms), looked at often."""

    def __init__(self, servers):
        self.servers = servers
        self.longest = 0.0
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(s,), daemon=True) for s in servers]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def run(self, server):
        with server.cursor() as cursor:
            while not self.ended.wait(0.005):
                cursor.execute(WAITS)
                self.longest = max(self.longest, float(cursor.fetchone()[0]))


def bench_tables(server, scale):
    server.pgbench("-i", "-q", "-s", str(scale))
    # keys drawn on two nodes must not collide
    server.sql("ALTER TABLE pgbench_history ADD id uuid DEFAULT gen_random_uuid() PRIMARY KEY;" + MARK_TABLE)


def run_load(args, server, path, half, clients):
    return subprocess.Popen(
        [os.path.join(args.bindir, "pgbench"), "-n", "-f", path, "-c", str(clients), "-T", str(args.seconds),
         "-D", f"half={half}", "-D", f"scale={args.both_scale}", "--max-tries=10", server.dsn()],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def conflicts(servers):
    return sum(int(s.sql("SELECT count(*) FROM cozesync.conflicts")) for s in servers)


def bothways(args, systems, results):
    """pgbench on both nodes of a pair, against one server that carries nothing."""
    plain = next((s for s in systems if s.name == "plain"), None)
    ours = next((s for s in systems if s.name == "cozesync"), None)
    if plain is None or ours is None:
        results.note("bothways needs the systems plain and cozesync")
        return
    alone = plain.server("both")
    bench_tables(alone, args.both_scale)
    nodes = [ours.server("both1"), ours.server("both2")]
    bench_tables(nodes[0], args.both_scale)
    for table in TPCB:
        nodes[1].sql(nodes[0].call("pg_dump", "-s", "-t", table, nodes[0].dsn()))
    nodes[1].sql(MARK_TABLE)
    ours.pair(nodes[0], nodes[1], TPCB + [MARK])
    halves = script(args, "half.sql", HALF_SCRIPT)
    whole = script(args, "whole.sql", HALF_SCRIPT.replace(":half * 50000 * :scale + 1, (:half + 1) * 50000", "1, 100000")
                   .replace(":half * :scale / 2 + 1, (:half + 1) * :scale / 2", "1, :scale")
                   .replace(":half * 5 * :scale + 1, (:half + 1) * 5 * :scale", "1, 10 * :scale"))
    for number in range(args.rounds):
        for case, path in (("disjoint keys", halves), ("overlapping keys", whole)):
            loads = [run_load(args, alone, path, half, 2) for half in (0, 1)]
            results.add("bothways", case, "tps of both", "plain",
                        sum(tps_of(load.communicate()[0])[0] for load in loads))
            before = conflicts(nodes)
            began = time.monotonic()
            with Waits(nodes) as waits, Sampler(nodes) as sampler:
                loads = [run_load(args, node, path, half, 2) for half, node in enumerate(nodes)]
                tps = sum(tps_of(load.communicate()[0])[0] for load in loads)
                results.add("bothways", case, "tps of both", "cozesync", tps)
                behind = time.monotonic()
                for node in nodes:
                    node.execute("SELECT cozesync.wait_for_sync('20 minutes')")
            results.add("bothways", case, "s to catch up afterwards", "cozesync", time.monotonic() - behind)
            results.add("bothways", case, "conflicts a second", "cozesync",
                        (conflicts(nodes) - before) / 2 / (behind - began))
            results.add("bothways", case, "ms, longest wait for the applier", "cozesync", waits.longest)
            results.add("bothways", case, "MB of the largest process", "cozesync",
                        max(sampler.most.values(), default=0) / 1e6)
    for server in nodes + [alone]:
        server.stop()


# --- scale ---------------------------------------------------------------------------------

def make_group(args, ours, count, star):
    """Nodes that all have each other's changes; the first is the middle of a star."""
    nodes = [ours.server(f"{'star' if star else 'mesh'}{count}x{i}") for i in range(count)]
    for node in nodes:
        node.sql("CREATE TABLE t (id int PRIMARY KEY, n int, word text);" + MARK_TABLE)
    nodes[0].sql("INSERT INTO t SELECT g, 0, 'row number ' || g FROM generate_series(1, 10000) g;")
    ours.capture(nodes[0], "postgres", ["t", MARK])
    for node in nodes[1:]:
        ours.join(node, nodes[0], ", direct_links => false" if star else "")
    return nodes


def scale_nodes(args, ours, results):
    path = script(args, "scale.sql", "\\set id random(1, 10000)\nUPDATE t SET n = n + 1 WHERE id = :id;\n")
    for star in (False, True):
        for count in args.nodes:
            nodes = make_group(args, ours, count, star)
            case = f"{'star' if star else 'mesh'} of {count}, writes on one"
            with Sampler(nodes) as sampler:
                tps, _ = tps_of(nodes[0].pgbench("-f", path, "-c", "2", "-j", "2", "-T", str(args.seconds)))
                began = time.monotonic()
                nodes[0].execute("SELECT cozesync.wait_for_sync('20 minutes')")
            results.add("scale", case, "tps", "cozesync", tps)
            results.add("scale", case, "s until all have it", "cozesync", time.monotonic() - began)
            results.add("scale", case, "MB of the linker", "cozesync", sampler.of("linker") / 1e6)
            results.add("scale", case, "MB of the applier", "cozesync", sampler.of("applier") / 1e6)
            for node in nodes:
                node.stop()


def scale_tables(args, ours, results):
    for count in args.tables:
        source, target = ours.server(f"tables{count}x1"), ours.server(f"tables{count}x2")
        make = "".join(f"CREATE TABLE t{i} (id bigint PRIMARY KEY, n int);\n" for i in range(count))
        for server in (source, target):
            server.sql(make + MARK_TABLE)
        began = time.monotonic()
        ours.pair(source, target, [f"t{i}" for i in range(count)] + [MARK])
        results.add("scale", f"{count} tables", "s to add and join", "cozesync", time.monotonic() - began)
        path = script(args, "tables.sql", f"\\set k random(0, {count - 1})\n\\set id random(1, 1000000000)\n"
                      "INSERT INTO t:k VALUES (:id, 1) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n;\n")
        with Sampler([source, target]) as sampler:
            tps, _ = tps_of(source.pgbench("-f", path, "-c", "4", "-j", "2", "-T", str(args.seconds)))
            began = time.monotonic()
            source.execute("SELECT cozesync.wait_for_sync('20 minutes')")
        results.add("scale", f"{count} tables", "tps", "cozesync", tps)
        results.add("scale", f"{count} tables", "s until the other has it", "cozesync", time.monotonic() - began)
        results.add("scale", f"{count} tables", "MB of the applier", "cozesync", sampler.of("applier") / 1e6)
        for server in (source, target):
            server.stop()


def away(args, systems, results):
    """A member that is away while very many rows are written, in transactions of 1000."""
    ours = next((s for s in systems if s.name == "cozesync"), None)
    if ours is None:
        results.note("away needs the system cozesync")
        return
    make_pair(ours, "away", BULK_TABLE)
    case = f"{args.long_backlog} rows"
    tenth = args.long_backlog // 10
    ours.pause()
    with Sampler([ours.source, ours.target]) as sampler:
        took = []
        with ours.source.cursor() as cursor:
            for part in range(10):
                began = time.monotonic()
                for first in range(part * tenth, (part + 1) * tenth, 1000):
                    rows = BULK_ROWS.format(rows="X").replace("generate_series(1, X)",
                                                              f"generate_series({first + 1}, {first + 1000})")
                    cursor.execute(f"INSERT INTO t {rows}")
                took.append(time.monotonic() - began)
        ours.mark()
        began = time.monotonic()
        ours.resume()
        ours.wait(3600)
    results.add("away", case, "s to write the first tenth", "cozesync", took[0])
    results.add("away", case, "s to write the last tenth", "cozesync", took[-1])
    results.add("away", case, "s to catch up", "cozesync", time.monotonic() - began)
    for kind in ("linker", "applier", "session"):
        results.add("away", case, f"MB of the {kind}", "cozesync", sampler.of(kind) / 1e6)
    check_equal(ours.source, ours.target)
    for server in (ours.source, ours.target):
        server.stop()


def scale(args, systems, results):
    ours = next((s for s in systems if s.name == "cozesync"), None)
    if ours is None:
        results.note("scale needs the system cozesync")
        return
    scale_nodes(args, ours, results)
    scale_tables(args, ours, results)
