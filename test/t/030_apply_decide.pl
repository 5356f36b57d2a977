# What an entry does to a row does not depend on when it arrives.  Each scenario
# runs with its rule in force, and with the rule taken out, when it must break.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use ApplyTest;
use CozeTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $server = apply_server('apply', qw(a b c));
my $tables = 0;

# code gets a fresh table and says whether all is well.
sub scenario
{
    my ($name, $rule, $columns, $code) = @_;
    for my $off (0 .. ($rule ? 1 : 0))
    {
        my $table = 't' . ++$tables;
        everywhere($table, "CREATE TABLE $table ($columns)");
        rule_off($rule) if $off;
        my $said = $code->($table, $off);
        rule_on($rule) if $off;
        if ($off)
        {
            isnt($said, '', "$name: breaks without the rule $rule");
        }
        else
        {
            is($said, '', "$name: holds");
        }
    }
    return;
}

# '' if all nodes have these rows.
sub expect
{
    my ($table, $rows) = @_;
    my $said = same($table);
    return $said eq $rows ? '' : "rows $said, not $rows";
}

scenario('update, then delete', 'tombstones', 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    carry_all();
    sql('a', "UPDATE $t SET v = 'y' WHERE k = 1");
    sql('b', "DELETE FROM $t WHERE k = 1");
    carry_all();
    return expect($t, '');
});

scenario('delete, then update', 'tombstones', 'k int PRIMARY KEY, v text, w int', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x', 7)");
    carry_all();
    sql('b', "DELETE FROM $t WHERE k = 1");
    sql('a', "UPDATE $t SET v = 'y' WHERE k = 1");
    # the older one arrives last
    carry('a', 'b');
    carry('a', 'c');
    carry('b', 'c');
    carry('b', 'a');
    my $rows = expect($t, '(1,y,7)');
    my $log = join ' ', map { conflicts($_, $t) } qw(a b c);
    return $rows if $rows;
    my $want = join ' ', ('update_deleted {"k": 1} 2>1') x 3;
    return $log eq $want ? '' : "log $log";
});

scenario('equal bytes still win', undef, 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'o')");
    carry_all();
    sql('a', "UPDATE $t SET v = 'x' WHERE k = 1");
    sql('c', "UPDATE $t SET v = 'y' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'x' WHERE k = 1");
    carry('b', 'a');
    carry('c', 'a');
    carry_all();
    return expect($t, '(1,x)');
});

# k was deleted here; a local transaction inserts it again and sits in its commit.
scenario('absent, but committing', 'absent-wait', 'k int PRIMARY KEY, v text', sub {
    my ($t, $off) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    carry_all();
    sql('b', "DELETE FROM $t WHERE k = 1");
    stop_at('draw-done');
    my $insert = in_background('b', "INSERT INTO $t VALUES (1, 'again')");
    stopped_at('draw-done');
    sql('a', "DELETE FROM $t WHERE k = 1");
    my $upto = carry_no_wait('a', 'b');
    if ($off)
    {
        wait_applied('b', 'a', $upto);
    }
    else
    {
        poll_until($server, q{SELECT count(*) = 1 FROM pg_stat_activity
            WHERE datname = 'b' AND backend_type = 'cozesync applier' AND wait_event_type = 'Lock'},
            't', 'b');
    }
    go_at('draw-done');
    $insert->finish;
    wait_applied('b', 'a', $upto);
    carry_all();
    return expect($t, '');
});

# A key that came and went between the decision and the write.
scenario('gone again before the write', 'check-after-write', 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    stop_at('apply-decided');
    my $upto = carry_no_wait('a', 'b');
    stopped_at('apply-decided');
    sql('b', "INSERT INTO $t VALUES (1, 'local')");
    sql('b', "DELETE FROM $t WHERE k = 1");
    go_at('apply-decided');
    wait_applied('b', 'a', $upto);
    carry_all();
    return expect($t, '');
});

