# Interleavings of clock, log and positions that break lesser designs, and the
# rules that each needs: with the rule in force two nodes end the same, with the
# rule taken out they do not.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use RuleTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Nothing reaches the disk but by us: see "asynchronous commit lost".
my ($a, $b) = map { new_node($_, conf => <<'CONF') } qw(a b);
cozesync.segment_size = '64kB'
synchronous_commit = off
wal_writer_delay = '10s'
checkpoint_timeout = '1h'
CONF
rule_servers($a, $b);

# A backend draws 50 and a reader that knows of no slot takes 51 for the horizon.
scenario('draw before publish', 'publish-before-draw', sub {
    my ($off) = @_;
    settle();
    debug_stop($a, 'draw-done', db(), 1);
    my $first = background($a, q{INSERT INTO t VALUES (1, 'early')}, db());
    wait_stopped($a, 'draw-done', db());
    sql($a, q{INSERT INTO t VALUES (2, 'late')});
    until_true($off ? $b : $a, $off ? 'SELECT count(*) = 1 FROM t WHERE id = 2'
        : q{SELECT held_back_by_pid IS NOT NULL FROM cozesync.stats});
    debug_go($a, 'draw-done', db());
    $first->finish;
    sql($a, q{INSERT INTO t VALUES (3, 'last')});
    until_true($b, 'SELECT count(*) = 1 FROM t WHERE id = 3');
    return equal();
});

