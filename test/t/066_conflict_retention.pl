# What was purged from the conflict log does not come back when conflicts are decided again.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_pair(schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'start' FROM generate_series(1, 3) g});

sub on { my ($node, $sql) = @_; return $node->safe_psql('postgres', $sql) }

# The applier reads the log anew.
sub restart_applier
{
    my $pid = on($a, q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'cozesync applier'});
    on($a, "SELECT pg_terminate_backend($pid)");
    ok(poll_until($a, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cozesync applier' AND pid <> $pid"),
        'another applier');
    on($b, q{INSERT INTO t SELECT max(id) + 1, 'b' FROM t});
    ok(poll_until($a, q{SELECT count(*) = } . on($b, 'SELECT count(*) FROM t') . q{ FROM t}), 'applies');
    return;
}

ok(wait_quiet($a, $b), 'in sync');
my $log = q{SELECT count(*) FROM cozesync.conflicts};
my $purge = 'SELECT cozesync.purge_conflicts(clock_timestamp())';

# b does not hear of what a writes, so a may not forget it
on($a, q{SELECT cozesync.set_link('a', 'b', 'off')});
ok(poll_until($a, q{SELECT count(*) = 0 FROM cozesync.links WHERE target = 'b'}), 'nothing gets to b');
on($a, q{UPDATE t SET v = 'a' WHERE id = 1});
on($b, q{UPDATE t SET v = 'b' WHERE id = 1});
ok(poll_until($a, q{SELECT count(*) = 1 FROM cozesync.conflicts}), 'a conflict at a');
is(on($a, $purge), 0, 'which stays while it may be decided again');
restart_applier();
is(on($a, $log), 1, 'it is still there, once');
on($a, q{SELECT cozesync.set_link('a', 'b', 'push')});
ok(wait_quiet($a, $b), 'b hears of it');
ok(poll_until($a, q{SELECT cut >= (SELECT max(decided_hlc) FROM cozesync.conflict) FROM cozesync.local_node}), 'and it can be forgotten');
is(on($a, $purge), 1, 'then it goes');
restart_applier();
on($b, q{UPDATE t SET v = 'b again' WHERE id = 1});
ok(wait_quiet($a, $b), 'in sync');
is(on($a, $log), 0, 'and does not come back');
same_rows([ $a, $b ], ['t'], 'with the same rows');

done_testing();
