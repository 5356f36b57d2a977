#!/usr/bin/env python3
"""Measure what capture costs and how fast a backlog is caught up.

Every workload runs with and without cozesync in turn, in the same run on the
same machine, the order changing from round to round; what counts is the
ratio, given as the median of the rounds with the least and the greatest.

  tpcb     pgbench's TPC-B-like script, captured against not, by
           synchronous_commit and number of clients (transactions per second,
           and processor time of the sessions for one transaction)
  bulk     one statement that inserts, updates, deletes a million rows,
           captured against not (seconds, and processor time of the session)
  catchup  a backlog of small transactions made while the link rests, applied
           by a peer, against native logical replication (seconds)
"""

import argparse
import datetime
import os
import re
import statistics
import subprocess
import sys
import time

CONF = """
listen_addresses = ''
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
max_connections = 60
max_worker_processes = 16
log_line_prefix = '%m [%p] '
"""
COZE_CONF = "shared_preload_libraries = 'cozesync'\n"
LOGICAL_CONF = "wal_level = logical\n"


class Server:
    """A server of its own below the working folder, reached by its socket."""

    def __init__(self, args, name, conf):
        self.bindir = args.bindir
        self.name = name
        self.dir = os.path.join(args.folder, name)
        os.makedirs(self.dir)
        self.data = os.path.join(self.dir, "d")
        self.call("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-N",
                  "--no-locale", "-E", "UTF8")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as out:
            out.write(CONF + conf + f"unix_socket_directories = '{self.dir}'\n")
        self.call("pg_ctl", "-s", "-w", "-D", self.data, "-l", os.path.join(self.dir, "log"), "start")
        with open(os.path.join(self.data, "postmaster.pid")) as pid:
            self.pid = int(pid.readline())

    def sessions(self):
        """Whether a session runs, or has ended and is not yet accounted for."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            for pid in children.read().split():
                try:
                    with open(f"/proc/{pid}/cmdline") as cmdline:
                        title = cmdline.read()
                except OSError:
                    continue
                if title == "" or "[local]" in title:
                    return True
        return False

    def cpu(self):
        """Processor seconds of the sessions that have ended, once all have."""
        while self.sessions():
            time.sleep(0.01)
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")

    def call(self, program, *arguments, stdin=None):
        done = subprocess.run([os.path.join(self.bindir, program), *arguments], input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{self.name}: {program} {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def stop(self):
        self.call("pg_ctl", "-s", "-m", "immediate", "-D", self.data, "stop")

    def dsn(self, db="postgres"):
        return f"host={self.dir} dbname={db} user=postgres"

    def sql(self, statements, db="postgres"):
        return self.call("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(db),
                         "-f", "-", stdin=statements).strip()

    def pgbench(self, *arguments, db="postgres"):
        return self.call("pgbench", "-n", *arguments, self.dsn(db))

    def timed(self, statement, db="postgres"):
        began = time.monotonic()
        self.sql(statement, db)
        return time.monotonic() - began


class Results:
    """Pairs of figures by case, and the table made of them."""

    def __init__(self):
        self.cases = {}

    def add(self, case, unit, plain, coze):
        self.cases.setdefault((case, unit), []).append((plain, coze))
        print(f"  {case}: {plain:.4g} -> {coze:.4g} {unit} ({coze / plain:.3f})")

    def table(self, names):
        def spread(values):
            return f"{statistics.median(values):.4g} ({min(values):.4g} .. {max(values):.4g})"

        lines = [f"| case | unit | {names[0]} | {names[1]} | ratio | rounds |",
                 "|---|---|---|---|---|---|"]
        for (case, unit), pairs in self.cases.items():
            ratio = [coze / plain for plain, coze in pairs]
            lines.append(f"| {case} | {unit} | {spread([p for p, _ in pairs])} | "
                         f"{spread([c for _, c in pairs])} | {statistics.median(ratio):.3f} "
                         f"({min(ratio):.3f} .. {max(ratio):.3f}) | {len(pairs)} |")
        return lines


def in_turn(number, plain, coze):
    """Run both, the other one first every second round; (plain, coze)."""
    if number % 2 == 0:
        first = plain()
        return first, coze()
    second = coze()
    return plain(), second


def make_group(server, db, tables):
    server.sql("CREATE EXTENSION cozesync;"
               f"SELECT cozesync.create_group('bench', node_name => '{server.name}', "
               f"dsn => '{server.dsn(db)}');" +
               "".join(f"SELECT cozesync.add_table('{table}');" for table in tables), db)


def measure_tpcb(args, results):
    server = Server(args, "tpcb", COZE_CONF)
    for db in ("plain", "coze"):
        server.sql(f"CREATE DATABASE {db}")
        server.pgbench("-i", "-q", "-s", str(args.scale), db=db)
        server.sql("ALTER TABLE pgbench_history ADD id bigint GENERATED BY DEFAULT "
                   "AS IDENTITY PRIMARY KEY", db)
    make_group(server, "coze", ["pgbench_accounts", "pgbench_branches", "pgbench_tellers",
                                "pgbench_history"])

    def run(db, clients, commit):
        server.sql("VACUUM ANALYZE; CHECKPOINT;", db)
        server.sql(f"ALTER DATABASE {db} SET synchronous_commit = {commit}")
        before = server.cpu()
        out = server.pgbench("-c", str(clients), "-j", "2", "-T", str(args.seconds), db=db)
        used = server.cpu() - before
        done = int(re.search(r"actually processed: (\d+)", out).group(1))
        return float(re.search(r"^tps = ([0-9.]+)", out, re.M).group(1)), used / done * 1e6

    for number in range(args.rounds):
        for commit in ("on", "off"):
            for clients in (2, 8):
                plain, coze = in_turn(number, lambda: run("plain", clients, commit),
                                      lambda: run("coze", clients, commit))
                case = f"tpcb, synchronous_commit {commit}, {clients} clients"
                results.add(case, "tps", plain[0], coze[0])
                results.add(case, "us of CPU each", plain[1], coze[1])
    server.stop()


def measure_bulk(args, results):
    server = Server(args, "bulk", COZE_CONF)
    for db in ("plain", "coze"):
        server.sql(f"CREATE DATABASE {db}")
        server.sql("CREATE TABLE t (id bigint PRIMARY KEY, n int, word text, at timestamptz)", db)
    make_group(server, "coze", ["t"])
    statements = {
        "insert": "INSERT INTO t SELECT g, g % 1000, 'row number ' || g, timestamptz '2020-02-02' "
                  f"+ g * interval '1 second' FROM generate_series(1, {args.rows}) g",
        "update": "UPDATE t SET n = n + 1",
        "delete": "DELETE FROM t",
    }

    def run(db, statement):
        server.sql("CHECKPOINT")
        before = server.cpu()
        took = server.timed(statement, db)
        return took, server.cpu() - before

    for number in range(args.rounds):
        for name, statement in statements.items():
            plain, coze = in_turn(number, lambda: run("plain", statement),
                                  lambda: run("coze", statement))
            case = f"bulk {name}, {args.rows} rows in one statement"
            results.add(case, "s", plain[0], coze[0])
            results.add(case, "s of CPU", plain[1], coze[1])
            for db in ("plain", "coze"):
                server.sql("VACUUM ANALYZE t", db)
    server.stop()


BACKLOG_TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int, word text)"
BACKLOG_ROWS = "INSERT INTO t SELECT g, 0, 'row number ' || g FROM generate_series(1, 100000) g"
BACKLOG_SCRIPT = "\\set id random(1, 100000)\nUPDATE t SET n = n + 1 WHERE id = :id;\n"


def make_backlog(args, server):
    script = os.path.join(args.folder, "backlog.sql")
    with open(script, "w") as out:
        out.write(BACKLOG_SCRIPT)
    server.sql("ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf()")
    server.pgbench("-f", script, "-c", "4", "-j", "2", "-t", str(args.backlog // 4))
    server.sql("ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf(); CHECKPOINT")


def check_equal(one, other):
    digest = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t"
    if one.sql(digest) != other.sql(digest):
        sys.exit(f"{one.name} and {other.name} differ after catching up")


def wait_until(server, query):
    while server.sql(query) != "t":
        time.sleep(0.02)


def measure_catchup(args, results):
    native = [Server(args, name, LOGICAL_CONF) for name in ("n1", "n2")]
    coze = [Server(args, name, COZE_CONF) for name in ("c1", "c2")]
    for server in (native[0], native[1], coze[0]):
        server.sql(BACKLOG_TABLE)
    native[0].sql(BACKLOG_ROWS + "; CREATE PUBLICATION p FOR TABLE t")
    native[1].sql(f"CREATE SUBSCRIPTION s CONNECTION '{native[0].dsn()}' PUBLICATION p")
    wait_until(native[1], "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")
    coze[0].sql(BACKLOG_ROWS)
    make_group(coze[0], "postgres", ["t"])
    coze[1].sql("CREATE EXTENSION cozesync;"
                f"CALL cozesync.join_group(node_name => 'c2', dsn => '{coze[1].dsn()}', "
                f"via => '{coze[0].dsn()}')")

    def native_seconds():
        native[1].sql("ALTER SUBSCRIPTION s DISABLE")
        wait_until(native[0], "SELECT NOT active FROM pg_replication_slots")
        make_backlog(args, native[0])
        end = native[0].sql("SELECT pg_current_wal_insert_lsn()")
        began = time.monotonic()
        native[1].sql("ALTER SUBSCRIPTION s ENABLE")
        wait_until(native[0], f"SELECT coalesce(max(replay_lsn) >= '{end}', false) "
                              "FROM pg_stat_replication")
        took = time.monotonic() - began
        check_equal(*native)
        return took

    def coze_seconds():
        for server in coze:
            server.sql("SELECT cozesync.pause()")
        make_backlog(args, coze[0])
        began = time.monotonic()
        for server in coze:
            server.sql("SELECT cozesync.resume()")
        if coze[0].sql("SELECT cozesync.wait_for_sync('20 minutes')") != "t":
            sys.exit("cozesync did not catch up within 20 minutes")
        took = time.monotonic() - began
        check_equal(*coze)
        return took

    for number in range(args.rounds):
        plain, ours = in_turn(number, native_seconds, coze_seconds)
        results.add(f"catching up on {args.backlog} one-row transactions", "s", plain, ours)
        for server in native + coze:
            server.sql("VACUUM t")
    for server in native + coze:
        server.stop()


WORKLOADS = {
    "tpcb": (measure_tpcb, ("without capture", "with capture")),
    "bulk": (measure_bulk, ("without capture", "with capture")),
    "catchup": (measure_catchup, ("native logical", "cozesync")),
}


def machine(args):
    with open("/proc/meminfo") as info:
        memory = int(re.search(r"MemTotal: +(\d+)", info.read()).group(1)) // 1024 // 1024
    version = subprocess.run([os.path.join(args.bindir, "postgres"), "--version"],
                             stdout=subprocess.PIPE, text=True).stdout.strip()
    return (f"{version}; {os.cpu_count()} cores, {memory} GiB; cozesync {args.revision}; "
            f"load average at the start {os.getloadavg()[0]:.1f}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", default="tpcb,bulk,catchup", help="of: " + ", ".join(WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10, help="of one pgbench run")
    parser.add_argument("--scale", type=int, default=10, help="of pgbench's tables")
    parser.add_argument("--rows", type=int, default=1000000, help="of a bulk statement")
    parser.add_argument("--backlog", type=int, default=200000, help="transactions to catch up on")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--bindir", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--revision", default="unknown")
    args = parser.parse_args()
    names = args.workloads.split(",")
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        parser.error("no such workload: " + ", ".join(unknown))

    lines = [f"# Measurements of {datetime.date.today()}", "", machine(args), "",
             "Medians of the rounds, with the least and the greatest. A ratio is cozesync's figure",
             "by the other one, taken round by round.", ""]
    for name in names:
        print(f"{name} ...")
        measure, columns = WORKLOADS[name]
        results = Results()
        measure(args, results)
        lines += [f"## {name}", ""] + results.table(columns) + [""]
        with open(args.output, "w") as out:
            out.write("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