# The server says that the table has changed while its operations are being read off the log.
scenario('a table is analyzed meanwhile', 'table-stays', 'k int PRIMARY KEY, u text UNIQUE', sub {
    my ($t) = @_;
    sql('b', "INSERT INTO $t VALUES (1, 'local')");
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    stop_at('together-begun');
    my $upto = carry_no_wait('a', 'b');
    stopped_at('together-begun');
    sql('b', "ANALYZE $t");
    go_at('together-begun');
    wait_applied('b', 'a', $upto);
    carry_all();
    my $log = join ' ', map { conflicts($_, $t) } qw(a b);
    my $want = join ' ', ('insert_exists {"k": 1} 2>1') x 2;
    return expect($t, '(1,x)') || ($log eq $want ? '' : "log $log");
});

scenario('gone again before the write, with its unique value', 'check-after-write',
    'k int PRIMARY KEY, u text UNIQUE', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    stop_at('apply-decided');
    my $upto = carry_no_wait('a', 'b');
    stopped_at('apply-decided');
    sql('b', "INSERT INTO $t VALUES (2, 'x')");
    sql('b', "DELETE FROM $t WHERE k = 2");
    go_at('apply-decided');
    wait_applied('b', 'a', $upto);
    carry_all();
    my %logs = map { conflicts($_, $t) => 1 } qw(a b c);
    return expect($t, '(1,x)') || (keys %logs == 1 ? '' : 'logs: ' . join ' | ', keys %logs);
});

# The look at the index is followed by an update that moves the row; the log shall not
# know of it, since what it tells would decide all the same.
scenario('row on the move', 'fresh-look', 'k int PRIMARY KEY, v text, w int', sub {
    my ($t) = @_;
    sql('b', "CREATE INDEX ON $t (w)");
    sql('a', "INSERT INTO $t VALUES (1, 'x', 0)");
    carry_all();
    sql('a', "DELETE FROM $t WHERE k = 1");
    stop_at('row-between-index-and-heap');
    my $upto = carry_no_wait('a', 'b');
    stopped_at('row-between-index-and-heap');
    sql('b', "SET session_replication_role = replica; UPDATE $t SET w = w + 1 WHERE k = 1");
    go_at('row-between-index-and-heap');
    wait_applied('b', 'a', $upto, 3);
    rule_on('fresh-look');
    carry_all();
    return expect($t, '') || conflicts('b', $t);
});

scenario('keys that are equal and not identical', 'key-equality', 'k numeric PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1.0, 'x')");
    carry_all();
    sql('a', "UPDATE $t SET k = 1.00, v = 'y' WHERE k = 1");
    sql('b', "DELETE FROM $t WHERE k = 1");
    carry_all();
    return expect($t, '');
});

scenario('a TRUNCATE spares what it had not seen to be newer', 'truncate-newer',
    'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'old')");
    carry_all();
    sql('c', "INSERT INTO $t VALUES (3, 'earlier')");
    sql('a', "TRUNCATE $t");
    sql('b', "INSERT INTO $t VALUES (2, 'later')");
    carry_all();
    return expect($t, '(2,later)');
});

scenario('a table that refers to a truncated one stops nothing', undef, 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    carry_all();
    sql('b', "CREATE TABLE refers_$t (k int REFERENCES $t); INSERT INTO refers_$t VALUES (1)");
    sql('a', "TRUNCATE $t");
    sql('a', "INSERT INTO $t VALUES (5, 'after')");
    carry_all(20) or return 'the stream stands still';
    return expect($t, '(5,after)');
});

# {1:x, 2:z} on every node, whatever came first.
scenario('second unique key', 'unique-states', 'k int PRIMARY KEY, u text UNIQUE', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    sql('b', "INSERT INTO $t VALUES (2, 'x')");
    sql('b', "UPDATE $t SET u = 'z' WHERE k = 2");
    my $ok = carry('a', 'b', undef, 3) && carry('b', 'c', undef, 3) && carry('a', 'c', undef, 3)
        && carry('b', 'a', undef, 3);
    my $said = expect($t, '(1,x) (2,z)');
    if (!$ok)
    {
        # leave no stream behind that stands still
        rule_on('unique-states');
        carry_all();
        return "a stream stands still, $said";
    }
    return $said if $said;
    my %logs = map { conflicts($_, $t) => 1 } qw(a b c);
    my $want = 'unique_violation {"k": 2} 2>2';
    return keys %logs == 1 && $logs{$want} ? '' : 'logs: ' . join ' | ', keys %logs;
});

