# Interleavings of clock, log and positions that break lesser designs, and the
# rules that each needs: with the rule in force two nodes end the same, with the
# rule taken out they do not.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $schema = 'CREATE TABLE t (id int PRIMARY KEY, v text)';

# Run a scenario with its rule in force and taken out.  It returns what it finds:
# true if all is well.  A fresh pair each time, since broken nodes stay broken.
sub scenario
{
    my ($name, $rule, $code, %opt) = @_;
    for my $off (0, 1)
    {
        my $suffix = $off ? 'x' : '';
        my ($a, $b) = new_pair(nodes => [ "a$suffix", "b$suffix" ], schema => $schema,
            conf => "cozesync.segment_size = '64kB'\n" . ($opt{conf} // ''));
        for my $node ($a, $b)
        {
            debug_rule($node, $rule, 1) if $off && !$opt{at_start};
        }
        local $ENV{COZE_RULES_OFF} = $off && $opt{at_start} ? $rule : '';
        my $well = $code->($a, $b, $off);
        is($well ? 'well' : 'broken', $off ? 'broken' : 'well',
            $off ? "$name: breaks without the rule $rule" : "$name: holds");
        $_->stop('immediate') for $a, $b;
        $_->clean_node for $a, $b;
    }
    return;
}

sub equal
{
    my ($a, $b) = @_;
    return digest($a, 't') eq digest($b, 't');
}

# A backend draws 50 and a reader that knows of no slot takes 51 for the horizon.
scenario('draw before publish', 'publish-before-draw', sub {
    my ($a, $b, $off) = @_;
    $a->safe_psql('postgres', q{SELECT cozesync.debug_stop('draw-done', true)});
    my $first = background($a, q{INSERT INTO t VALUES (1, 'early')});
    wait_stopped($a, 'draw-done');
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (2, 'late')});
    if ($off)
    {
        poll_until($b, 'SELECT count(*) = 1 FROM t');
    }
    else
    {
        poll_until($a, q{SELECT count(*) = 1 FROM cozesync.stats WHERE horizon_held_back_by IS NOT NULL});
    }
    debug_go($a, 'draw-done');
    $first->finish;
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (3, 'last')});
    poll_until($b, 'SELECT count(*) = 1 FROM t WHERE id = 3');
    return equal($a, $b);
});

# T1 draws and pauses, an entry arrives, T1 takes the new vector; T2 drew in between.
scenario('V falls along a stream', 'draw-together', sub {
    my ($a, $b, $off) = @_;
    $a->safe_psql('postgres', sprintf q{SELECT cozesync.debug_stop('%s', true)},
        $off ? 'draw-between' : 'draw-done');
    my $first = background($a, q{INSERT INTO t VALUES (1, 'first')});
    wait_stopped($a, $off ? 'draw-between' : 'draw-done');
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (2, 'second')});
    $b->safe_psql('postgres', q{INSERT INTO t VALUES (3, 'from b')});
    poll_until($a, 'SELECT count(*) = 1 FROM t WHERE id = 3');
    debug_go($a, $off ? 'draw-between' : 'draw-done');
    $first->finish;
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (4, 'last')});
    # along the stream of a what it had seen of b never falls
    return $a->safe_psql('postgres', q{
        SELECT bool_and(coalesce(s >= before, before IS NULL))
          FROM (SELECT s, max(s) OVER (ORDER BY hlc ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
                  FROM (SELECT hlc, (seen ->> 'b')::timestamptz AS s, seen ->> 'bx' AS x
                          FROM (SELECT hlc, CASE WHEN seen ? 'bx' THEN jsonb_build_object('b', seen -> 'bx') ELSE seen END AS seen
                                  FROM cozesync.entries() WHERE origin = cozesync.node_name()) e) q) w}) eq 't';
});

