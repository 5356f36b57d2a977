"""A PostgreSQL server of one's own, reached by its socket."""

import contextlib
import os
import re
import subprocess
import sys
import time

import psycopg2

CONF = """
listen_addresses = ''
shared_buffers = 256MB
max_wal_size = 8GB
checkpoint_timeout = 1h
autovacuum = off
max_connections = 100
max_worker_processes = 32
max_replication_slots = 16
max_wal_senders = 16
wal_retrieve_retry_interval = 100ms
log_line_prefix = '%m [%p] '
"""


class Failed(Exception):
    """Something that was called did not do what it should."""


class Server:
    """Below args.folder; stopped, without ceremony, by stop()."""

    def __init__(self, args, name, conf=""):
        self.bindir = args.bindir
        self.name = name
        self.session = None
        self.dir = os.path.join(args.folder, name)
        os.makedirs(self.dir)
        self.data = os.path.join(self.dir, "d")
        self.log = os.path.join(self.dir, "log")
        self.call("initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-N",
                  "--no-locale", "-E", "UTF8")
        with open(os.path.join(self.data, "postgresql.conf"), "a") as out:
            out.write(CONF + conf + f"unix_socket_directories = '{self.dir}'\n")
        self.call("pg_ctl", "-s", "-w", "-D", self.data, "-l", self.log, "start")
        with open(os.path.join(self.data, "postmaster.pid")) as pid:
            self.pid = int(pid.readline())

    def call(self, program, *arguments, stdin=None):
        done = subprocess.run([os.path.join(self.bindir, program), *arguments], input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise Failed(f"{self.name}: {program} {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def stop(self):
        if self.session is not None:
            self.session.close()
        self.session = None
        self.call("pg_ctl", "-s", "-m", "immediate", "-D", self.data, "stop")

    def dsn(self, db="postgres"):
        return f"host={self.dir} dbname={db} user=postgres"

    @contextlib.contextmanager
    def cursor(self, db="postgres"):
        """Of a session of its own, in which each statement is a transaction."""
        connection = psycopg2.connect(self.dsn(db))
        connection.autocommit = True
        try:
            yield connection.cursor()
        finally:
            connection.close()

    def execute(self, statement):
        """In a session that stays, so that nothing is started: where time counts."""
        if self.session is None:
            self.session = psycopg2.connect(self.dsn())
            self.session.autocommit = True
        cursor = self.session.cursor()
        cursor.execute(statement)
        return cursor.fetchone()[0] if cursor.description else None

    def sql(self, statements, db="postgres"):
        """Each line of statements that ends with a semicolon is a transaction."""
        return self.call("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(db),
                         "-f", "-", stdin=statements).strip()

    def timed(self, statement, db="postgres"):
        began = time.monotonic()
        self.sql(statement, db)
        return time.monotonic() - began

    def pgbench(self, *arguments, db="postgres"):
        return self.call("pgbench", "-n", *arguments, self.dsn(db))

    def wait(self, query, timeout=1200):
        """Until the query says true."""
        deadline = time.monotonic() + timeout
        while not self.execute(query):
            if time.monotonic() > deadline:
                raise Failed(f"{self.name}: waited {timeout} s in vain for: {query}")
            time.sleep(0.005)

    def setting(self, name, value):
        """For the whole server; value None: as it was."""
        change = f"RESET {name}" if value is None else f"SET {name} = {value}"
        self.sql(f"ALTER SYSTEM {change}; SELECT pg_reload_conf();")
        time.sleep(0.2)

    def wal(self):
        return int(self.sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))

    # What the server's processes use.

    def processes(self):
        """(pid, title) of each child of the postmaster."""
        found = []
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
            for pid in children.read().split():
                try:
                    with open(f"/proc/{pid}/cmdline") as cmdline:
                        found.append((int(pid), cmdline.read().replace("\0", " ").strip()))
                except OSError:
                    pass
        return found

    def cpu(self):
        """Processor seconds of the sessions that have ended, once all have."""
        while any(title == "" or "[local]" in title for _, title in self.processes()):
            time.sleep(0.01)
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def tps_of(output):
    """What pgbench says that it did: (transactions a second, transactions)."""
    return (float(re.search(r"^tps = ([0-9.]+)", output, re.M).group(1)),
            int(re.search(r"actually processed: (\d+)", output).group(1)))


def say(text):
    print(text, file=sys.stderr, flush=True)