scenario('a deletion frees the value that an earlier one had lost', undef,
    'k int PRIMARY KEY, u text UNIQUE, v int', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (3, 'x', 0)");
    carry('a', 'c');
    sql('c', "DELETE FROM $t WHERE k = 3");
    sql('b', "INSERT INTO $t VALUES (2, 'x', 1)");
    # b first sees the insert, and loses its own; then the deletion, and has it again
    carry('a', 'b');
    my $between = rows('b', $t);
    carry('c', 'b');
    carry_all();
    my $said = expect($t, '(2,x,1)');
    return $said if $said;
    return "between: $between" if $between ne '(3,x,0)';
    my $log = join '', map { conflicts($_, $t) } qw(a b c);
    return $log eq '' ? '' : "log $log";
});

scenario('rows exchange a unique value', undef,
    'k int PRIMARY KEY, u text UNIQUE DEFERRABLE INITIALLY DEFERRED, v int', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x', 0), (2, 'y', 0)");
    carry_all();
    sql('b', "UPDATE $t SET v = 5 WHERE k = 1");
    sql('a', "UPDATE $t SET u = CASE u WHEN 'x' THEN 'y' ELSE 'x' END");
    carry_all(20) or return 'a stream stands still';
    return expect($t, '(1,y,0) (2,x,0)');
});

scenario('rows exchange their keys', undef, 'k int PRIMARY KEY, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x'), (2, 'y')");
    carry_all();
    sql('a', "BEGIN; UPDATE $t SET k = 3 WHERE k = 1; UPDATE $t SET k = 1 WHERE k = 2;
        UPDATE $t SET k = 2 WHERE k = 3; COMMIT");
    carry_all();
    return expect($t, '(1,y) (2,x)') || conflicts('b', $t);
});

# Q@10; Z@20 had not seen it; Y@15 had: then Q lost to nobody.
for my $unique ('', ', u int UNIQUE')
{
    scenario('the conflict log is a function of the set' . ($unique ? ', on states' : ''), undef,
        "k int PRIMARY KEY, v text$unique", sub {
        my ($t) = @_;
        sql('a', "INSERT INTO $t VALUES (1, 'q')");
        carry('a', 'b');
        sql('b', "UPDATE $t SET v = 'y' WHERE k = 1");
        sql('c', "INSERT INTO $t VALUES (1, 'z')");
        carry('a', 'c');
        my $between = conflicts('c', $t);
        carry('b', 'c');
        carry_all();
        my $said = same($t) =~ /^\(1,z,?\)$/ ? '' : same($t);
        my %logs = map { conflicts($_, $t) => 1 } qw(a b c);
        return "between: $between" if $between ne 'insert_exists {"k": 1} 1>3';
        return $said if $said;
        return keys %logs == 1 && $logs{'insert_exists {"k": 1} 2>3'} ? '' :
            'logs: ' . join ' | ', keys %logs;
    });
}

# A row was changed behind the log's back; a late operation folds it anew.
scenario('refold over a hidden change', 'hidden-changes', 'k int PRIMARY KEY, u text UNIQUE, v text', sub {
    my ($t) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x', 'a')");
    carry_all();
    sql('c', "UPDATE $t SET v = 'early' WHERE k = 1");
    sql('b', "UPDATE $t SET v = 'late' WHERE k = 1");
    sql('b', "SET session_replication_role = replica; UPDATE $t SET v = 'hidden' WHERE k = 1");
    carry_all();
    my $kept = sql('b', "SELECT count(*) FROM cozesync.conflict WHERE table_name = '$t' AND local_row ->> 'v' = 'hidden'");
    return expect($t, '(1,x,late)') || ($kept == 1 ? '' : "in the log: $kept");
});

