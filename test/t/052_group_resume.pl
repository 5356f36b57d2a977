# A join that is interrupted, wherever it is, goes on and ends like one that was not.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my $schema = q{
    CREATE TABLE big (id int PRIMARY KEY, u text UNIQUE, v text);
    CREATE TABLE mid (k1 text, k2 uuid, v numeric, PRIMARY KEY (k2, k1));
    CREATE TABLE zed (id int PRIMARY KEY, v text);
    INSERT INTO big SELECT g, 'u' || g, repeat('b', 500) FROM generate_series(1, 2000) g;
    INSERT INTO mid SELECT 'k' || g, md5(g::text)::uuid, g FROM generate_series(1, 1000) g;
    INSERT INTO zed SELECT g, 'z' FROM generate_series(1, 1000) g;};
my @tables = qw(big mid zed);
my ($a) = new_group(nodes => ['a'], schema => $schema);

sub start_join
{
    my ($node) = @_;
    return background($node, sprintf(q{CALL cozesync.join_group('%s', '%s', '%s')}, $node->name, node_dsn($node), node_dsn($a)));
}

# What happens on the donor between two attempts: every kind of change.
my $round = 0;
sub change_on_donor
{
    $round++;
    $a->safe_psql('postgres', qq{
        UPDATE big SET v = 'round $round' WHERE id % 100 = $round;
        UPDATE big SET id = id + 10000 WHERE id = 20 + $round;
        DELETE FROM big WHERE id = 30 + $round;
        INSERT INTO big SELECT 20000 + 10 * $round + g, 'new' || $round || g, 'n' FROM generate_series(1, 5) g;
        BEGIN; UPDATE big SET u = 'swap' WHERE id = 50; UPDATE big SET u = 'fifty ' || $round WHERE id = 51;
        UPDATE big SET u = 'fifty-one ' || $round WHERE id = 50; COMMIT;
        UPDATE mid SET k1 = 'moved $round' WHERE v = $round;
        DELETE FROM mid WHERE v = 500 + $round;
        TRUNCATE zed; INSERT INTO zed SELECT g, 'round $round' FROM generate_series(1, 100) g;});
}

# Stop the joiner's process at a point, kill it in some way, change things, let it go on.
sub interrupted
{
    my ($name, $point, $how) = @_;
    my $node = new_node($name);

    debug_stop($node, $point);
    my $join = start_join($node);
    ok(wait_stopped($node, $point), "$name: stopped at $point");
    change_on_donor();
    if ($how eq 'cancel')
    {
        $node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL cozesync%'});
        debug_go($node, $point);
        $join->finish;
    }
    elsif ($how eq 'terminate')
    {
        $node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL cozesync%'});
        debug_go($node, $point);
        $join->finish;
    }
    else
    {
        $node->stop('immediate');
        $join->finish;
        $node->start;
    }
    isnt($node->safe_psql('postgres', 'SELECT state FROM cozesync.nodes WHERE is_local'), 'ready', "$name: not ready")
        if $how ne 'crash';
    like(sql_error($node, q{INSERT INTO big VALUES (-1)}), qr/55000|42P01/, "$name: not to be written to")
        if $how ne 'crash';
    change_on_donor();
    # after a crash a background worker may have taken over
    my ($status, $out, $err) = start_join($node)->finish if $how ne 'crash';
    poll_until($node, q{SELECT state = 'ready' FROM cozesync.nodes WHERE is_local}) or diag($err);
    ok(wait_quiet($a, $node), "$name: in sync");
    same_rows([ $a, $node ], \@tables, "$name: interrupted at $point by $how");
    is($node->safe_psql('postgres', 'SELECT count(*) FROM cozesync.conflicts'), 0, "$name: no conflict");
    return $node;
}

my @nodes = ($a);
push @nodes, interrupted('b', 'join-admitted', 'terminate');
push @nodes, interrupted('c', 'join-table-copied', 'cancel');
push @nodes, interrupted('d', 'join-table-done', 'terminate');
push @nodes, interrupted('e', 'join-table-done', 'crash');
push @nodes, interrupted('f', 'join-before-takeover', 'terminate');
push @nodes, interrupted('g', 'join-before-ready', 'crash');

ok(wait_quiet(@nodes), 'all in sync');
same_rows(\@nodes, \@tables, 'all that were interrupted are the same');
is($_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.nodes WHERE state = 'ready'}), 7, 'seven nodes on ' . $_->name)
    for @nodes;

# Not interrupted, but changed under its hands: nothing on the donor waits for the joiner, not
# even TRUNCATE, and the stream brings what the snapshot does not show.
my $late = new_node('late');
debug_stop($late, 'join-table-done');
my $slow = start_join($late);
ok(wait_stopped($late, 'join-table-done'), 'late: stopped in the middle');
change_on_donor();
debug_go($late, 'join-table-done');
is(($slow->finish)[0], 0, 'late: joined');
ok(wait_quiet($a, $late), 'late: in sync');
same_rows([ $a, $late ], \@tables, 'late: what changed while tables were copied');

# The donor goes away in the middle.
my $h = new_node('h');
debug_stop($h, 'join-table-done');
my $join = start_join($h);
ok(wait_stopped($h, 'join-table-done'), 'h: stopped in the middle');
$a->stop('immediate');
debug_go($h, 'join-table-done');
my ($status, $out, $err) = $join->finish;
isnt($status, 0, 'h: the call fails when the donor is gone');
$a->start;
change_on_donor();
($status, $out, $err) = start_join($h)->finish;
is($status, 0, 'h: and goes through when it is back') or diag($err);
ok(wait_quiet($a, $h), 'h: in sync');
same_rows([ $a, $h ], \@tables, 'h: the donor crashed meanwhile');

# Given up: the database is free again, and so is the name.
my $i = new_node('i');
debug_stop($i, 'join-table-done');
$join = start_join($i);
ok(wait_stopped($i, 'join-table-done'), 'i: stopped in the middle');
$i->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL cozesync%'});
debug_go($i, 'join-table-done');
$join->finish;
like(sql_error($i, sprintf(q{CALL cozesync.join_group('other', '%s', '%s')}, node_dsn($i), node_dsn($a))),
    qr/55000.*already joining a group as node "i"/s, 'i: another name is refused');
$i->safe_psql('postgres', 'SELECT cozesync.leave_group()');
$i->safe_psql('postgres', 'INSERT INTO big VALUES (-1)');
$i->safe_psql('postgres', 'TRUNCATE big, mid, zed');
join_node($i, $a);
ok(wait_quiet($a, $i), 'i: in sync');
same_rows([ $a, $i ], \@tables, 'i: left in the middle and joined again');

done_testing();