# An applied row is visible, its vector not yet published; a user writes on it.
scenario('visible before published', 'pending-seen', sub {
    my ($a, $b) = @_;
    debug_stop($b, 'apply-after-commit-before-publish');
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (1, 'from a')});
    wait_stopped($b, 'apply-after-commit-before-publish');
    $b->safe_psql('postgres', q{UPDATE t SET v = 'seen and changed' WHERE id = 1});
    debug_go($b, 'apply-after-commit-before-publish');
    wait_quiet($a, $b);
    return equal($a, $b)
        && $a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts') == 0;
});

# The clock was ahead of the wall; after a restart only the log knows that.
scenario('clock steps back over a restart', 'clock-restore', sub {
    my ($a, $b) = @_;
    $a->safe_psql('postgres', q{SELECT cozesync.debug_clock('30 seconds'); INSERT INTO t VALUES (1, 'ahead')});
    wait_quiet($a, $b);
    $a->restart;
    $a->safe_psql('postgres', q{INSERT INTO t VALUES (2, 'after the restart')});
    $a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('3 seconds')});
    return equal($a, $b);
}, at_start => 1);

# Sent before it was durable, lost by a crash of its origin.
scenario('asynchronous commit lost', 'flush-before-send', sub {
    my ($a, $b) = @_;
    $a->safe_psql('postgres', q{SET synchronous_commit = off; INSERT INTO t VALUES (1, 'may be lost')});
    poll_until($b, 'SELECT count(*) = 1 FROM t WHERE id = 1');
    crash_node($a);
    $a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('3 seconds')});
    return equal($a, $b);
}, conf => "synchronous_commit = off\nwal_writer_delay = '10s'\ncheckpoint_timeout = '1h'\n");

# All entries of an origin are pruned; only the base vector says that they were applied.
scenario('pruned progress', 'base-vector', sub {
    my ($a, $b) = @_;
    $a->safe_psql('postgres', q{INSERT INTO t SELECT g, repeat('x', 2000) FROM generate_series(1, 200) g});
    $a->safe_psql('postgres', qq{INSERT INTO t VALUES (1000 + $_, repeat('x', 7000))}) for 1 .. 40;
    wait_quiet($a, $b);
    # what a wrote is forgotten on b: only beats of a segment not yet full remain
    for my $i (1 .. 40)
    {
        last if $b->safe_psql('postgres', q{SELECT count(*) FROM cozesync.entries()
            WHERE origin <> cozesync.node_name()}) == 0;
        $b->safe_psql('postgres', qq{INSERT INTO t VALUES ($i + 2000, repeat('x', 7000))}) for 1 .. 3;
        wait_quiet($a, $b);
    }
    my $before = $b->safe_psql('postgres', 'SELECT cozesync.vector()');
    $b->restart;
    return $b->safe_psql('postgres', 'SELECT cozesync.vector()') eq $before && equal($a, $b);
}, at_start => 1);

# A long transaction has a chunk in a segment that everybody else is done with.
scenario('open segment', 'open-segment', sub {
    my ($a, $b) = @_;
    my $long = $a->background_psql('postgres');
    $long->query_safe(q{SET cozesync.capture_buffer = '16kB'; BEGIN;
        INSERT INTO t SELECT g, repeat('y', 1000) FROM generate_series(1, 30) g});
    my $fill = sub {
        for my $i (1 .. 60)
        {
            $a->safe_psql('postgres', qq{INSERT INTO t VALUES ($_[0] + $i, repeat('x', 7000))});
        }
        wait_quiet($a, $b);
    };
    $fill->(1000);
    # committed but on its way: the link is closed
    $a->safe_psql('postgres', 'SELECT cozesync.pause()');
    $long->query_safe('COMMIT');
    $long->quit;
    $b->safe_psql('postgres', q{SELECT count(*) FROM t});
    poll_until($a, q{SELECT count(*) >= 0 FROM cozesync.stats});
    $a->safe_psql('postgres', 'SELECT cozesync.debug_upkeep()');
    $a->safe_psql('postgres', 'SELECT cozesync.resume()');
    $a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('5 seconds')});
    return equal($a, $b);
});

done_testing();
