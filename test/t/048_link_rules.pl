# Interleavings of links, positions and identities that break lesser designs, each with
# its rule in force and with the rule taken out.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use RuleTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($a, $b) = map { new_node($_, conf => "cozesync.segment_size = '64kB'\ncozesync.link_timeout = '10min'\n") } qw(a b);
rule_servers($a, $b);

# b loses its last transaction, as an older backup or a standby that lags has, and
# writes on before its links are up: its stream looks as if it only went on.
scenario('promoted standby that lags', 'position-check', sub {
    my ($off) = @_;
    my $dir = $b->data_dir;
    settle();
    $b->stop;
    system_or_bail('cp', '-a', $dir, "$dir.backup");
    $b->start;
    sql($b, q{INSERT INTO t VALUES (1, 'will be lost')});
    wait_quiet(\db(), $b, $a);
    sql($a, q{SELECT cozesync.pause()});
    $b->stop;
    system_or_bail('rm', '-r', $dir);
    system_or_bail('mv', "$dir.backup", $dir);
    $b->start;
    debug_rule($a, 'position-check', $off, db());
    sql($b, q{SELECT cozesync.pause(); INSERT INTO t VALUES (2, 'in its place')});
    sql($_, q{SELECT cozesync.resume()}) for $a, $b;
    my $noticed = q{SELECT bool_and(state = 'stopped' AND last_error ~ 'holds a transaction of this node')
        FROM cozesync.links};
    until_true($b, $off ? q{SELECT bool_and(state = 'streaming') FROM cozesync.links} : $noticed);
    return sql($b, $noticed) eq 't' && sql($a, 'SELECT max(id) FROM t') == 1;
}, on_start => 1);

# A copy of b's database in the same server: the same system identifier.
scenario('two of one name', 'identity', sub {
    my ($off) = @_;
    my $copy = db() . '_copy';
    settle();
    $b->safe_psql('template1', "CREATE DATABASE $copy TEMPLATE " . db());
    sql($b, q{INSERT INTO t VALUES (1, 'in the copy')}, $copy);
    my $refused = q{SELECT bool_and(state = 'stopped' AND last_error = 'this database is not the one that joined the group')
        FROM cozesync.links};
    if ($off)
    {
        until_true($a, q{SELECT count(*) = 1 FROM t WHERE id = 1});
    }
    else
    {
        until_true($b, $refused, $copy);
        sql($b, q{INSERT INTO t VALUES (2, 'in the original')});
        wait_quiet(\db(), $a, $b);
    }
    my $came = sql($a, 'SELECT count(*) FROM t WHERE id = 1');
    $b->safe_psql('postgres', "DROP DATABASE $copy WITH (FORCE)");
    return $came == 0 && equal();
});

