# Applying changes to tables that are not just what they are elsewhere: other
# columns, partitions, planted code; entries of any size; what stops a stream, and
# whose.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('rows', qw(a b c));

# --- columns by name

everywhere('drift', 'CREATE TABLE drift (k int PRIMARY KEY, v text, w int)');
sql('b', 'ALTER TABLE drift ADD extra int DEFAULT 7, DROP v, DROP w, ADD w int, ADD v text');
sql('a', "INSERT INTO drift VALUES (1, 'x', 2); UPDATE drift SET v = 'y' WHERE k = 1");
carry_all();
is(rows('b', 'drift'), '(1,7,2,y)', 'columns are matched by name; what is missing there takes its default');
sql('b', 'UPDATE drift SET extra = 9');
sql('a', "UPDATE drift SET v = 'z'");
carry('a', 'b');
is(rows('b', 'drift'), '(1,9,2,z)', 'a column that is missing there keeps its value');
sql($_, 'ALTER TABLE drift ADD extra int DEFAULT 7') for qw(a c);

sql($_, 'ALTER TABLE drift ADD new text') for qw(a c);
sql('a', "UPDATE drift SET v = 'no value yet'");
ok(carry('a', 'b'), 'a column that is missing here stops nothing while it is NULL');

# --- a stream that stops, and the others

sql('c', "INSERT INTO drift VALUES (3, 'c', 3)");
sql('a', "UPDATE drift SET new = 'value' WHERE k = 1");
my $upto = carry_no_wait('a', 'b');
ok(carry('c', 'b'), 'the stream of another origin flows');
ok(!wait_applied('b', 'a', $upto, 1), 'one that cannot be applied stands still');
my $log = slurp_file($server->logfile);
like($log, qr/table "public.drift" has no column "new", of which a value came/, 'the error is told');
like($log, qr/CONTEXT:  applying entry .* table "public.drift", key 1, column new/, 'and where');
is(() = $log =~ /of which a value came/g, 1, 'once');
sql('b', 'ALTER TABLE drift ADD new text');
ok(wait_applied('b', 'a', $upto), 'and flows again once the column is there');
is(rows('b', 'drift'), '(1,7,2,"no value yet",value) (3,7,3,c,)', 'nothing was lost');

# --- who waits for whom

my $lock = in_background('b', 'BEGIN; SELECT * FROM drift WHERE k = 1 FOR UPDATE; SELECT pg_sleep(3); COMMIT');
poll_until($server, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND wait_event = 'PgSleep'}, 't', 'b');
sql('a', "UPDATE drift SET w = 11 WHERE k = 1");
$upto = carry_no_wait('a', 'b');
sql('c', "UPDATE drift SET w = 12 WHERE k = 3");
ok(carry('c', 'b', undef, 2), "while one stream waits for a user's lock the others flow");
$lock->finish;
ok(wait_applied('b', 'a', $upto), 'and it goes on when the lock is gone');

# --- partitions

sql($_, q{CREATE TABLE parts (k int, p int, v text, u int, PRIMARY KEY (k, p), UNIQUE (u, p)) PARTITION BY LIST (p)})
    for qw(a b c);
sql('a', q{CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1, 2); CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN (3, 4)});
sql('b', q{CREATE TABLE parts_x (u int, v text, k int NOT NULL, gone int, p int NOT NULL); ALTER TABLE parts_x DROP gone;
    ALTER TABLE parts ATTACH PARTITION parts_x FOR VALUES IN (1, 3); CREATE TABLE parts_y PARTITION OF parts DEFAULT});
sql('c', 'CREATE TABLE parts_all PARTITION OF parts DEFAULT');
sql('a', "INSERT INTO cozesync.synced_table VALUES ('public', 'parts')");
carry_all();
sql('a', "INSERT INTO parts SELECT i, 1 + i % 4, 'v' || i, i FROM generate_series(1, 20) i");
sql('a', 'UPDATE parts SET p = 5 - p WHERE k <= 10; DELETE FROM parts WHERE k = 12');
carry_all();
is(same('parts'), rows('a', 'parts'), 'tables that are partitioned otherwise get the same rows');
sql('a', "UPDATE parts SET v = 'a' WHERE k = 1");
sql('b', 'DELETE FROM parts WHERE k = 1');
sql('c', "INSERT INTO parts VALUES (100, 1, 'c', 1000)");
sql('b', "INSERT INTO parts VALUES (101, 1, 'b', 1000)");
carry_all();
is(same('parts'), rows('a', 'parts'), 'conflicts in partitions, also over unique values');
like(rows('a', 'parts'), qr/\(100,1,c,1000\)/, 'the earlier kept the value');
sql('b', 'TRUNCATE parts');
carry_all();
is(same('parts'), '', 'a TRUNCATE reaches all partitions');

# --- rights

