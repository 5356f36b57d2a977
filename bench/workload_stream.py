"""How fast changes travel: catching up on a backlog, and latency when there is none."""

import os
import statistics
import subprocess
import time

from sampler import Sampler
from server import Failed, tps_of
from systems import MARK, MARK_TABLE, Cozesync, Policed
from workload_capture import BULK_ROWS, BULK_TABLE, bulk, turns

SMALL_ROWS = 100000
SMALL_TABLE = "CREATE TABLE t (id int PRIMARY KEY, n int, word text);"
SMALL_SCRIPT = f"\\set id random(1, {SMALL_ROWS})\nUPDATE t SET n = n + 1 WHERE id = :id;\n"


def make_pair(system, name, table, rows=None):
    """Source and target with a table t; the target follows."""
    source, target = system.server(f"{name}1"), system.server(f"{name}2")
    for server in (source, target):
        server.sql(table + MARK_TABLE)
    if rows:
        source.sql(rows)
    system.pair(source, target, ["t", MARK])
    system.mark()
    system.wait(300)
    return source, target


def check_equal(source, target):
    digest = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM t"
    if source.sql(digest) != target.sql(digest):
        raise Failed(f"{source.name} and {target.name} differ after catching up")


def script(args, name, text):
    path = os.path.join(args.folder, name)
    with open(path, "w") as out:
        out.write(text)
    return path


def catch_up(system, results, case, sampler, workload="catchup"):
    """Let the stream go; what it takes until the target has it all."""
    began = time.monotonic()
    system.resume()
    system.wait()
    results.add(workload, case, "s", system.name, time.monotonic() - began)
    check_equal(system.source, system.target)
    largest = max(sampler.most.values(), default=0)
    if largest:
        results.add(workload, case, "MB of the largest process", system.name, largest / 1e6)


def vacuum(system):
    for server in (system.source, system.target):
        server.sql("VACUUM t;\nCHECKPOINT;")


def small(args, systems, results, workload="catchup", prefix=""):
    rows = f"INSERT INTO t SELECT g, 0, 'row number ' || g FROM generate_series(1, {SMALL_ROWS}) g;"
    path = script(args, "small.sql", SMALL_SCRIPT)
    for system in systems:
        source, _ = make_pair(system, "small", SMALL_TABLE, rows)
        source.setting("synchronous_commit", "off")
    for number in range(args.rounds):
        for system in turns(number, systems):
            system.pause()
            system.source.pgbench("-f", path, "-c", "4", "-j", "2", "-t", str(args.backlog // 4))
            system.mark()
            vacuum(system)
            with Sampler([system.source, system.target]) as sampler:
                catch_up(system, results, f"{prefix}small: {args.backlog} transactions of one row", sampler,
                         workload)
    finish(systems)


def large(args, systems, results, workload="catchup", prefix=""):
    statements = [("insert", f"INSERT INTO t {BULK_ROWS.format(rows=args.rows)};"),
                  ("update", "UPDATE t SET n = n + 1;"),
                  ("delete", "DELETE FROM t;")]
    for system in systems:
        make_pair(system, "large", BULK_TABLE)
    for number in range(args.rounds):
        for name, statement in statements:
            for system in turns(number, systems):
                system.pause()
                system.source.sql(statement)
                system.mark()
                vacuum(system)
                with Sampler([system.source, system.target]) as sampler:
                    catch_up(system, results, f"{prefix}{name} of {args.rows} rows in one transaction", sampler,
                             workload)
    finish(systems)


def finish(systems):
    for system in systems:
        system.stop()
        for server in (system.source, system.target):
            server.stop()


def catchup(args, systems, results):
    small(args, systems, results)
    large(args, systems, results)


def policies(args, systems, results):
    """A table under last_update_wins: what it costs that another one has policies."""
    if not any(system.name == Cozesync.name for system in systems):
        return
    both = [Cozesync(args), Policed(args)]
    bulk(args, both, results, "policies", "capture: ")
    small(args, both, results, "policies", "apply: ")
    large(args, both, results, "policies", "apply: ")


# --- latency --------------------------------------------------------------------------

def probe(system, seconds):
    """Milliseconds from the end of a commit until the target shows it, many times."""
    found = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        system.marks += 1
        system.source.execute(f"UPDATE {MARK} SET n = {system.marks} WHERE id = 1")
        began = time.monotonic()
        while system.target.execute(f"SELECT n FROM {MARK} WHERE id = 1") < system.marks:
            if time.monotonic() - began > 60:
                raise Failed(f"{system.name}: a commit was not visible after a minute")
        found.append((time.monotonic() - began) * 1000)
        time.sleep(0.01)
    return found


def latency(args, systems, results):
    rows = f"INSERT INTO t SELECT g, 0, 'row number ' || g FROM generate_series(1, {SMALL_ROWS}) g;"
    path = script(args, "small.sql", SMALL_SCRIPT)
    for system in systems:
        make_pair(system, "latency", SMALL_TABLE, rows)
    for number in range(args.rounds):
        for rate in (100, 1000):
            for system in turns(number, systems):
                seconds = args.seconds
                load = subprocess.Popen(
                    [os.path.join(args.bindir, "pgbench"), "-n", "-f", path, "-c", "4", "-R", str(rate),
                     "-T", str(seconds + 2), system.source.dsn()],
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                time.sleep(1)
                found = probe(system, seconds)
                output, _ = load.communicate()
                if tps_of(output)[0] < 0.9 * rate:
                    results.note(f"latency: the load on {system.name} was {tps_of(output)[0]:.0f} instead of "
                                 f"{rate} transactions a second")
                results.add("latency", f"p50 at {rate} tps", "ms", system.name, statistics.median(found))
                results.add("latency", f"p99 at {rate} tps", "ms", system.name,
                            statistics.quantiles(found, n=100)[98])
    finish(systems)
