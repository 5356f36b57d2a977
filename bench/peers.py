"""The peers that Debian packages: pglogical, Slony-I, Londiste on PgQ."""

import os
import subprocess
import time

from server import Failed, Server
from systems import MARK, Native, System


class Pglogical(Native):
    name = "pglogical"
    title = "pglogical"
    conf = "wal_level = logical\nshared_preload_libraries = 'pglogical'\ntrack_commit_timestamp = on\n"

    def missing(self):
        return None if self.file("pglogical.so") else "postgresql-15-pglogical is not installed"

    def server(self, name):
        # newer minor releases want to be told which output plugins are trusted
        known = subprocess.run([os.path.join(self.args.bindir, "postgres"), "--describe-config"],
                               stdout=subprocess.PIPE, text=True, check=True).stdout
        more = "output_plugin_libraries = 'pgoutput, pglogical_output'\n" if "output_plugin_libraries" in known else ""
        return Server(self.args, f"{self.name}-{name}", self.conf + more)

    def capture(self, server, db, tables):
        server.sql("CREATE EXTENSION pglogical;"
                   f"SELECT pglogical.create_node('source', '{server.dsn(db)}');" +
                   "".join(f"SELECT pglogical.replication_set_add_table('default', '{t}');" for t in tables), db)

    def pair(self, source, target, tables):
        self.source, self.target = source, target
        self.capture(source, "postgres", tables)
        target.sql("CREATE EXTENSION pglogical;"
                   f"SELECT pglogical.create_node('target', '{target.dsn()}');")
        target.sql("SET statement_timeout = '5min';"
                   "SELECT pglogical.create_subscription('bench', "
                   f"'{source.dsn()}', synchronize_structure => false, synchronize_data => true);"
                   "SELECT pglogical.wait_for_subscription_sync_complete('bench');")

    def pause(self):
        self.target.execute("SELECT pglogical.alter_subscription_disable('bench', true)")
        self.source.wait("SELECT NOT bool_or(active) FROM pg_replication_slots")

    def resume(self):
        self.target.execute("SELECT pglogical.alter_subscription_enable('bench', true)")


class Daemons(System):
    """A peer that works through programs outside of the server."""

    def __init__(self, args):
        super().__init__(args)
        self.running = {}

    def start(self, key, *command):
        log = open(os.path.join(self.args.folder, f"{self.name}-{key}.log"), "a", encoding="utf-8")
        self.running[key] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()

    def end(self, key):
        program = self.running.pop(key, None)
        if program is not None:
            program.terminate()
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def stop(self):
        for key in list(self.running):
            self.end(key)

    def run(self, *command, stdin=None):
        done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{self.name}: {' '.join(command)} failed:\n{done.stdout[-2000:]}")


class Slony(Daemons):
    name = "slony"
    title = "Slony-I"
    pairs = True

    def missing(self):
        return None if os.path.exists("/usr/bin/slonik") and self.file("slony1_funcs.2.2.11.so") else \
            "postgresql-15-slony1-2 and slony1-2-bin are not installed"

    def slonik(self, commands, *servers, db="postgres"):
        preamble = "cluster name = bench;\n" + "".join(
            f"node {i} admin conninfo = '{server.dsn(db)}';\n" for i, server in enumerate(servers, 1))
        self.run("/usr/bin/slonik", stdin=preamble + commands)

    def capture(self, server, db, tables):
        self.slonik("init cluster (id = 1, comment = 'source');\n"
                    "create set (id = 1, origin = 1, comment = 'bench');\n" +
                    "".join(f"set add table (set id = 1, origin = 1, id = {i}, "
                            f"fully qualified name = 'public.{table}', comment = 'x');\n"
                            for i, table in enumerate(tables, 1)), server, db=db)

    def slon(self, number, server):
        # a SYNC every 100 ms at the latest, so that latency is not what the defaults make it
        self.start(f"slon{number}", "/usr/bin/slon", "-s", "100", "-t", "1000", "-g", "100", "bench", server.dsn())

    def pair(self, source, target, tables):
        self.source, self.target = source, target
        self.capture(source, "postgres", tables)
        self.slonik("store node (id = 2, comment = 'target', event node = 1);\n"
                    f"store path (server = 1, client = 2, conninfo = '{source.dsn()}');\n"
                    f"store path (server = 2, client = 1, conninfo = '{target.dsn()}');\n", source, target)
        self.slon(1, source)
        self.slon(2, target)
        time.sleep(2)
        self.slonik("subscribe set (id = 1, provider = 1, receiver = 2, forward = no);\n", source, target)
        target.wait("SELECT coalesce(bool_and(sub_active), false) FROM _bench.sl_subscribe", 120)

    def pause(self):
        self.end("slon2")

    def resume(self):
        self.slon(2, self.target)


class Londiste(Daemons):
    name = "londiste"
    title = "Londiste"
    pairs = True

    def missing(self):
        return None if os.path.exists("/usr/bin/londiste") and self.file("pgq.control") else \
            "postgresql-15-pgq3, postgresql-15-londiste-sql, python3-londiste and pgqd are not installed"

    def config(self, server, db):
        path = os.path.join(self.args.folder, f"{server.name}.ini")
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"[londiste]\njob_name = {server.name}\ndb = {server.dsn(db)}\nqueue_name = bench\n"
                      f"logfile = {self.args.folder}/{server.name}.log\n"
                      f"pidfile = {self.args.folder}/{server.name}.pid\nloop_delay = 0.05\n")
        return path

    def londiste(self, config, *command):
        self.run("/usr/bin/londiste", config, *command)

    def capture(self, server, db, tables):
        server.sql("CREATE EXTENSION pgq; CREATE EXTENSION pgq_node; CREATE EXTENSION londiste;", db)
        config = self.config(server, db)
        self.londiste(config, "create-root", server.name, server.dsn(db))
        for table in tables:
            self.londiste(config, "add-table", table)
        # a tick every 50 ms at the latest, so that latency is not what the defaults make it
        server.sql("SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '50 milliseconds');"
                   "SELECT pgq.set_queue_config('bench', 'ticker_idle_period', '1 second');", db)
        return config

    def ticker(self, server):
        path = os.path.join(self.args.folder, f"pgqd-{server.name}.ini")
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"[pgqd]\nbase_connstr = host={server.dir} user=postgres\ninitial_database = postgres\n"
                      f"database_list = postgres\nlogfile = {self.args.folder}/pgqd-{server.name}.log\n"
                      "ticker_period = 0.05\ncheck_period = 1\n")
        self.start(f"pgqd-{server.name}", "/usr/bin/pgqd", path)

    def pair(self, source, target, tables):
        self.source, self.target = source, target
        self.root = self.capture(source, "postgres", tables)
        target.sql("CREATE EXTENSION pgq; CREATE EXTENSION pgq_node; CREATE EXTENSION londiste;")
        self.leaf = self.config(target, "postgres")
        self.londiste(self.leaf, "create-leaf", target.name, target.dsn(), f"--provider={source.dsn()}")
        self.ticker(source)
        self.ticker(target)
        self.start("worker1", "/usr/bin/londiste", self.root, "worker")
        self.resume()
        for table in tables:
            self.londiste(self.leaf, "add-table", table)
        target.wait("SELECT bool_and(merge_state = 'ok') FROM londiste.table_info WHERE local", 180)

    def pause(self):
        self.end("worker2")

    def resume(self):
        self.start("worker2", "/usr/bin/londiste", self.leaf, "worker")