sql($_, q{CREATE ROLE mallory}) for 'a';
sql($_, q{
    GRANT CREATE ON SCHEMA public TO mallory;
    CREATE TABLE seen (who text);
    GRANT INSERT ON seen TO mallory;
    SET ROLE mallory;
    CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.seen VALUES (TG_NAME || ' ' || current_user); RETURN NULL; END $$;
    CREATE FUNCTION trap(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN
            IF current_user <> 'mallory' THEN INSERT INTO public.seen VALUES ('index ' || current_user); END IF;
            RETURN x;
        END $$;
    CREATE FUNCTION trap_check(x int) RETURNS bool LANGUAGE plpgsql AS $$
        BEGIN
            IF current_user <> 'mallory' THEN INSERT INTO public.seen VALUES ('check ' || current_user); END IF;
            RETURN true;
        END $$;
    CREATE DOMAIN trapped AS int CHECK (trap_check(VALUE));
    CREATE TABLE mine (k trapped PRIMARY KEY, v int, w int CHECK (trap_check(w)));
    CREATE UNIQUE INDEX mine_trap ON mine (trap(v));
    CREATE TRIGGER row_trap AFTER INSERT OR UPDATE OR DELETE ON mine FOR EACH ROW EXECUTE FUNCTION trap();
    CREATE CONSTRAINT TRIGGER deferred_trap AFTER INSERT ON mine DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION trap();
    ALTER TABLE mine ENABLE ALWAYS TRIGGER row_trap;
    ALTER TABLE mine ENABLE ALWAYS TRIGGER deferred_trap;
    RESET ROLE}) for qw(a b c);
sql('a', "INSERT INTO cozesync.synced_table VALUES ('public', 'mine')");
carry_all();
sql('a', 'SET ROLE mallory; INSERT INTO mine VALUES (1, 1, 1); UPDATE mine SET v = 2');
sql('c', 'SET ROLE mallory; INSERT INTO mine VALUES (2, 2, 1)');
carry_all();
is(same('mine'), '(1,2,1)', 'rows of a table with code of its owner');
is(sql('b', 'SELECT count(*) > 0, bool_and(who LIKE $$%mallory$$) FROM seen'), 't|t',
    'all code that a table owner planted ran with his rights');
is(sql('a', 'SELECT count(*) FROM seen WHERE who LIKE $$%postgres$$'), '0', 'on every node');

# --- entries of any size

everywhere('large', 'CREATE TABLE large (k int PRIMARY KEY, v text, n numeric)');
sql('a', "INSERT INTO large SELECT i, repeat(md5(i::text), 1 + i % 5), i / 7.0 FROM generate_series(1, 20000) i");
sql('a', "INSERT INTO large VALUES (0, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 100000) i), 0)");
sql('a', "BEGIN; UPDATE large SET n = n + 1 WHERE k % 3 = 0; SAVEPOINT s; DELETE FROM large WHERE k % 5 = 1; ROLLBACK TO s;
    DELETE FROM large WHERE k % 7 = 1; COMMIT");
carry_all();
is(sql('b', 'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY k)) FROM large t'),
    sql('a', 'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY k)) FROM large t'), 'large entries');
sql('b', 'UPDATE large SET v = $$b$$ WHERE k = 3');
sql('a', 'UPDATE large SET v = $$a$$');
carry_all();
is(sql('b', 'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY k)) FROM large t'),
    sql('a', 'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY k)) FROM large t'), 'with a conflict in it');
is(sql('c', 'SELECT count(*) FROM cozesync.conflict WHERE table_name = $$large$$'), '1', 'that is recorded once');

# --- columns that are computed here

everywhere('made', q{CREATE TABLE made (k int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text,
    low text GENERATED ALWAYS AS (lower(v)) STORED UNIQUE)});
sql('a', "INSERT INTO made (v) VALUES ('Ab'), ('Cd')");
carry_all();
sql('b', "UPDATE made SET v = 'EF' WHERE k = 1");
sql('c', "UPDATE made SET v = 'ef' WHERE k = 2");
carry_all();
is(same('made'), '(1,EF,ef) (2,Cd,cd)', 'unique values of generated columns');

# --- after a restart

sql('a', "INSERT INTO drift (k, v) VALUES (50, 'before')");
sql('b', "UPDATE drift SET v = 'later' WHERE k = 3");
$server->restart;
sql('c', "UPDATE drift SET v = 'latest' WHERE k = 3");
carry('c', 'b');
carry('a', 'b');
carry('b', 'a');
carry('b', 'c');
carry('c', 'a');
like(rows($_, 'drift'), qr/latest/, "the index is read off the log after a restart ($_)") for qw(a b c);
is(sql('c', "SELECT count(*) FROM cozesync.conflict WHERE table_name = 'drift' AND conflict_type = 'update_update'
    AND key = '{\"k\": 3}'"), '1',
    'and knows what is concurrent');

$server->stop('fast');
done_testing();