# A segment is truncated under the snapshot of a link that reads it: its peer had
# those entries from somebody else, and lacks the ones behind them.  What the link makes
# of that is an error by which somebody would drop a node that is well.
sub truncated_under_a_reader
{
    my ($error, $has_sent) = @_;
    my $third = third_node($b);
    my $has = sub { until_true($_[0], "SELECT count(*) = 1 FROM t WHERE id = $_[2]", $_[1]) };
    # a learns of nobody for the time being, so that it forgets nothing
    sql($a, q{SELECT cozesync.set_link('a', 'c', 'pull'); SELECT cozesync.set_link('b', 'a', 'off');
        SELECT cozesync.set_link('c', 'a', 'off')});
    until_true($b, q{SELECT count(*) = 0 FROM cozesync.links WHERE target = 'a'}, $_) for db(), $third;
    if ($has_sent)
    {
        # what the link to c has sent itself it need not look up again
        sql($a, q{INSERT INTO t VALUES (0, 'sent by the link')});
        $has->($b, $third, 0);
    }

    # the session that serves c comes to read, and stands before it, while a whole segment fills
    debug_stop($a, 'source-before-fill', db(), 0, 'sessions');
    sql($a, q{INSERT INTO t VALUES (1, 'early')});
    wait_stopped($a, 'source-before-fill', db());
    my $filled = q{SELECT string_agg(i::text, ',') FROM generate_series(1, 8) i WHERE pg_relation_size('cozesync.log_' || i) > 0};
    my $segment = sql($a, $filled);
    # in one entry, since upkeep shall find the segment full behind it
    sql($a, q{INSERT INTO t SELECT 1000 + g, repeat('x', 7000) FROM generate_series(1, 20) g});

    # over b all of that comes to c, and both know it of each other; then no more
    $has->($b, $third, 1020);
    sql($b, q{INSERT INTO t VALUES (3, 'b')});
    sql($b, q{INSERT INTO t VALUES (4, 'c')}, $third);
    for my $case ([ db(), 'b', 'c', 4 ], [ $third, 'c', 'b', 3 ], [ db(), 'c', 'b', 3 ])
    {
        my ($dbname, $one, $other, $id) = @$case;
        until_true($b, "SELECT count(*) > 0 FROM cozesync.entries() e WHERE origin = '$one' AND (seen ->> '$other')::timestamptz >=
            (SELECT max(hlc) FROM cozesync.changes() WHERE relation = 'public.t' AND key ->> 'id' = '$id')", $dbname);
    }
    sql($b, q{SELECT cozesync.pause('c')});
    sql($a, q{INSERT INTO t VALUES (5, 'late')});
    isnt(sql($a, $filled), $segment, 'the late entry is in another segment');

    # now the session reads, but for a moment; a learns what the others hold, and the segment goes
    debug_stop($a, 'source-before-read', db(), 0, 'sessions');
    debug_go($a, 'source-before-fill', db());
    wait_stopped($a, 'source-before-read', db());
    sql($a, q{SELECT cozesync.set_link('b', 'a', 'push')});
    until_true($a, "SELECT pg_relation_size('cozesync.log_$segment') = 0");
    debug_go($a, 'source-before-read', db());
    # the error is kept, though the link goes on after it
    $has->($b, $third, 5);
    return sql($b, "SELECT count(*) FROM cozesync.links WHERE source = 'a' AND last_error ~ '$error'", $third) == 0;
}

scenario('truncated under a reader', undef,
    sub { truncated_under_a_reader('lacks a transaction that it must hold', 1) });

scenario('truncated under a reader whose peer spoke before', 'ask-first',
    sub { truncated_under_a_reader('lacks transactions that this node no longer keeps', 0) });

# A joiner is written to only when every member counts it: until then one of them
# might forget what the joiner's writes had not seen.
scenario('joiner unknown to a forgetter', 'ready', sub {
    my ($off) = @_;
    my $third = db() . 'c';
    sql($b, q{SELECT cozesync.pause()});
    $a->safe_psql('postgres', "CREATE DATABASE $third");
    $a->safe_psql($third, sprintf q{CREATE EXTENSION cozesync;
        CALL cozesync.join_group(node_name => 'c', dsn => '%s', via => '%s', wait => false)},
        node_dsn($a, $third), node_dsn($a, db()));
    my $state = 'SELECT state FROM cozesync.local_node';
    if ($off)
    {
        until_true($a, "SELECT ($state) = 'ready'", $third);
    }
    else
    {
        until_true($a, q{SELECT phase = 'catching up' FROM cozesync.join_run}, $third);
    }
    my $written = !sql_error($a, q{INSERT INTO t VALUES (1, 'by a node that b does not know')}, $third);
    sql($b, q{SELECT cozesync.resume()});
    until_true($a, "SELECT ($state) = 'ready'", $third) if !$off;
    return !$written;
});

# Two operations that had not seen each other are above the cut, and both are in the row that a
# joiner copies.  If they came to it again they would meet a row that nothing explains.
scenario('delta in the tail', 'tail-held', sub {
    my ($off) = @_;
    my $third = db() . 'c';
    sql($a, q{SELECT cozesync.execute_everywhere('CREATE TABLE n (id int PRIMARY KEY, v int)')});
    wait_quiet(\db(), $a, $b);
    sql($a, q{SELECT cozesync.add_table('n'); SELECT cozesync.set_conflict_policy('n', 'merge');
        SELECT cozesync.set_column_policy('n', 'v', 'delta')});
    sql($a, q{INSERT INTO n VALUES (1, 0)});
    settle();

    # b does not hear of what a adds, so both stay above the cut; then c copies the row with both
    sql($a, q{SELECT cozesync.set_link('a', 'b', 'off')});
    until_true($a, q{SELECT count(*) = 0 FROM cozesync.links WHERE target = 'b'});
    sql($a, q{UPDATE n SET v = v + 5});
    sql($b, q{UPDATE n SET v = v + 3});
    until_true($a, q{SELECT v = 8 FROM n});
    $b->safe_psql('postgres', "CREATE DATABASE $third");
    $b->safe_psql($third, sprintf q{CREATE EXTENSION cozesync;
        CALL cozesync.join_group(node_name => 'c', dsn => '%s', via => '%s', wait => false)},
        node_dsn($b, $third), node_dsn($a, db()));
    until_true($b, q{SELECT phase = 'catching up' FROM cozesync.join_run}, $third);
    sql($a, q{SELECT cozesync.set_link('a', 'b', 'push')});
    until_true($b, q{SELECT state = 'ready' FROM cozesync.nodes WHERE is_local}, $third);
    until_true($_->[0], q{SELECT v = 8 FROM n}, $_->[1]) for [ $a, db() ], [ $b, db() ], [ $b, $third ];
    my $log = q{SELECT count(*) FROM cozesync.conflicts};
    return sql($a, $log) == 0 && sql($b, $log, $third) == 0;
});

done_testing();
