# Tables that are hard to apply to: every kind of unique index, foreign keys, triggers that
# fire, row security, code of the table's owner, locks of users, bulk inserts of all sorts.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('hard', qw(a b c));

# --- kinds of unique index: two nodes give two rows one value; who had it first keeps it

everywhere('kinds', q{CREATE TABLE kinds (k int PRIMARY KEY, e text, p int, n int, m1 int, m2 text, g int GENERATED ALWAYS AS (p * 10) STORED);
    CREATE UNIQUE INDEX kinds_e ON kinds (lower(e));
    CREATE UNIQUE INDEX kinds_p ON kinds (p) WHERE p > 0;
    CREATE UNIQUE INDEX kinds_n ON kinds (n) NULLS NOT DISTINCT WHERE k >= 100;
    CREATE UNIQUE INDEX kinds_m ON kinds (m1, m2) INCLUDE (n);
    CREATE UNIQUE INDEX kinds_g ON kinds (g) WHERE g < -100});
my @kinds = (
    [ 'an expression', "(1, 'Ada')", "(2, 'ADA')", 'k, e' ],
    [ 'a predicate', '(3, 7)', '(4, 7)', 'k, p' ],
    [ 'NULLS NOT DISTINCT', '(100, NULL)', '(101, NULL)', 'k, n' ],
    [ 'several columns', "(5, 1, 'x')", "(6, 1, 'x')", 'k, m1, m2' ],
    [ 'a generated column', '(7, -20)', '(8, -20)', 'k, p' ]);
for my $kind (@kinds)
{
    my ($name, $first, $second, $columns) = @$kind;
    sql('a', "INSERT INTO kinds ($columns) VALUES $first");
    sql('b', "INSERT INTO kinds ($columns) VALUES $second");
}
carry_all(60);
is(sql($_, 'SELECT string_agg(k::text, $$ $$ ORDER BY k) FROM kinds'), '1 3 5 7 100',
    "of each kind the first keeps its value, on $_") for qw(a b c);
is(sql('c', q{SELECT count(*) FROM cozesync.conflict WHERE table_name = 'kinds' AND conflict_type = 'unique_violation'}),
    scalar(@kinds), 'and each loser is in the log');
sql('a', 'INSERT INTO kinds (k, p) VALUES (9, 0)');
sql('b', 'INSERT INTO kinds (k, p) VALUES (10, 0)');
carry_all(60);
is(sql('c', 'SELECT count(*) FROM kinds WHERE p = 0'), '2', 'outside of the predicate there is no conflict');

# --- foreign keys, rules, row security: of no concern while applying

everywhere('parent', 'CREATE TABLE parent (k int PRIMARY KEY, v int)');
everywhere('child', q{CREATE TABLE child (k int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)});
sql($_, q{CREATE RULE lost AS ON INSERT TO parent WHERE new.v = 13 DO INSTEAD NOTHING;
    CREATE ROLE nobody_} . $_ . q{; ALTER TABLE child ENABLE ROW LEVEL SECURITY; ALTER TABLE child FORCE ROW LEVEL SECURITY}) for qw(b c);
sql('a', 'INSERT INTO parent VALUES (1, 13), (2, 2); INSERT INTO child VALUES (1, 1), (2, 2)');
carry('a', 'b');
sql('a', 'DELETE FROM parent WHERE k = 1');
sql('b', 'INSERT INTO child VALUES (3, 1)');
ok(carry_all(60), 'foreign keys, rules and row security stop nothing');
is(same('child'), '(2,2) (3,1)', 'a row may refer to what was deleted elsewhere');
is(same('parent'), '(2,2)', 'and the cascade came with the log');

# --- bulk inserts

everywhere('bulk', q{CREATE TABLE bulk (k int PRIMARY KEY, v int NOT NULL CHECK (v <> 13), g int GENERATED ALWAYS AS (v * 2) STORED, t text)});
sql('b', q{ALTER TABLE bulk ADD extra int DEFAULT 5});
sql('a', q{BEGIN; INSERT INTO bulk (k, v, t) SELECT i, i + 100, repeat('x', i % 100) FROM generate_series(1, 3000) i;
    UPDATE bulk SET v = -1 WHERE k % 10 = 0; DELETE FROM bulk WHERE k % 10 = 1;
    INSERT INTO bulk (k, v, t) SELECT i, 0, 'second' FROM generate_series(4000, 4999) i; COMMIT});
carry_all(60);
my $sum = sql('a', 'SELECT count(*), sum(v), sum(g), md5(string_agg(t, $$ $$ ORDER BY k)) FROM bulk');
is(sql($_, 'SELECT count(*), sum(v), sum(g), md5(string_agg(t, $$ $$ ORDER BY k)) FROM bulk'), $sum,
    "inserts, then updates and deletions of them, on $_") for qw(b c);
