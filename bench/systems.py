"""What is measured: plain PostgreSQL, cozesync, and what else can do its work.

A system can be set up on one server, so that it captures changes and nobody takes
them (capture), and on two, so that the second follows the first (pair).  It can hold
the stream (pause, resume).  That the target has caught up is asked of the rows, the
same way for all.
"""

import os

from server import Server

# Written last, to see that everything before it has arrived.
MARK_TABLE = "CREATE TABLE bench_mark (id int PRIMARY KEY, n bigint NOT NULL);"
MARK = "bench_mark"


class System:
    name = None
    title = None
    conf = ""
    pairs = False               # can it carry changes?

    def __init__(self, args):
        self.args = args
        self.marks = 0

    def missing(self):
        """Why it cannot be measured here, or None."""
        return None

    def server(self, name):
        return Server(self.args, f"{self.name}-{name}", self.conf)

    def file(self, name):
        """Of the installation: extension's control file, or library."""
        major = os.path.join(self.args.bindir, "..", "..", "..", "..")
        for folder in ("share/postgresql/15/extension", "lib/postgresql/15/lib"):
            path = os.path.normpath(os.path.join(major, folder, name))
            if os.path.exists(path):
                return path
        return None

    def capture(self, server, db, tables):
        """Capture changes of the tables."""

    def pair(self, source, target, tables):
        """Make target, which is empty, follow source; returns when it has the rows."""
        raise NotImplementedError

    def pause(self):
        raise NotImplementedError

    def resume(self):
        raise NotImplementedError

    def stop(self):
        """End what runs outside of the servers."""

    # Where target stands.

    def mark(self):
        """Write a mark on the source."""
        self.marks += 1
        self.source.execute(f"INSERT INTO {MARK} VALUES (1, {self.marks}) "
                            f"ON CONFLICT (id) DO UPDATE SET n = {self.marks}")

    def wait(self, timeout=1200):
        """Until the target holds the mark written last."""
        self.target.wait(f"SELECT coalesce((SELECT n >= {self.marks} FROM {MARK} WHERE id = 1), false)",
                         timeout)


class Plain(System):
    """The server alone: captures nothing, carries nothing."""

    name = "plain"
    title = "no capture"


class Trigger(System):
    """A row trigger in C that does nothing: no capture by triggers can be cheaper."""

    name = "trigger"
    title = "empty C trigger"

    def missing(self):
        return None if self.file("empty_trigger.so") else "bench/empty_trigger is not built"

    def capture(self, server, db, tables):
        server.sql("CREATE FUNCTION empty_trigger() RETURNS trigger LANGUAGE C AS 'empty_trigger';" +
                   "".join(f"CREATE TRIGGER empty AFTER INSERT OR UPDATE OR DELETE ON {table} "
                           "FOR EACH ROW EXECUTE FUNCTION empty_trigger();" for table in tables), db)


class Audit(System):
    """What people write by hand: a table of changes, filled in PL/pgSQL."""

    name = "audit"
    title = "PL/pgSQL audit"

    def capture(self, server, db, tables):
        server.sql("""
CREATE TABLE audit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(),
                    relation text, operation text, old_row jsonb, new_row jsonb);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (relation, operation, old_row, new_row)
    VALUES (TG_TABLE_NAME, TG_OP, CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END,
            CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END);
    RETURN NULL;
END $$;
""" + "".join(f"CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON {table} "
              "FOR EACH ROW EXECUTE FUNCTION audit();" for table in tables), db)


class Native(System):
    """Logical replication of the server itself."""

    name = "native"
    title = "native logical"
    conf = "wal_level = logical\n"
    pairs = True

    def capture(self, server, db, tables):
        server.sql(f"CREATE PUBLICATION bench FOR TABLE {', '.join(tables)};", db)

    def pair(self, source, target, tables):
        self.source, self.target = source, target
        self.capture(source, "postgres", tables)
        target.sql(f"CREATE SUBSCRIPTION bench CONNECTION '{source.dsn()}' PUBLICATION bench;")
        target.wait("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")

    def pause(self):
        self.target.execute("ALTER SUBSCRIPTION bench DISABLE")
        self.source.wait("SELECT NOT active FROM pg_replication_slots")

    def resume(self):
        self.target.execute("ALTER SUBSCRIPTION bench ENABLE")


class Cozesync(System):
    name = "cozesync"
    title = "cozesync"
    conf = "shared_preload_libraries = 'cozesync'\n"
    pairs = True

    def capture(self, server, db, tables):
        server.sql("CREATE EXTENSION cozesync;"
                   f"SELECT cozesync.create_group('bench', node_name => '{server.name}', "
                   f"dsn => '{server.dsn(db)}');" +
                   "".join(f"SELECT cozesync.add_table('{table}');" for table in tables), db)

    def join(self, server, via, more=""):
        server.sql("CREATE EXTENSION cozesync;"
                   f"CALL cozesync.join_group(node_name => '{server.name}', dsn => '{server.dsn()}', "
                   f"via => '{via.dsn()}', copy_schema => false{more});")

    def pair(self, source, target, tables):
        self.source, self.target = source, target
        self.capture(source, "postgres", tables)
        self.join(target, source)

    def pause(self):
        for server in (self.source, self.target):
            server.execute("SELECT cozesync.pause()")

    def resume(self):
        for server in (self.source, self.target):
            server.execute("SELECT cozesync.resume()")


class Policed(Cozesync):
    """Another table beside those that are measured is under policies that fold."""

    name = "policies"
    title = "cozesync, another table under policies"

    def server(self, name):
        server = super().server(name)
        server.sql("CREATE TABLE ledger (id int PRIMARY KEY, amount int, words text[], note text);")
        return server

    def capture(self, server, db, tables):
        super().capture(server, db, tables + ["ledger"])
        server.sql("SELECT cozesync.set_conflict_policy('ledger', 'merge');"
                   "SELECT cozesync.set_column_policy('ledger', 'amount', 'delta');"
                   "SELECT cozesync.set_column_policy('ledger', 'words', 'set_merge');", db)
        server.sql("INSERT INTO ledger SELECT g, g, '{a}', 'note' FROM generate_series(1, 1000) g;\n"
                   "UPDATE ledger SET amount = amount + 1, words = words || '{b}';", db)
