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

# --- bytes that are no batch, no greeting, no request -----------------------------------

for my $call (
    q{SELECT cozesync.receive('\x')}, q{SELECT cozesync.receive(NULL)},
    q{SELECT cozesync.hello('\x')}, q{SELECT cozesync.hello(decode(repeat('ff', 5000), 'hex'))},
    q{SELECT cozesync.hello('\x434f5a4500000001ffffffffffffffffffffffffffffffff')},
    q{CALL cozesync.send('\x', NULL)}, q{CALL cozesync.send('\xffffffffffffffffffffffff', '\x')})
{
    like(sql_error($b, $call), qr/ERROR:  (08P01|22|55)/, "refused: $call");
}

# --- two sessions of one peer: what is left of the older one's stream is refused ---------

$b->safe_psql('postgres', q{
    CREATE FUNCTION debug_batch(bigint, bigint, bigint) RETURNS bytea
        AS '$libdir/cozesync', 'coze_debug_batch' LANGUAGE C;
    CREATE FUNCTION debug_put(bigint, bool, bytea) RETURNS text
        AS '$libdir/cozesync', 'coze_debug_put' LANGUAGE C;
    CREATE TABLE result (n int, got text)});
my $origin = $b->safe_psql('postgres', q{SELECT origin FROM cozesync.member WHERE node_name = 'a'});
$a->safe_psql('postgres', q{SELECT cozesync.pause('b')});

# Entries that are here already, so that nothing comes of them.
my $put = "debug_put($origin, %s, debug_batch($origin, 0, 9000000000000000000))";
my $older = background($b, sprintf(qq{
    INSERT INTO result VALUES (1, $put);
    DO 'BEGIN WHILE NOT EXISTS (SELECT FROM result WHERE n = 2) LOOP
            PERFORM pg_sleep(0.01); COMMIT; END LOOP; END';
    INSERT INTO result VALUES (3, $put);}, 'true', 'false'));
poll_until($b, 'SELECT count(*) = 1 FROM result');
$b->safe_psql('postgres', sprintf("INSERT INTO result VALUES (2, $put)", 'true'));
$older->finish;
is($b->safe_psql('postgres', q{SELECT string_agg(got, ' ' ORDER BY n) FROM result}),
    'taken taken gap', 'only the stream that began last goes on');
$a->safe_psql('postgres', q{SELECT cozesync.resume('b')});
ok(wait_quiet($a, $b), 'and the link begins anew');

# --- what was queued is lost, and only the session before had sent it ---------------------

for my $mode (qw(push pull))
{
    exec_all("SELECT cozesync.set_link('a', 'b', '$mode')", $a);
    ok(wait_quiet($a, $b), "the link is $mode");
    debug_stop($b, 'apply-before-commit');
    $a->safe_psql('postgres', "INSERT INTO t VALUES (-10, '$mode') ON CONFLICT (id) DO UPDATE SET t = excluded.t");
    wait_stopped($b, 'apply-before-commit');
    my $worker = $mode eq 'push' ? $a : $b;
    my $pid = worker($worker, 'linker');
    $worker->safe_psql('postgres', "SELECT pg_terminate_backend($pid)") if $mode eq 'push';
    poll_until($a, qq{SELECT state = 'streaming' AND pid IS DISTINCT FROM $pid FROM cozesync.links
        WHERE source = 'a' AND target = 'b'});
    $b->safe_psql('postgres', 'SELECT pg_terminate_backend(' . worker($b, 'applier') . ')');
    debug_go($b, 'apply-before-commit');
    ok(wait_quiet($a, $b), "what is queued and lost comes again ($mode)");
}
exec_all(q{SELECT cozesync.set_link('a', 'b', 'push')}, $a);
ok(wait_quiet($a, $b), 'the link is push again');

# --- workers die ---------------------------------------------------------------------------

for my $kind (qw(applier linker launcher))
{
    my $pid = worker($b, $kind);
    $b->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
    poll_until($b, qq{SELECT count(*) = 3 AND bool_and(pid <> $pid) FROM pg_stat_activity
        WHERE backend_type IN ('cozesync applier', 'cozesync linker', 'cozesync launcher')});
    exec_all(q{UPDATE t SET t = t || 'y' WHERE id = 1}, $b);
    ok(wait_quiet($a, $b), "the $kind comes back");
}
is($b->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'cozesync linker'}), 1, 'there is one linker');

# --- the first batch ever comes while the applier starts --------------------------------------

my $c = new_node('c');
form_group($c, { schema => 'CREATE TABLE t (id int PRIMARY KEY, t text)' });
$c->safe_psql('postgres', q{
    CREATE FUNCTION debug_put(bigint, bool, bytea) RETURNS text
        AS '$libdir/cozesync', 'coze_debug_put' LANGUAGE C});
debug_stop($c, 'queue-before-restart');
my $applier = worker($c, 'applier');
$c->safe_psql('postgres', "SELECT pg_terminate_backend($applier)");
wait_stopped($c, 'queue-before-restart');
is($c->safe_psql('postgres', q{SELECT debug_put(1, true, '')}), 'taken', 'a stream begins before the applier is there');
debug_go($c, 'queue-before-restart');
my $d = new_node('d');
join_node($d, $c);
ok(wait_quiet($c, $d), 'what came too early is dropped, and all goes on');

# --- databases with links can be copied, renamed, dropped --------------------------------------

for my $mode (qw(push pull))
{
    $a->safe_psql('postgres', qq{SELECT cozesync.set_link('a', 'b', '$mode');
        SELECT cozesync.set_link('b', 'a', '$mode')});
    ok(wait_quiet($a, $b), "links are $mode");
    $a->safe_psql('template1', "CREATE DATABASE copy_$mode TEMPLATE postgres");
    $a->safe_psql('template1', 'ALTER DATABASE postgres RENAME TO other');
    $a->safe_psql('template1', 'ALTER DATABASE other RENAME TO postgres');
    $a->safe_psql('template1', "DROP DATABASE copy_$mode");
    $b->safe_psql('postgres', qq{INSERT INTO t VALUES (-1, '$mode') ON CONFLICT (id) DO UPDATE SET t = excluded.t});
    ok(wait_quiet($a, $b), "links come back afterwards ($mode)");
    same_rows([$a, $b], ['t']);

    # --- the server stops, though its peers would stay connected
    is(system('pg_ctl', '-s', '-w', '-t', 30, '-m', 'smart', '-D', $a->data_dir, 'stop'), 0,
        "smart shutdown ($mode)");
    $a->{_pid} = undef;
    $a->start;
    is(system('pg_ctl', '-s', '-w', '-t', 30, '-m', 'fast', '-D', $a->data_dir, 'stop'), 0,
        "fast shutdown ($mode)");
    $a->{_pid} = undef;
    $a->start;
    ok(wait_quiet($a, $b), "and all go on ($mode)");
}

done_testing();