# T1 draws and pauses, T2 draws, an entry arrives, T1 takes the new vector.
scenario('V falls along a stream', 'draw-together', sub {
    my ($off) = @_;
    my $point = $off ? 'draw-between' : 'draw-done';
    settle();
    debug_stop($a, $point, db(), 1);
    my $first = background($a, q{INSERT INTO t VALUES (1, 'first')}, db());
    wait_stopped($a, $point, db());
    sql($a, q{INSERT INTO t VALUES (2, 'second')});
    sql($b, q{INSERT INTO t VALUES (3, 'from b')});
    until_true($a, 'SELECT count(*) = 1 FROM t WHERE id = 3');
    debug_go($a, $point, db());
    $first->finish;
    sql($a, q{INSERT INTO t VALUES (4, 'last')});
    # along the stream of a what it had seen of b never falls; T1 may even have seen
    # what was drawn after it, which is no valid entry
    return (eval { sql($a, q{
        SELECT bool_and(coalesce(s >= before, before IS NULL))
          FROM (SELECT s, max(s) OVER (ORDER BY hlc ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                  FROM (SELECT hlc, (seen ->> 'b')::timestamptz AS s
                          FROM cozesync.entries() WHERE origin = cozesync.node_name()) q) w}) } // '') eq 't';
});

# An applied row is visible, its vector not yet published; a user writes on it.
scenario('visible before published', 'pending-seen', sub {
    settle();
    debug_stop($b, 'apply-after-commit-before-publish', db());
    sql($a, q{INSERT INTO t VALUES (1, 'from a')});
    until_true($b, 'SELECT count(*) = 1 FROM t');
    wait_stopped($b, 'apply-after-commit-before-publish', db());
    sql($b, q{UPDATE t SET v = 'seen and changed' WHERE id = 1});
    debug_go($b, 'apply-after-commit-before-publish', db());
    wait_quiet(\db(), $a, $b);
    return equal() && sql($a, 'SELECT count(*) FROM cozesync.conflicts') == 0
        && sql($b, q{
            SELECT (u.seen ->> 'a')::timestamptz = i.hlc
              FROM cozesync.entries() u, cozesync.entries() i
             WHERE u.xid = (SELECT xmin::text::bigint FROM t WHERE id = 1) AND u.origin = 'b'
               AND i.origin = 'a' AND i.kind = 'data'
             ORDER BY i.hlc DESC LIMIT 1}) eq 't';
});

# The clock was ahead of the wall; after a restart only the log knows that.
scenario('clock steps back over a restart', 'clock-restore', sub {
    sql($a, q{SELECT cozesync.debug_clock('30 seconds'); INSERT INTO t VALUES (1, 'ahead')});
    wait_quiet(\db(), $a, $b);
    # nothing shall come in that tells it the time
    sql($_, 'SELECT cozesync.pause()') for $a, $b;
    $a->restart;
    sql($a, q{INSERT INTO t VALUES (2, 'after the restart')});
    my $rises = eval { sql($a, q{SELECT max(hlc) > clock_timestamp() + interval '1 second'
        FROM cozesync.entries() WHERE xid = (SELECT xmin::text::bigint FROM t WHERE id = 2)}) } // 'f';
    sql($_, 'SELECT cozesync.resume()') for $a, $b;
    sql($a, q{SELECT cozesync.wait_for_sync('3 seconds')});
    return $rises eq 't' && equal();
}, on_start => 1);

# Sent before it was durable, lost by a crash of its origin.  Something else may flush
# just then, so without the rule it is tried until it goes wrong.
scenario('asynchronous commit lost', 'flush-before-send', sub {
    my ($off) = @_;
    for my $try (1 .. ($off ? 10 : 1))
    {
        settle();
        sql($a, 'CHECKPOINT');
        sql($a, "INSERT INTO t VALUES ($try, 'may be lost')");
        until_true($b, "SELECT count(*) = 1 FROM t WHERE id = $try");
        crash_node($a);
        sql($a, q{SELECT cozesync.wait_for_sync('2 seconds')});
        last if !equal();
    }
    return equal();
});

# And the same of what a node told others that it holds.
scenario('asynchronous word on what is held, lost', 'flush-before-send', sub {
    my ($off) = @_;
    for my $try (1 .. ($off ? 10 : 1))
    {
        settle();
        sql($b, 'CHECKPOINT');
        sql($a, "INSERT INTO t VALUES ($try, 'b may lose it')");
        sql($a, q{SELECT cozesync.wait_for_sync('10 s')});
        # a has b's beat that has seen it
        until_true($a, q{SELECT count(*) > 0 FROM cozesync.entries() e WHERE e.origin = 'b' AND (e.seen ->> 'a')::timestamptz
            >= (SELECT max(hlc) FROM cozesync.entries() WHERE origin = 'a' AND kind = 'data')});
        crash_node($b);
        sql($a, q{SELECT cozesync.wait_for_sync('2 seconds')});
        last if !equal();
    }
    return equal();
});

# All entries of an origin that is no more are pruned; only the base vector says that
# they were applied.
scenario('pruned progress', 'base-vector', sub {
    my $third = third_node($a);
    $a->safe_psql($third, q{INSERT INTO t VALUES (1, 'from c');
        SELECT cozesync.wait_for_sync('60 seconds')});
    sql($a, q{SELECT cozesync.drop_node('c')});
    $a->safe_psql('postgres', "DROP DATABASE $third WITH (FORCE)");
    for my $round (1 .. 60)
    {
        sql($a, "CALL fill(1000 * $round, 8)");
        wait_quiet(\db(), $a, $b);
        last if sql($b, q{SELECT count(*) FROM cozesync.entries() WHERE origin NOT IN ('a', 'b')}) == 0;
    }
    my $origins = q{SELECT count(*) FROM jsonb_object_keys(cozesync.vector())};
    my $before = sql($b, $origins);
    $b->restart;
    return sql($b, $origins) == $before && equal();
}, on_start => 1);

# A long transaction has chunks in a segment that everybody else is done with.
scenario('open segment', 'open-segment', sub {
    my ($off) = @_;
    sql($a, 'CREATE TABLE go ()');
    my $long = background($a, q{
        SET cozesync.capture_buffer = '16kB';
        BEGIN;
        INSERT INTO t SELECT g, repeat('y', 1000) FROM generate_series(1, 100) g;
        DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
        COMMIT}, db());
    # which segments hold chunks, though nobody can see them yet
    my $with_chunks = q{SELECT string_agg(i::text, ' ') FROM generate_series(1, 8) i
        WHERE pg_relation_size('cozesync.chunk_' || i) > 0};
    until_true($a, "SELECT ($with_chunks) <> ''");
    my ($segment) = split ' ', sql($a, $with_chunks);
    for my $round (1 .. 5)
    {
        sql($a, "CALL fill(1000 * $round, 10)");
        settle();
    }
    # committed here, but not on its way
    sql($_, 'SELECT cozesync.pause()') for $a, $b;
    sql($a, 'INSERT INTO go DEFAULT VALUES');
    $long->finish;
    # what it wrote is, or is not, emptied by the next round of upkeep
    until_true($a, "SELECT pg_relation_size('cozesync.chunk_$segment') = 0") if $off;
    sql($a, 'SELECT pg_sleep(0.3)') if !$off;
    sql($_, 'SELECT cozesync.resume()') for $a, $b;
    sql($a, q{SELECT cozesync.wait_for_sync('3 seconds')});
    return equal();
});

# Who has read the node's state and is slow shall not take over what is no longer so.
# Workers stay away meanwhile: whoever comes first reads for all.
scenario('attached to the past', 'attach-whole', sub {
    debug_stop($a, 'attach-before-read', db(), 0, 'workers');
    debug_stop($a, 'attach-read', db(), 1, 'sessions');
    sql($a, 'SELECT cozesync.node_changed()');
    my $slow = background($a, 'SELECT cozesync.vector()', db());
    wait_stopped($a, 'attach-read', db());
    sql($a, 'SELECT cozesync.leave_group()');
    debug_go($a, 'attach-read', db());
    $slow->finish;
    my $well = sql($a, 'SELECT cut IS NULL FROM cozesync.node_stats()') eq 't';
    debug_go($a, 'attach-before-read', db());
    return $well;
}, nodes => [$a]);

# What has no rule to take out.

# A large transaction lies in the log while its node is restarted, and crashes.
begin();
sql($_, 'SELECT cozesync.pause()') for $a, $b;
sql($a, q{SET cozesync.capture_buffer = '16kB'; INSERT INTO t SELECT g, repeat('z', 1000) FROM generate_series(1, 300) g});
$a->restart;
sql($a, 'CALL fill(1000, 30)');
crash_node($a);
sql($a, q{SET cozesync.capture_buffer = '16kB'; UPDATE t SET v = v || '!'});
sql($_, 'SELECT cozesync.resume()') for $a, $b;
ok(wait_sync(\db(), $a, $b) && equal(), 'a large transaction survives restarts of its node');
end();

# A transaction that makes a group is alone with it until it commits.
begin(nodes => [$b]);
my $making = background($a, q{
    CREATE TABLE go ();
    BEGIN;
    SELECT cozesync.create_group('g', node_name => 'x', dsn => NULL);
    SELECT cozesync.vector();
    DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.01); END LOOP; END $$;
    ROLLBACK;
    SELECT count(*) FROM cozesync.member}, db());
until_true($a, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^DO' AND datname = current_database()});
like(sql_error($a, 'SELECT cozesync.vector()', db()), qr/not a member/, 'a group that is being made is not there');
sql($a, 'INSERT INTO go DEFAULT VALUES');
my ($status, $out) = $making->finish;
is((split /\n/, $out)[-1], 0, 'and is gone with its transaction');
like(sql_error($a, 'SELECT cozesync.vector()', db()), qr/not a member/, 'for everybody');
like(sql_error($a, q{BEGIN; SELECT cozesync.node_changed(); PREPARE TRANSACTION 'x'}, db()),
    qr/0A000|prepared transactions are disabled/, 'what a node is cannot be prepared');

# The extension is dropped and made again in one life of the server.
sql($a, q{SELECT cozesync.create_group('g', node_name => 'x', dsn => NULL); SELECT cozesync.add_table('t')})
    if sql($a, q{CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x'); SELECT 1});
my $was = sql($a, 'SELECT cozesync.vector()');
sql($a, 'DROP EXTENSION cozesync CASCADE; CREATE EXTENSION cozesync');
like(sql_error($a, 'SELECT cozesync.vector()', db()), qr/not a member/, 'a dropped extension leaves no node');
sql($a, q{SELECT cozesync.create_group('g', node_name => 'x', dsn => NULL); SELECT cozesync.add_table('t')});
sql($a, q{INSERT INTO t VALUES (2, 'y')});
is(sql($a, q{SELECT count(*) FROM cozesync.entries() WHERE kind = 'data' AND changes = 1 AND origin = 'x'
    AND hlc = (SELECT max(value::timestamptz) FROM jsonb_each_text(cozesync.vector()))}), 1,
    'and its successor starts afresh');
end();

done_testing();
