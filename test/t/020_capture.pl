# Capture in the large: huge values and transactions in bounded memory, crashes half-way,
# and the states of a node in which writes are refused or not captured.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my $node = new_node('here', conf => <<'CONF');
cozesync.capture_buffer = '64kB'
cozesync.log_retention = '1d'
CONF
$node->safe_psql('postgres', q{
    SELECT cozesync.create_group('capture', 'here', NULL);
    CREATE TABLE t (id int PRIMARY KEY, v int, e text);
    SELECT cozesync.attach_capture('t');
    CREATE FUNCTION memory() RETURNS bigint LANGUAGE sql AS $$
        SELECT coalesce(sum(total_bytes), 0) FROM pg_backend_memory_contexts WHERE name LIKE 'cozesync c%'
    $$;
    -- rows captured and rows there, as a number each
    CREATE VIEW captured AS
        SELECT count(*) AS n, sum(hashint4((key->>'id')::int)) AS h
        FROM cozesync.changes() WHERE relation = 'public.t' AND operation = 'insert';
    CREATE VIEW present AS SELECT count(*) AS n, sum(hashint4(id)) AS h FROM t});

sub same
{
    my ($name) = @_;
    is($node->safe_psql('postgres', 'SELECT * FROM captured'),
        $node->safe_psql('postgres', 'SELECT * FROM present'), $name);
    return;
}

# A large transaction goes to the log as it grows.
is($node->safe_psql('postgres', q{
    BEGIN;
    INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 200000) i;
    SELECT memory() < 500000;
    COMMIT}), 't', 'the memory of a large transaction is bounded');
same('and it is captured whole');

# So do many small subtransactions, of which every other is rolled back.
is($node->safe_psql('postgres', q{
    BEGIN;
    DO $$
    BEGIN
        FOR i IN 1..30000 LOOP
            BEGIN
                INSERT INTO t VALUES (1000000 + i, i, 'sub');
                IF i % 2 = 0 THEN
                    INSERT INTO t VALUES (1000000 + i, i, 'again');
                END IF;
            EXCEPTION WHEN unique_violation THEN NULL;
            END;
        END LOOP;
    END $$;
    SELECT memory() < 500000;
    COMMIT}), 't', 'the memory of many subtransactions is bounded');
same('and those that were not rolled back are captured');

# Nested three levels deep, each larger than the buffer.
$node->safe_psql('postgres', q{
    CREATE FUNCTION nest(level int, first int) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        FOR i IN 1..3 LOOP
            BEGIN
                INSERT INTO t SELECT first + i * 1000 + j, level, repeat('n', 100) FROM generate_series(1, 900) j;
                IF level < 3 THEN
                    PERFORM nest(level + 1, first + i * CASE level WHEN 1 THEN 1000000 ELSE 100000 END);
                END IF;
                INSERT INTO t VALUES (first + i * 1000 + 950, level, 'after');
                IF i = 2 THEN
                    RAISE EXCEPTION 'no';
                END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
        END LOOP;
    END $$;
    SELECT nest(1, 2000000)});
same('nested subtransactions larger than the buffer');

# A value of 100 MB.
my $since = $node->safe_psql('postgres', 'SELECT max(hlc) FROM cozesync.changes()');
$node->safe_psql('postgres', q{
    TRUNCATE t;
    ALTER TABLE t ALTER e SET STORAGE EXTERNAL;
    INSERT INTO t VALUES (1, 1, repeat('0123456789abcdefghijklmnopqrstuv', 3276800))});
is($node->safe_psql('postgres', qq{
    SELECT length(e), (SELECT md5(new_row->>'e') FROM cozesync.changes('$since')
                       WHERE operation = 'insert') = md5(e) FROM t}),
    '104857600|t', 'a value of 100 MB is captured');
is($node->safe_psql('postgres', qq{
    BEGIN;
    UPDATE t SET v = 2;
    SELECT memory() < 1000000;
    COMMIT;
    SELECT count(*), max(length(new_row->>'e')) FROM cozesync.changes('$since') WHERE operation = 'update'}),
    "t\n1|104857600", 'also when it does not change, and its memory is given back');

# What had gone to the log when the server died is not there.
$node->safe_psql('postgres', 'TRUNCATE t');
$since = $node->safe_psql('postgres', 'SELECT now()');
my $before = $node->safe_psql('postgres', "SELECT count(*) FROM cozesync.changes('$since')");
debug_stop($node, 'precommit-before-insert');
my $writer = background($node,
    "INSERT INTO t SELECT i, i, repeat('x', 100) FROM generate_series(1, 20000) i;\n");
wait_stopped($node, 'precommit-before-insert');
crash_node($node);
$writer->finish;
is($node->safe_psql('postgres', "SELECT count(*) FROM cozesync.changes('$since')"), $before,
    'a transaction that died with its head unwritten is not in the log');
$node->safe_psql('postgres', q{INSERT INTO t VALUES (1, 1, 'alive')});
is($node->safe_psql('postgres', "SELECT key FROM cozesync.changes('$since')"),
    '{"id": 1}', 'and writing goes on');

# States of the node.
my $become = sub {
    my ($state) = @_;
    $node->safe_psql('postgres', "UPDATE cozesync.local_node SET state = '$state'");
    restart_node($node);
};
$become->('joining');
like(sql_error($node, q{INSERT INTO t VALUES (2, 2, 'joining')}),
    qr/55000: .*cannot write to table "t" while this node joins its group.*join_progress/s,
    'writes are refused while the node joins');
like(sql_error($node, 'TRUNCATE t'), qr/55000: /, 'and so is TRUNCATE');
$become->('left');
$before = $node->safe_psql('postgres', "SELECT count(*) FROM cozesync.changes('$since')");
$node->safe_psql('postgres', q{INSERT INTO t VALUES (3, 3, 'left')});
is($node->safe_psql('postgres', "SELECT count(*) FROM cozesync.changes('$since')"), $before,
    'nothing is captured on a node that has left');
$become->('ready');

# Without its library nothing would be captured, so nothing is written.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
restart_node($node);
like(sql_error($node, q{INSERT INTO t VALUES (4, 4, 'unloaded')}), qr/shared_preload_libraries/,
    'writes are refused while the library is not preloaded');

done_testing();