# A row that its author saw live had, here, not come back to life: another has its value.
scenario('an image of what was another state', 'image-is-his', "k int PRIMARY KEY, u text UNIQUE, d int DEFAULT 0, v text", sub {
    my ($t) = @_;
    sql('a', "SELECT cozesync.set_conflict_policy('$t', 'merge'); SELECT cozesync.set_column_policy('$t', 'd', 'delta');
        INSERT INTO $t VALUES (2, NULL, 5, 'o')");
    carry_all() for 1 .. 2;
    sql('c', "INSERT INTO $t VALUES (3, 'p', 0, 'c')");
    sql('a', "DELETE FROM $t WHERE k = 2");
    sql('b', "UPDATE $t SET u = 'p' WHERE k = 2");
    sql('a', "INSERT INTO $t VALUES (2, NULL, 0, 'a')");
    carry('c', 'b');
    carry('a', 'b');
    carry('b', 'a');
    my ($here, $there) = map { sql($_, "SELECT d FROM $t WHERE k = 2") } qw(a b);
    return "no different states: $here, $there" if $here == $there;
    sql('a', "UPDATE $t SET v = 'z' WHERE k = 2");
    carry(@$_) for [qw(b c)], [qw(c a)];
    carry_all();
    return expect($t, '(2,,0,z) (3,p,0,c)');
});

# Who truncates has seen a row's last change, which the cut has passed where another, unseen, TRUNCATE
# had come before: of the row there is only its base record.
everywhere('beats', 'CREATE TABLE beats (id uuid PRIMARY KEY DEFAULT gen_random_uuid())');
scenario('a cut through two TRUNCATEs', 'truncate-records', 'k int PRIMARY KEY, u text UNIQUE', sub {
    my ($t) = @_;
    my $beat = sub { sql($_[0], 'INSERT INTO beats VALUES (default)') };
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    carry_all() for 1 .. 2;
    sql('b', "UPDATE $t SET u = 'y' WHERE k = 1");
    my $changed = held('b', 'b');
    $beat->('c');
    carry(@$_) for [qw(b a)], [qw(c a)];
    $beat->('a');
    my $beaten = held('a', 'a');
    sql($_, "TRUNCATE $t") for qw(a c);
    carry('c', 'b');
    return 'lost unseen, but not in the log' if conflicts('b', $t) !~ /truncate_write/;
    carry('b', 'c');
    carry_upto('a', $_, $beaten) for qw(b c);
    $beat->('c');
    carry('c', 'b');
    $beat->('b');
    sql('b', q{ALTER SYSTEM SET cozesync.beat_interval = '50ms'});
    sql('b', 'SELECT pg_reload_conf()');
    my $passed = poll_until($server, "SELECT cut >= $changed FROM cozesync.local_node", 't', 'b');
    sql('b', q{ALTER SYSTEM RESET cozesync.beat_interval});
    sql('b', 'SELECT pg_reload_conf()');
    return 'the cut stands still' if !$passed;
    carry('c', 'a');
    carry_all();
    my %logs = map { conflicts($_, $t) => 1 } qw(a b c);
    return expect($t, '') || (keys %logs == 1 ? '' : 'logs: ' . join ' | ', map { conflicts($_, $t) } qw(a b c));
});

scenario('causes first', 'gate', 'k int PRIMARY KEY, v text', sub {
    my ($t, $off) = @_;
    sql('a', "INSERT INTO $t VALUES (1, 'x')");
    carry('a', 'b');
    sql('b', "DELETE FROM $t WHERE k = 1");
    my $upto = carry_no_wait('b', 'c');
    wait_applied('c', 'b', $upto) if $off;
    carry_all();
    return expect($t, '') || conflicts('c', $t);
});

$server->stop('fast');
done_testing();
