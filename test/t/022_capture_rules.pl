# Interleavings of capture that break lesser designs, each with its rule in force and
# with the rule taken out: what another node makes of a transaction's entry is what
# the transaction left.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('capture', qw(a b));
$server->append_conf('postgresql.conf', 'max_prepared_transactions = 2');
$server->restart;
sql('a', q{CREATE FUNCTION write_late(text) RETURNS void AS 'cozesync', 'coze_debug_write_late' LANGUAGE C});

# A transaction of one node (from, default a) on a fresh table t: which rows it leaves, on
# both nodes.
my $tables = 0;
sub scenario
{
    my ($name, $rule, $transaction, $rows, %opt) = @_;
    my $from = $opt{from} // 'a';
    my $to = $from eq 'a' ? 'b' : 'a';
    for my $off (0, 1)
    {
        my $table = 't' . ++$tables;
        everywhere($table, "CREATE TABLE $table (k int PRIMARY KEY, v int)" . (!$opt{parts} ? '' :
            qq{ PARTITION BY RANGE (k); CREATE TABLE "$table low" PARTITION OF $table FOR VALUES FROM (0) TO (2);
            CREATE TABLE "$table high" PARTITION OF $table FOR VALUES FROM (2) TO (9999)}));
        sql($from, "INSERT INTO $table VALUES (1, 1), (2, 2)");
        (my $sql = $transaction) =~ s/\bt\b/$table/g;
        rule_off($rule) if $off;
        my $error = sql_error($server, $sql, $from);
        rule_on($rule) if $off;
        my $carried = eval { carry($from, $to, undef, 10) };
        my $said = !$carried ? 'the stream stands still' : same($table);
        $said = "an error: $error" if $opt{refused} && $error !~ $opt{refused};
        if ($off)
        {
            isnt($said, $rows, "$name: breaks without the rule $rule");
        }
        else
        {
            is($said, $rows, "$name: holds");
        }
    }
    return;
}

# A user's trigger changes rows of the same command that wait for their turn.
my $nest = q{CREATE FUNCTION "t nested"() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN IF old.k = 1 AND pg_trigger_depth() = 1 THEN %s; END IF; RETURN NULL; END $f$;
    CREATE TRIGGER zz AFTER UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION "t nested"();};

# 1 -> 10 has its turn first and sets row 2, which is 20 by now, to 120; then comes 2 -> 20.
scenario('nested triggers: an update', 'superseded', sprintf($nest,
    'UPDATE t SET v = v + 100 WHERE k = 2') . 'UPDATE t SET v = v * 10', '(1,10) (2,120)');
scenario('nested triggers: a deletion', 'superseded', sprintf($nest,
    'DELETE FROM t WHERE k = 2') . 'UPDATE t SET v = v * 10', '(1,10)');

# Row 2 is deleted, and inserted anew before its deletion has its turn.
scenario('nested triggers: a key that lives again', 'key-lives-again', sprintf($nest,
    'INSERT INTO t VALUES (2, 200)') . 'DELETE FROM t', '(2,200)');

# What a trigger did to a key is undone before the key's own change has its turn: no
# conflict was there, and none is logged.
for my $case (
    [ 'inserted and deleted', 'INSERT INTO t VALUES (2, 200); DELETE FROM t WHERE k = 2', 'DELETE FROM t', '' ],
    [ 'inserted and deleted, with another key', 'INSERT INTO t VALUES (2, 200); DELETE FROM t WHERE k = 2',
        'UPDATE t SET k = k + 10', '(11,1) (12,2)' ],
    [ 'inserted and moved', 'INSERT INTO t VALUES (2, 200); UPDATE t SET k = 5 WHERE k = 2', 'DELETE FROM t', '(5,200)' ],
    [ 'deleted and inserted', 'DELETE FROM t WHERE k = 2; INSERT INTO t VALUES (2, 200)', 'UPDATE t SET v = v * 10', '(1,10) (2,200)' ])
{
    my ($name, $nested, $command, $rows) = @$case;
    my $table = 't' . ++$tables;
    everywhere($table, "CREATE TABLE $table (k int PRIMARY KEY, v int)");
    sql('a', "INSERT INTO $table VALUES (1, 1), (2, 2)");
    (my $sql = sprintf($nest, $nested) . $command) =~ s/\bt\b/$table/g;
    sql('a', $sql);
    carry_all();
    is(same($table) . conflicts('b', $table), $rows, "a key is $name: the same rows, and no conflict");
}