is(sql('b', 'SELECT sum(extra) FROM bulk'), sql('b', 'SELECT 5 * count(*) FROM bulk'), 'defaults of a column that is only there');
is(sql('b', 'SET enable_seqscan = off; SELECT count(*) FROM bulk WHERE k BETWEEN 1 AND 5000'),
    sql('b', 'SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SELECT count(*) FROM bulk'),
    'rows that were inserted together are in the index');

# a row that stands in the way of a run of inserts, unknown to the log
sql('b', 'SET session_replication_role = replica; INSERT INTO bulk (k, v, t) VALUES (7000, 1, $$hidden$$)');
sql('a', q{INSERT INTO bulk (k, v, t) SELECT i, 1, 'third' FROM generate_series(6500, 7500) i});
ok(carry('a', 'b', undef, 60), 'a hidden row in the way stops nothing');
carry_all(60);
is(sql('b', 'SELECT count(*) FROM bulk WHERE t = $$third$$'), '1001', 'all of them are there');
is(sql('b', q{SELECT conflict_type, local_row ->> 't' FROM cozesync.conflict WHERE table_name = 'bulk'}), 'insert_exists|hidden',
    'and what was in the way is in the conflict log');

# partitions in turn, a trigger that fires on one of them
sql($_, q{CREATE TABLE parts (k int, p int, v int, PRIMARY KEY (k, p)) PARTITION BY LIST (p);
    CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0); CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO public.fired VALUES (new.k, (SELECT count(*) FROM public.parts)); RETURN NULL; END $$;
    CREATE TABLE fired (k int, n int);
    CREATE TRIGGER see AFTER INSERT ON parts_1 FOR EACH ROW EXECUTE FUNCTION see();
    ALTER TABLE parts_1 ENABLE REPLICA TRIGGER see}) for qw(a b c);
sql('a', "INSERT INTO cozesync.synced_table VALUES ('public', 'parts')");
carry_all(60);
sql('a', 'INSERT INTO parts SELECT i, i % 2, i FROM generate_series(1, 200) i');
carry_all(60);
unlike(same('parts'), qr/ \| /, 'partitions in turn get the same rows');
is(sql('b', 'SELECT count(*), bool_and(n = k) FROM fired'), '100|t',
    'a trigger that fires sees all rows that came before its own');

# --- a unique index on one partition only

is(sql('a', 'SELECT reason FROM cozesync.why_not_syncable($$parts$$)'), '', 'a partitioned table can be synced');
sql('a', 'CREATE UNIQUE INDEX only_here ON parts_0 (v)');
like(sql('a', 'SELECT reason, hint FROM cozesync.why_not_syncable($$parts$$)'),
    qr/^Unique index public.only_here is on partition public.parts_0 only\.\|Drop the index/, 'but not with a unique index on one partition only');
like(sql_error($server, "SELECT cozesync.check_syncable('parts')", 'a'), qr/cannot put table "public.parts" under sync/, 'which is told');
sql('a', 'DROP INDEX only_here; CREATE UNIQUE INDEX with_key ON parts_0 (k, p, v)');
is(sql('a', 'SELECT reason FROM cozesync.why_not_syncable($$parts$$)'), '', 'one that contains the key is no matter');
sql('b', 'CREATE UNIQUE INDEX only_there ON parts_0 (v)');
sql('a', 'INSERT INTO parts VALUES (1000, 0, 2)');
my $upto = carry_no_wait('a', 'b');
my $end = time + 60;
my $log = '';
while ($log !~ /A unique index on one partition only cannot be heeded/ && time < $end)
{
    $log = slurp_file($server->logfile);
    select undef, undef, undef, 0.1;
}
like($log, qr/duplicate key value violates unique constraint "only_there".*?HINT:  A unique index on one partition only cannot be heeded/s,
    'one that is made later stops the stream, with a hint');
sql('b', 'DROP INDEX only_there');
ok(wait_applied('b', 'a', $upto), 'which goes on once it is dropped');
carry_all(60);

# --- locks of users

sql('a', 'UPDATE parent SET v = 20 WHERE k = 2');
sql('b', 'CREATE TABLE gate (open int)');
my $lock = in_background('b', q{DO $$ BEGIN
    LOCK TABLE parent IN SHARE MODE;
    WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.05); END LOOP; END $$});
my $is_locked = q{SELECT count(*) = 1 FROM pg_locks WHERE relation = 'parent'::regclass AND mode = 'ShareLock' AND granted};
poll_until($server, $is_locked, 't', 'b');
$upto = carry_no_wait('a', 'b');
ok(!wait_applied('b', 'a', $upto, 1), 'a stream waits for a table lock');
is(sql('b', $is_locked), 't', 'and the user is not in its way');
sql('b', 'INSERT INTO gate VALUES (1)');
$lock->finish;
ok(wait_applied('b', 'a', $upto), 'and goes on after it');
carry_all(60);

$server->stop('fast');
done_testing();
