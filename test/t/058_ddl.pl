# DDL on every node, in its place in the stream, and schemas that differ for a while.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE part (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (100);
    INSERT INTO t SELECT g, 'v' FROM generate_series(1, 10) g});
my @all = ($a, $b, $c);
my @tables = qw(t part);

sub everywhere
{
    my ($node, $sql) = @_;
    $node->safe_psql('postgres', "SELECT cozesync.execute_everywhere(\$ddl\$$sql\$ddl\$)");
    return;
}

sub columns_of
{
    my ($table) = @_;
    return join '; ', map { $_->safe_psql('postgres',
        "SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute WHERE attrelid = '$table'::regclass AND attnum > 0 AND NOT attisdropped") } @all;
}

# --- what it does -----------------------------------------------------------------------

everywhere($a, q{ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 7});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (11, 'with n', 1)});
ok(wait_quiet(@all), 'in sync');
is(columns_of('t'), 'id n v; id n v; id n v', 'a column is added on every node');
same_rows(\@all, \@tables, 'rows written before and after');

# In one transaction with changes behind it, and followed by changes of other nodes.
$b->safe_psql('postgres', q{BEGIN;
    SELECT cozesync.execute_everywhere('ALTER TABLE t ADD COLUMN w text; CREATE INDEX t_w ON t (w)');
    UPDATE t SET w = 'b' WHERE id < 5; INSERT INTO t VALUES (12, 'v', 2, 'w');
    COMMIT});
ok(poll_until($c, q{SELECT count(*) = 4 FROM t WHERE id < 5 AND to_jsonb(t) ->> 'w' = 'b'}), 'changes behind it in its transaction');
$c->safe_psql('postgres', q{UPDATE t SET w = 'c' WHERE id = 1});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables);
is($_->safe_psql('postgres', q{SELECT count(*) FROM pg_indexes WHERE indexname = 't_w'}), 1, 'both statements: ' . $_->name) for @all;

# Partitions made that way are captured on every node.
everywhere($c, q{CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (100) TO (200)});
ok(wait_quiet(@all), 'in sync');
$_->safe_psql('postgres', sprintf(q{INSERT INTO part SELECT g, '%s' FROM generate_series(%d, %d) g}, $_->name, @{ { a => [ 95, 104 ],
    b => [ 110, 115 ], c => [ 120, 125 ] }->{ $_->name } })) for @all;
ok(wait_quiet(@all), 'in sync');
$b->safe_psql('postgres', 'TRUNCATE part_2');
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'a partition added everywhere is under sync');
is($a->safe_psql('postgres', 'SELECT count(*) FROM part'), 5, 'and so is its TRUNCATE');

# As its caller, with what its meaning depends on.
exec_all(q{CREATE ROLE dba; CREATE SCHEMA other AUTHORIZATION dba}, @all);
$a->safe_psql('postgres', q{GRANT USAGE ON SCHEMA cozesync TO dba; GRANT EXECUTE ON FUNCTION cozesync.execute_everywhere(text) TO dba});
$a->safe_psql('postgres', q{SET ROLE dba; SET search_path = other; SET timezone = 'Asia/Tokyo';
    SELECT cozesync.execute_everywhere('CREATE TABLE mine (id int PRIMARY KEY, at timestamptz DEFAULT ''2026-01-01 00:00'')')});
ok(wait_quiet(@all), 'in sync');
is($_->safe_psql('postgres', q{INSERT INTO other.mine (id) VALUES (1) RETURNING extract(epoch FROM at)::bigint || ' ' ||
    (SELECT tableowner FROM pg_tables WHERE tablename = 'mine')}), '1767193200 dba', 'owner, schema and meaning: ' . $_->name) for @all;
like(sql_error($a, q{SET ROLE dba; SELECT cozesync.execute_everywhere('ALTER TABLE public.t ADD COLUMN x int')}),
    qr/42501.*must be owner/s, 'not more than its caller may');
like(sql_error($b, q{SET ROLE dba; SELECT cozesync.execute_everywhere('SELECT 1')}), qr/42501/, 'nobody may call it unasked');

# --- what is refused ----------------------------------------------------------------------