# Another extension writes when the entry is written already.
scenario('late capture', 'late-capture', q{
    BEGIN;
    UPDATE t SET v = 3 WHERE k = 1;
    SELECT write_late('INSERT INTO t VALUES (4, 4)');
    COMMIT}, '(1,1) (2,2)', refused => qr/55000/);

# What was captured is gone when the transaction is prepared.
scenario('prepared with captured changes', 'prepare', q{
    BEGIN;
    INSERT INTO t VALUES (3, 3);
    PREPARE TRANSACTION 'rule';
    COMMIT PREPARED 'rule'}, '(1,1) (2,2)', refused => qr/0A000/);

# A partition alone is emptied: named by the root, or not at all, that would leave the
# others something else.
scenario('TRUNCATE of a leaf', 'leaf-truncate', q{TRUNCATE "t low"}, '(2,2)', parts => 1);

# The rows that ALTER TABLE has written anew look like the transaction's own.
{
    my @said;
    for my $off (0, 1)
    {
        my $table = 't' . ++$tables;
        everywhere($table, "CREATE TABLE $table (k int PRIMARY KEY, v int)");
        sql('a', "INSERT INTO $table VALUES (1, 1)");
        carry_all();
        rule_off('own-since-rewrite') if $off;
        sql($_->[0], "BEGIN; ALTER TABLE $table ALTER v TYPE int USING v + 0; UPDATE $table SET v = $_->[1]; COMMIT")
            for [ 'a', 2 ], [ 'b', 3 ];
        carry_all();
        rule_on('own-since-rewrite') if $off;
        push @said, join ' ', same($table), map { conflicts($_, $table) } qw(a b);
    }
    my $want = '(1,3) update_update {"k": 1} 1>2 update_update {"k": 1} 1>2';
    is($said[0], $want, 'rewrites: holds');
    isnt($said[1], $want, 'rewrites: breaks without the rule own-since-rewrite');
}

# The buffer runs over inside a subtransaction that is rolled back. (Node b's, since
# an entry that lacks some of its chunks holds up its stream.)
scenario('savepoint chunks', 'savepoint-chunks', q{
    SET cozesync.capture_buffer = '16kB';
    BEGIN;
    INSERT INTO t SELECT g, g FROM generate_series(11, 14) g;
    SAVEPOINT s;
    INSERT INTO t SELECT g, g FROM generate_series(1000, 9000) g;
    ROLLBACK TO s;
    COMMIT}, join(' ', '(1,1)', (map { "($_,$_)" } 11 .. 14), '(2,2)'), from => 'b');

# The last one, since it stops the stream of node a: id = id + 1 on 1, 2, 3 with a key that is checked only when all is done.
for my $off (0, 1)
{
    my $table = 't' . ++$tables;
    sql($_, "CREATE TABLE $table (id int PRIMARY KEY DEFERRABLE)") for qw(a b);
    rule_off('immediate-key') if $off;
    my $refused = sql_error($server, "SELECT cozesync.check_syncable('$table')", 'a');
    if (!$off)
    {
        like($refused, qr/55000/, 'deferrable key: holds');
        next;
    }
    sql('a', "INSERT INTO cozesync.synced_table VALUES ('public', '$table')");
    sql('a', "INSERT INTO $table VALUES (1), (2), (3)");
    carry('a', 'b');
    sql('a', "UPDATE $table SET id = id + 1");
    eval { carry('a', 'b', undef, 10) };
    isnt(rows('b', $table), '(2) (3) (4)', 'deferrable key: breaks without the rule immediate-key');
    rule_on('immediate-key');
}

$server->stop('fast');
done_testing();
