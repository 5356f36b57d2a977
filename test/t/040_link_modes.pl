# Links in every mode and topology carry changes, large ones too; pausing, crashing
# and freezing a peer loses nothing and holds nobody else up.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b, $c) = new_group(
    nodes => [qw(a b c)],
    schema => q{
        CREATE TABLE t (id int PRIMARY KEY, v text);
        CREATE TABLE big (id int PRIMARY KEY, v text)});
my @all = ($a, $b, $c);
my @tables = qw(t big);

sub links_of
{
    my ($node, $columns) = @_;
    return $node->safe_psql('postgres',
        "SELECT string_agg(concat_ws(' ', $columns), ', ' ORDER BY source, target) FROM cozesync.links");
}

# All directed links between these nodes get this mode; known everywhere when it returns.
sub set_links
{
    my ($mode, @pairs) = @_;
    $a->safe_psql('postgres', join ';', map { "SELECT cozesync.set_link('$_->[0]', '$_->[1]', '$mode')" } @pairs);
    ok(wait_sync($a), "links are set to $mode");
}

my $base = 0;

# Every node writes: small transactions, and one that is larger than a batch and its buffers.
sub write_everywhere
{
    for my $node (@all)
    {
        $base += 100_000;
        $node->safe_psql('postgres', qq{
            INSERT INTO t SELECT $base + g, 'small' FROM generate_series(1, 10) g;
            INSERT INTO t VALUES ($base + 50, 'one');
            UPDATE t SET v = 'two' WHERE id = $base + 50;
            BEGIN;
            INSERT INTO big SELECT $base + g, repeat(md5(g::text), 30) FROM generate_series(1, 1500) g;
            SAVEPOINT s; DELETE FROM big; ROLLBACK TO s;
            COMMIT});
    }
    ok(wait_sync(@all), 'in sync');
    same_rows(\@all, \@tables);
}

# A batch smaller than the large transactions, so that they span many.
$_->safe_psql('postgres', q{ALTER SYSTEM SET cozesync.batch_size = '256kB'}) for @all;
$_->reload for @all;

# --- mesh: push, pull, mixed ---------------------------------------------------------------

is(links_of($a, 'source, target, mode'), 'a b push, a c push, b a push, c a push', 'push is the default');
write_everywhere();
poll_until($_, q{SELECT bool_and(state = 'streaming') FROM cozesync.links}) for @all;
is(links_of($b, 'source, target, state, lag_transactions'),
    'a b streaming, b a streaming 0, b c streaming 0, c b streaming', 'all is quiet');

my @pairs = ([qw(a b)], [qw(b a)], [qw(a c)], [qw(c a)], [qw(b c)], [qw(c b)]);
set_links('pull', @pairs);
write_everywhere();
poll_until($c, q{SELECT bool_and(state = 'streaming') FROM cozesync.links});
is(links_of($c, 'source, target, mode, state'),
    'a c pull streaming, b c pull streaming, c a pull streaming, c b pull streaming', 'all pull');

set_links('push', [qw(a b)], [qw(b a)], [qw(c b)]);
write_everywhere();

# --- over others ------------------------------------------------------------------------------

set_links('off', [qw(a c)], [qw(c a)]);
write_everywhere();
is(links_of($a, 'source, target'), 'a b, b a', 'no direct link with c');
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('60 s', 'c')}), 't', 'c tells over b what it has');

# A ring in one direction: a -> b -> c -> a.
set_links('push', [qw(c a)]);
set_links('off', [qw(b a)], [qw(c b)]);
write_everywhere();
set_links('push', @pairs);

# --- a node that nobody can connect to ----------------------------------------------------------

$a->safe_psql('postgres', q{SELECT cozesync.set_dsn('b', NULL)});
ok(wait_sync($a), 'known everywhere');
poll_until($a, q{SELECT count(*) = 2 FROM cozesync.links WHERE 'b' IN (source, target) AND state = 'streaming'
    AND ((target = 'b' AND mode = 'pull') OR (source = 'b' AND mode = 'push'))});
is(links_of($a, 'source, target, mode'), 'a b pull, a c push, b a push, c a push', 'it makes its own connections');
write_everywhere();
$c->safe_psql('postgres', sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($b)));
ok(wait_sync($c), 'reachable again');

# --- pausing ---------------------------------------------------------------------------------------

$b->safe_psql('postgres', q{SELECT cozesync.pause(); SELECT cozesync.pause('a')});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (-1, 'while b is paused')});
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('60 s', 'c')}), 't', 'c has it');
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('200 ms')}), 'f', 'b does not');
is($b->safe_psql('postgres', q{SELECT count(*) FROM t WHERE id = -1}), 0, 'no row on b');
is(links_of($b, 'source, target, state'), 'a b paused, b a paused, b c paused, c b paused', 'b says so');
is($a->safe_psql('postgres', q{SELECT lag_transactions > 0 AND lag > '0' FROM cozesync.links WHERE target = 'b'}),
    't', 'what b lacks is counted');
$b->safe_psql('postgres', q{SELECT cozesync.resume('a')});
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('60 s', 'b')}), 't', 'b has it after resume');
$b->safe_psql('postgres', q{SELECT cozesync.resume()});
write_everywhere();

# --- crashes --------------------------------------------------------------------------------------------

for my $round (1 .. 2)
{
    # A server that is started meanwhile holds the other end of psql's input, so psql must quit itself.
    my $writer = background($a, join('', map { "INSERT INTO t VALUES ($_, 'crash');\n" }
        map { 5_000_000 + $round * 1000 + $_ } 1 .. 300) . "\\q\n");
    $b->stop('immediate');
    $b->start;
    my ($status, $out, $err) = $writer->finish;
    is($err, '', 'writes go on while b is down');
}
ok(wait_sync(@all), 'in sync after crashes');
same_rows(\@all, \@tables, 'nothing is lost');

# A linker that dies comes back.
$a->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'cozesync linker'});
write_everywhere();

# --- a frozen peer ------------------------------------------------------------------------------------------

my @frozen = split /\n/, $b->safe_psql('postgres',
    q{SELECT pid FROM pg_stat_activity WHERE application_name IN ('cozesync a', 'cozesync c') AND pid <> pg_backend_pid()});
kill 'STOP', @frozen;
$a->safe_psql('postgres', q{INSERT INTO t VALUES (-2, 'while b is frozen')});
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('60 s', 'c')}), 't', 'a frozen peer holds up nobody else');
kill 'CONT', @frozen;
write_everywhere();

done_testing();