for my $case (
    [q{SELECT cozesync.execute_everywhere(NULL)}, qr/22004/],
    [q{SELECT cozesync.execute_everywhere('CREATE INDEX CONCURRENTLY x ON t (v)')}, qr/25001.*CREATE INDEX CONCURRENTLY cannot/],
    [q{SELECT cozesync.execute_everywhere('VACUUM t')}, qr/25001.*VACUUM cannot/],
    [q{SELECT cozesync.execute_everywhere('CREATE TABLE x (i int); COMMIT')}, qr/0A000.*must not begin or end transactions/],
    [q{SELECT cozesync.execute_everywhere('UPDATE t SET v = NULL')}, qr/0A000.*must not change rows of synced tables/],
    [q{SELECT cozesync.execute_everywhere('TRUNCATE t')}, qr/0A000.*must not change rows of synced tables/],
    [q{SELECT cozesync.execute_everywhere('SELECT cozesync.remove_table(''t'')')}, qr/0A000.*must not change rows/],
    [q{SELECT cozesync.execute_everywhere('DROP TABLE t')}, qr/55000.*t is under sync and must not be dropped or renamed.*remove_table/s],
    [q{SELECT cozesync.execute_everywhere('ALTER TABLE t RENAME TO u')}, qr/55000.*must not be dropped or renamed/],
    [q{BEGIN; UPDATE t SET v = v; SELECT cozesync.execute_everywhere('CREATE TABLE x (i int)')}, qr/55000.*must come before changes/],
    [q{SELECT cozesync.execute_everywhere('CREATE TABLE')}, qr/42601/])
{
    like(sql_error($a, $case->[0]), $case->[1], "refused: $case->[0]");
}
is($a->safe_psql('postgres', q{SELECT count(*) FROM pg_class WHERE relname IN ('x', 'u')}), 0, 'nothing is left of that');
everywhere($a, 'SELECT 1');
ok(wait_quiet(@all), 'streams go on');

# --- where it fails elsewhere ------------------------------------------------------------------

$b->safe_psql('postgres', 'CREATE TABLE clash (other int)');
everywhere($a, 'CREATE TABLE clash (id int PRIMARY KEY)');
$a->safe_psql('postgres', q{INSERT INTO t VALUES (20, 'behind it', 3)});
ok(poll_until($b, q{SELECT bool_or(stopped_at IS NOT NULL AND last_error LIKE
    'CREATE TABLE, executed everywhere by role %, fails here: relation "clash" already exists') FROM cozesync.links}), 'links say what fails');
