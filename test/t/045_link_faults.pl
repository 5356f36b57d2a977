# Links under faults: nothing that a peer does, or that happens to it, may end the
# linker, mix up a stream or keep this node from its other peers.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my ($a, $b) = new_pair(schema => 'CREATE TABLE t (id int PRIMARY KEY, t text)');

# Pids of the workers of a kind ("linker", "applier", "launcher").
sub worker
{
    my ($node, $kind) = @_;
    return $node->safe_psql('postgres',
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'cozesync $kind'");
}

# End the sessions that a peer's linker has here.
sub end_sessions
{
    my ($node) = @_;
    $node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE application_name LIKE 'cozesync %' AND backend_type = 'client backend'});
    return;
}

# --- the peer goes away between reading a batch from the log and sending it -------------

my $linker = worker($a, 'linker');
kill 'STOP', $linker;    # so that it meets this, and not a beat
$a->safe_psql('postgres', q{INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 9000) g});
debug_stop($a, 'link-before-send');
kill 'CONT', $linker;
wait_stopped($a, 'link-before-send');
end_sessions($b);
debug_go($a, 'link-before-send');
ok(wait_quiet($a, $b), 'a batch that cannot be sent goes over the next connection');
is(worker($a, 'linker'), $linker, 'the linker lives on');
same_rows([$a, $b], ['t']);

done_testing();