is($b->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 20'), 0, 'what came later waits');
ok(poll_until($c, 'SELECT count(*) = 1 FROM t WHERE id = 20'), 'other nodes go on');
$b->safe_psql('postgres', 'DROP TABLE clash; SELECT cozesync.retry()');
ok(wait_quiet(@all), 'once mended the stream goes on');
is($b->safe_psql('postgres', q{SELECT cozesync.add_table('clash')}), 1, 'with the table of the others');

# --- columns that differ ---------------------------------------------------------------------------

# A column that was dropped everywhere, and rows that still carry it.
$b->safe_psql('postgres', 'SELECT cozesync.pause()');
$b->safe_psql('postgres', q{INSERT INTO t (id, v, n, w) VALUES (30, 'before', 1, 'goes'); UPDATE t SET w = 'goes too' WHERE id = 2});
everywhere($a, 'ALTER TABLE t DROP COLUMN w');
$a->safe_psql('postgres', q{INSERT INTO t (id, v) VALUES (31, 'after')});
$b->safe_psql('postgres', 'SELECT cozesync.resume()');
ok(wait_quiet(@all), 'in sync');
is(columns_of('t'), 'id n v; id n v; id n v', 'a column is dropped on every node');
same_rows(\@all, \@tables, 'rows that carried it are there without it');

# Added on one node alone: NULL is no news, a value stops the stream until the column is there.
$a->safe_psql('postgres', q{ALTER TABLE t ADD COLUMN extra text});
$a->safe_psql('postgres', q{INSERT INTO t (id, v) VALUES (40, 'null in extra')});
ok(wait_quiet(@all), 'a NULL for a column that is missing elsewhere');
$b->safe_psql('postgres', q{UPDATE t SET v = 'b' WHERE id = 40});
$a->safe_psql('postgres', q{UPDATE t SET extra = 'a' WHERE id = 1});
ok(poll_until($b, q{SELECT bool_or(stopped_at IS NOT NULL AND last_error LIKE 'table "public.t" has no column "extra"%') FROM cozesync.links}),
    'a value for it stops the stream');
$b->safe_psql('postgres', q{UPDATE t SET v = 'b' WHERE id = 2});
exec_all(q{ALTER TABLE t ADD COLUMN extra text}, $b, $c);
ok(wait_quiet(@all), 'until it is there');
same_rows(\@all, \@tables);
is($a->safe_psql('postgres', 'SELECT v FROM t WHERE id = 40'), 'b', 'rows without the column change the others');

# Missing in what comes: kept by an update, its default on an insert.
exec_all(q{ALTER TABLE t ADD COLUMN here text DEFAULT 'of b'}, $b);
$b->safe_psql('postgres', q{UPDATE t SET here = NULL WHERE id = 3});
ok(wait_quiet(@all), 'in sync');
$b->safe_psql('postgres', q{SET session_replication_role = replica; UPDATE t SET here = 'kept' WHERE id = 1});
$a->safe_psql('postgres', q{UPDATE t SET v = 'again' WHERE id = 1; INSERT INTO t (id, v) VALUES (50, 'new')});
ok(wait_quiet(@all), 'in sync');
is($b->safe_psql('postgres', q{SELECT string_agg(v || ' ' || here, ', ' ORDER BY id) FROM t WHERE id IN (1, 50)}), 'again kept, new of b',
    'kept by an update, the default on an insert');
$b->safe_psql('postgres', q{ALTER TABLE t DROP COLUMN here});

# Between two entries of one batch.
$b->safe_psql('postgres', q{SELECT cozesync.pause('a')});
$a->safe_psql('postgres', q{INSERT INTO t (id, v) SELECT g, 'batch' FROM generate_series(100, 120) g});
everywhere($a, q{ALTER TABLE t ALTER v TYPE varchar(50), ADD COLUMN z int});
$a->safe_psql('postgres', q{INSERT INTO t (id, v, z) SELECT g, 'batch', g FROM generate_series(121, 140) g});
everywhere($a, q{ALTER TABLE t DROP COLUMN z, ADD COLUMN z2 text});
$a->safe_psql('postgres', q{INSERT INTO t (id, v, z2) SELECT g, 'batch', 'z2' FROM generate_series(141, 160) g});
$b->safe_psql('postgres', q{SELECT cozesync.resume()});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'tables that change between two entries of a batch');
$b->safe_psql('postgres', q{UPDATE t SET z2 = 'b' WHERE id BETWEEN 100 AND 105});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'and are captured as they are');

# --- while a node joins --------------------------------------------------------------------------

my $d = new_node('d');
debug_stop($d, 'join-admitted');
my $join = background($d, sprintf(q{CALL cozesync.join_group('d', '%s', '%s')}, node_dsn($d), node_dsn($b)));
ok(wait_stopped($d, 'join-admitted'), 'd has the schema and no rows');
everywhere($a, q{ALTER TABLE t ADD COLUMN late text DEFAULT 'late'});
everywhere($a, q{CREATE TABLE new_one (id int PRIMARY KEY, v text)});
$a->safe_psql('postgres', q{UPDATE t SET late = 'changed' WHERE id < 5});
ok(poll_until($_, q{SELECT count(*) = 4 FROM t WHERE to_jsonb(t) ->> 'late' = 'changed'}), 'DDL meanwhile: ' . $_->name) for $b, $c;
$a->safe_psql('postgres', q{INSERT INTO new_one VALUES (1, 'a')});
is($a->safe_psql('postgres', q{SELECT count(*) FROM cozesync.nodes WHERE node_name = 'd'}), 1, 'd is let in');
debug_go($d, 'join-admitted');
is(($join->finish)[0], 0, 'd has joined');
push @all, $d;
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'a node that joins has what was altered meanwhile');
is($d->safe_psql('postgres', 'SELECT count(*) FROM new_one'), 0, 'and what was made');
everywhere($d, q{ALTER TABLE t ADD COLUMN last text});
$d->safe_psql('postgres', q{UPDATE t SET last = 'd'});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'it may alter tables itself');

done_testing();
